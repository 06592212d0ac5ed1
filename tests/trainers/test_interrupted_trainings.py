"""Proves for the papers' trainers and nnU-Net's: a training that is killed while it writes a checkpoint loses nothing.

``tests/kills.py`` kills twenty at random, and ``docs/interruptions.md`` has its table.
"""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from support import killed_training
from support.killed_training import differences, prepared_trainer

from nnunet_plugins.trainers import HALVES, MAIN_TRAINERS

pytestmark = pytest.mark.usefixtures("results", "narrow")

SEEDED = {"NNUNET_PLUGINS_SEED": "4"}
STOCK = "nnUNetTrainer_3epochs_1iterations"


@pytest.fixture(autouse=True)
def as_in_a_process(monkeypatch):
    """Compute in this process as in those that are killed."""
    torch.set_num_threads(1)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)
    for variable, value in SEEDED.items():
        monkeypatch.setenv(variable, value)


def train_and_die(name, last, resume=False):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_training.train, args=(dict(os.environ), name, resume, last)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def resumed(name):
    trainer = prepared_trainer({}, name, resume=True)
    epoch = trainer.current_epoch
    trainer.run_training()
    return epoch, Path(trainer.output_folder)


def names_of(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize("main_trainer", [name for name in MAIN_TRAINERS if name not in HALVES])
def test_a_training_killed_in_the_middle_of_a_checkpoint_ends_as_one_that_was_not(main_trainer, tmp_path, monkeypatch):
    name = f"{main_trainer}_3epochs_1iterations"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "whole"))
    prepared_trainer({}, name, resume=False).run_training()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "killed"))
    train_and_die(name, last=(1, "torch.save"))
    epoch, folder = resumed(name)
    assert epoch == 1
    assert differences(tmp_path / "killed", tmp_path / "whole", epochs=3) == []
    assert not names_of(folder, "*partial*")


def test_nnunets_own_trainer_of_any_length_goes_on_too():
    train_and_die(STOCK, last=(1, "torch.save"))
    assert resumed(STOCK)[0] == 1


def test_drgo_goes_on_with_the_importance_that_belongs_to_the_checkpoint(tmp_path, monkeypatch):
    """It is killed after the checkpoint was saved, and before its importance has taken the older one's place."""
    name = "DRGOTrainer_3epochs_1iterations"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "whole"))
    prepared_trainer({}, name, resume=False).run_training()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "killed"))
    train_and_die(name, last=(1, "put_importance_in_place"))
    epoch, folder = resumed(name)
    assert epoch == 2
    assert "was stopped while it saved" not in "".join(log.read_text() for log in folder.glob("training_log*"))
    assert differences(tmp_path / "killed", tmp_path / "whole", epochs=3) == []
