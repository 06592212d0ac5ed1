"""Proves: the trainers that CONTRIBUTING.md and the pages print as examples work as printed.

nnU-Net finds the one of CONTRIBUTING.md, which has a network of its own; it trains and predicts.
"""

import os
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, make_trainer
from support.repository import REPOSITORY

from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.safe_training import SafeTraining

SECTION = "## A trainer in a folder of your own"
PYTHON_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = {
    page.name: code
    for page in sorted((REPOSITORY / "docs").glob("*.md"))
    for code in PYTHON_CODE.findall(page.read_text())
}


@pytest.fixture
def example(tmp_path) -> Path:
    """A user's folder with the example's file."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    (code,) = PYTHON_CODE.findall(section)
    folder = tmp_path / "my_trainers"
    folder.mkdir()
    (folder / "tiny.py").write_text(code)
    return folder


@pytest.fixture
def few_cells(tmp_path, monkeypatch) -> None:
    """A planned dataset of five images."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)
    cell_datasets.write_raw_dataset(LABELS, num_cases=5)
    cell_datasets.plan_and_preprocess([LABELS])


def test_the_example_of_contributing_trains_and_predicts(example, few_cells, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(example), DISCOVERY_FOLDER]))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = make_trainer("TinyTrainer_1epoch_1iterations", LABELS)
    assert isinstance(trainer, PluginTrainer)
    trainer.run_training()
    log = trainer.logger.get_checkpoint()
    assert len(log["train_losses"]) == 1
    assert np.isfinite(log["train_losses"] + log["val_losses"]).all()
    assert log["lrs"] == [1e-3]
    trainer.perform_actual_validation()
    assert len(list(Path(trainer.output_folder, "validation").glob("*.png"))) == 1
    checkpoint = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=False)
    assert checkpoint["trainer_name"] == "TinyTrainer_1epoch_1iterations"


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_example_of_a_page_is_a_trainer_with_a_network(page):
    names: dict[str, type] = {"__name__": "my_trainers"}
    exec(EXAMPLES[page], names)
    (trainer,) = [found for found in names.values() if getattr(found, "__module__", None) == "my_trainers"]
    assert issubclass(trainer, (PluginTrainer, SafeTraining))
    if issubclass(trainer, PluginTrainer):
        with torch.device("meta"):
            assert sum(parameter.numel() for parameter in trainer.reference_network().parameters())


def test_the_pages_of_methods_have_examples():
    assert {"condseg.md", "dcsnet.md", "drgo.md", "medfusion_transnet.md", "own_trainers.md"} <= set(EXAMPLES)
