"""A dataset that the steps themselves have planned and preprocessed, and a run of it that each test may change."""

import shutil

import pytest
from support import cell_datasets
from support.cell_datasets import LABELS
from support.tiny_suite import NUM_CASES, ONE_TRAINER

from nnunet_plugins.benchmark.jobs.preparation import plan, preprocess
from nnunet_plugins.benchmark.runs import Run, runs


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        cell_datasets.write_raw_dataset(LABELS, NUM_CASES)
        cell_datasets.extract_fingerprint(LABELS)
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # as trainings may have it
        plan(ONE_TRAINER, runs(ONE_TRAINER)[0])
        preprocess(ONE_TRAINER, runs(ONE_TRAINER)[0])
    return root


@pytest.fixture
def run(prepared, tmp_path, monkeypatch) -> Run:
    """The first run, in folders that the test may change."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    return runs(ONE_TRAINER)[0]
