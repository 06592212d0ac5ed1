"""A raw dataset of a few names, and suites of it, for tests of commands that train nothing."""

from functools import partial

import pytest
from support.benchmark_commands import never
from support.cell_datasets import use_nnunet_folders
from support.suite_files import write_short_suite

from nnunet_plugins.benchmark.jobs import engine, remaining
from nnunet_plugins.files import write_json

SUITE = """
name = "tiny"
trainers = {trainers}
reference = "nnUNetTrainer"
epochs = 5
folds = [0, 1]
datasets = [{{ id = {dataset}, configurations = ["{configuration}"] }}]
[resources]
device = "{device}"
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """nnU-Net's folders with a raw dataset that is only described."""
    use_nnunet_folders(tmp_path, monkeypatch)
    dataset = {"channel_names": {"0": "R"}, "labels": {"background": 0, "cell": 1}, "numTraining": 6}
    write_json(tmp_path / "nnUNet_raw" / "Dataset501_Cells" / "dataset.json", dataset | {"file_ending": ".png"})
    return tmp_path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of nnU-Net with the datasets of ``TWO_DATASETS``: a raw one and a preprocessed one, both empty."""
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / folder))
    (tmp_path / "raw" / "Dataset001_Cells").mkdir(parents=True)
    (tmp_path / "preprocessed" / "Dataset002_Nuclei").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def suite_file(root):
    def write(trainers=("nnUNetTrainer",), dataset=501, configuration="2d", device="cpu"):
        path = root / "suite.toml"
        text = SUITE.format(trainers=list(trainers), dataset=dataset, configuration=configuration, device=device)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def nothing_starts(monkeypatch):
    monkeypatch.setattr(engine, "run_suite", never)
    monkeypatch.setattr(remaining, "dry_run", never)


@pytest.fixture
def short_suite(tmp_path):
    """``short_suite(section, key, value)``: a short valid suite but for one value."""
    return partial(write_short_suite, tmp_path)
