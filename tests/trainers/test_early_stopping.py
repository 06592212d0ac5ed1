"""Proves: any trainer can end after N epochs without a better validation loss, and ``--c`` then has nothing to do."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.run.run_training import maybe_load_checkpoint
from support.cell_datasets import LABELS, initialized_trainer

from nnunet_plugins.files import digest
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.early_stopping import epochs_without_improvement

pytestmark = pytest.mark.usefixtures("results", "narrow")

STOPPING = ("nnUNetTrainer_earlyStop3", "DRGOTrainer_earlyStop3", "ConDSegNet0Trainer_earlyStop3")


def test_epochs_without_improvement_are_those_since_the_best():
    assert epochs_without_improvement([]) == 0
    assert epochs_without_improvement([3.0, 2.0, 2.0, 2.5]) == 2
    assert epochs_without_improvement([3.0, 2.0, 1.0]) == 0
    assert epochs_without_improvement([1.0, math.nan, math.nan]) == 2


@given(st.lists(st.floats(), min_size=1))
def test_the_best_loss_lies_as_many_epochs_back(losses):
    since = epochs_without_improvement(losses)
    best = min((loss for loss in losses if loss < math.inf), default=None)
    assert since == (len(losses) if best is None else len(losses) - 1 - losses.index(best))


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(name, losses)``: a trainer whose epochs take no time, and have these validation losses."""

    def trainer(name, losses):
        made = initialized_trainer(f"{name}_8epochs_1iterations", LABELS)
        monkeypatch.setattr(made, "train_step", lambda batch: {"loss": np.array(1.0)})
        outcome = {"tp_hard": np.ones(2), "fp_hard": np.ones(2), "fn_hard": np.ones(2)}
        monkeypatch.setattr(
            made, "validation_step", lambda batch: outcome | {"loss": np.array(losses[made.current_epoch])}
        )
        monkeypatch.setattr(made, "on_train_epoch_end", lambda outputs: made.logger.log("train_losses", 1.0, 0))
        return made

    return trainer


def resumed(trainer):
    """A trainer as ``nnUNetv2_train --c`` makes it, for the fold of another."""
    again = initialized_trainer(type(trainer).__name__, LABELS)
    maybe_load_checkpoint(again, continue_training=True, validation_only=False)
    return again


def logged(trainer) -> str:
    return Path(trainer.log_file).read_text()


def num_epochs(trainer) -> int:
    return len(trainer.logger.get_value("val_losses", step=None))


@pytest.mark.parametrize("name", STOPPING)
def test_training_ends_after_the_patience_and_saves_its_final_checkpoint(scripted, name):
    trainer = scripted(name, [3.0, 1.0, 2.0, 1.0, 1.5, 0.5, 0.5, 0.5])
    trainer.run_training()
    assert num_epochs(trainer) == 5
    assert "The training ends after epoch 4: no better validation loss in 3 epochs." in logged(trainer)
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == 5


@pytest.mark.parametrize("name", STOPPING)
def test_training_whose_loss_falls_goes_on_to_the_last_epoch(scripted, name):
    trainer = scripted(name, [8.0, 8.0, 8.0, 7.0, 8.0, 6.0, 6.0, 6.0])
    trainer.run_training()
    assert num_epochs(trainer) == 8
    assert "no better validation loss" not in logged(trainer)


@pytest.mark.parametrize("name", STOPPING)
def test_continuing_a_training_that_has_ended_changes_nothing_and_says_so(scripted, name):
    trainer = scripted(name, [1.0] * 8)
    trainer.run_training()
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    before = digest(checkpoint)
    again = resumed(trainer)
    again.run_training()
    assert num_epochs(again) == 4 and digest(checkpoint) == before
    assert logged(again).rstrip().endswith("no better validation loss in 3 epochs. Nothing is left to train.")


def test_training_killed_before_its_last_checkpoint_gets_it(scripted):
    trainer = scripted("nnUNetTrainer_earlyStop3", [1.0] * 8)
    trainer.save_every = 1
    trainer.on_train_end = lambda: None  # killed
    trainer.run_training()
    assert not Path(trainer.output_folder, "checkpoint_final.pth").exists()
    resumed(trainer).run_training()
    assert Path(trainer.output_folder, "checkpoint_final.pth").is_file()
    assert not Path(trainer.output_folder, "checkpoint_latest.pth").exists()


def test_condsegs_first_stage_never_ends_a_training(scripted):
    trainer = scripted("ConDSegTrainer_earlyStop2", [1.0, 2.0, 9.0, 9.0, 8.0, 9.0, 9.0, 9.0])
    assert trainer.num_stage_1_epochs == 2
    trainer.run_training()
    assert num_epochs(trainer) == 7


def test_dcsnets_paper_has_a_patience_of_twenty():
    assert find_trainer("DCSNetTrainer_earlyStop").early_stopping_patience == 20
    assert find_trainer("DCSNetTrainer_earlyStop5").early_stopping_patience == 5
    assert find_trainer("DCSNetTrainer").early_stopping_patience is None
