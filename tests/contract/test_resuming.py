"""Proves for every way to begin with weights: a training that was interrupted and resumed equals one that was not."""

import pytest
import torch
from support.cell_datasets import LABELS, VOLUMES, make_trainer

pytestmark = pytest.mark.usefixtures("results", "no_progress_pictures")


class Killed(Exception):
    """Stands for the end of the process."""


def test_resumed_training_equals_an_uninterrupted_one(loading_trainer_name, tmp_path, monkeypatch):
    check_resuming(loading_trainer_name, LABELS, tmp_path, monkeypatch)


@pytest.mark.slow
def test_resumed_training_of_volumes_equals_an_uninterrupted_one(main_trainer_name_3d, tmp_path, monkeypatch):
    """ConDSeg's second stage begins where the first epoch ends, and its training is resumed there."""
    check_resuming(main_trainer_name_3d, VOLUMES, tmp_path, monkeypatch)


def check_resuming(trainer_name, dataset_id, tmp_path, monkeypatch) -> None:
    from nnunetv2.run.run_training import maybe_load_checkpoint

    name = f"{trainer_name}_2epochs_2iterations"
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "5")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "whole"))
    whole = make_trainer(name, dataset_id)
    whole.disable_checkpointing = True
    whole.run_training()

    monkeypatch.setenv("nnUNet_results", str(tmp_path / "resumed"))
    interrupted = make_trainer(name, dataset_id)
    interrupted.save_every = 1
    monkeypatch.setattr(interrupted, "on_epoch_start", raise_in_epoch_1(interrupted))
    with pytest.raises(Killed):
        interrupted.run_training()

    for variable in ("NNUNET_PLUGINS_WEIGHTS", "NNUNET_PLUGINS_STAGE1"):
        monkeypatch.delenv(variable)  # what the checkpoint replaces must not be loaded again
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resumed = make_trainer(name, dataset_id, continue_training=True)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 1
    resumed.disable_checkpointing = True
    resumed.run_training()

    resumed_weights = resumed.network.state_dict()
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed_weights[key]), key
    logged = [trainer.logger.get_checkpoint() for trainer in (whole, resumed)]
    for key in ("lrs", "train_losses", "val_losses", "ema_fg_dice"):
        assert logged[0][key] == logged[1][key]


def raise_in_epoch_1(trainer):
    on_epoch_start = trainer.on_epoch_start

    def hook() -> None:
        if trainer.current_epoch == 1:
            raise Killed
        on_epoch_start()

    return hook
