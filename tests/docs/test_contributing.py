"""Proves: nnU-Net finds the trainer that CONTRIBUTING.md prints as an example; it trains and predicts as printed."""

import os
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.trainers.base import PluginTrainer

REPOSITORY = Path(__file__).parents[2]
SECTION = "## A trainer in a folder of your own"


@pytest.fixture
def example(tmp_path) -> Path:
    """A user's folder with the example's file."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
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
