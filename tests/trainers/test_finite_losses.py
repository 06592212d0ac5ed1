"""Proves: a training whose loss is no number ends with the reason, and keeps the checkpoint that was good."""

from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import HALVES, MAIN_TRAINERS
from nnunet_plugins.trainers.checkpoints import readable

pytestmark = pytest.mark.usefixtures("results", "narrow", "no_pictures")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)


@pytest.fixture
def images_with_nan(monkeypatch):
    """Preprocessed images of which the cases named hold a voxel that is no number."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    damaged, load_case = set(), nnUNetDatasetBlosc2.load_case

    def load(self, identifier):
        data, *rest = load_case(self, identifier)
        if identifier in damaged:
            values = np.array(data[:])
            values[:, :, ::2, ::2] = np.nan
            data = blosc2.asarray(values)
        return data, *rest

    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", load)
    return damaged


ALL_CASES = {f"case{case}" for case in range(10)}


@pytest.mark.parametrize("base", [*(name for name in MAIN_TRAINERS if name not in HALVES), "nnUNetTrainer"])
def test_nan_in_the_images_ends_the_training_and_names_their_cases(base, images_with_nan):
    images_with_nan.update(ALL_CASES)
    trainer = make_trainer(f"{base}_3epochs_9iterations", LABELS)
    steps, train_step = [], trainer.train_step
    trainer.train_step = lambda batch: steps.append(batch["keys"]) or train_step(batch)
    with pytest.raises(UserError) as refused:
        trainer.run_training()
    sentence = str(refused.value)
    assert sentence.startswith("The training ends in epoch 0, for its loss is no number")
    assert len(steps) == 1
    assert "the images of " + ", ".join(sorted({str(case) for keys in steps for case in keys})) in sentence
    assert "it has no checkpoint yet" in sentence
    assert sentence in Path(trainer.log_file).read_text()
    assert not list(Path(trainer.output_folder).glob("*.pth"))


def with_losses(trainer, losses, monkeypatch, skipped=False):
    """Let the training's steps have these losses, one after the other, and 1 after them.

    A loss that is no number makes all weights NaN, unless the gradient scaler has skipped the step.
    """
    remaining = iter(losses)
    train_step = type(trainer).__mro__[-2].train_step  # nnU-Net's

    def step(self, batch):
        loss = next(remaining, 1.0)
        if np.isfinite(loss) or skipped:
            return {"loss": np.array(loss)}
        with torch.no_grad():
            for parameter in trainer.network.parameters():
                parameter.fill_(np.nan)
        return {"loss": np.array(loss)}

    assert train_step.__qualname__ == "nnUNetTrainer.train_step"
    monkeypatch.setattr(type(trainer).__mro__[-2], "train_step", step)


def test_weights_that_are_no_numbers_never_replace_a_good_checkpoint(monkeypatch):
    """The second epoch ends with two such steps, fewer than end a training."""
    trainer = make_trainer("nnUNetTrainer_3epochs_4iterations", LABELS)
    trainer.save_every = 1
    with_losses(trainer, [1, 1, 1, 1, 1, 1, np.nan, np.inf], monkeypatch)
    with pytest.raises(UserError, match=r"epoch 1, .*numbers only; .*checkpoint_latest.pth \(after epoch 0\)"):
        trainer.run_training()
    kept = readable(Path(trainer.output_folder, "checkpoint_latest.pth"))
    assert kept.epochs == 1
    assert kept.finite


@pytest.mark.parametrize("base", ["DLKUNetSTrainer", "nnUNetTrainer"])
def test_weights_that_a_finite_loss_has_made_nan_are_not_saved_either(base):
    trainer = make_trainer(f"{base}_3epochs_1iterations", LABELS)
    trainer.save_every = 1
    on_train_epoch_end = trainer.on_train_epoch_end

    def spoil(outputs):
        on_train_epoch_end(outputs)
        if trainer.current_epoch == 1:
            next(trainer.network.parameters()).data.fill_(np.nan)

    trainer.on_train_epoch_end = spoil
    with pytest.raises(
        UserError, match=r"epoch 1, for weights of its network are no numbers .*latest.pth \(after epoch 0"
    ):
        trainer.run_training()
    assert readable(Path(trainer.output_folder, "checkpoint_latest.pth")).finite


def test_a_step_that_the_gradient_scaler_skips_leaves_no_trace_in_the_running_statistics():
    """The forward pass has spoilt batch normalisation's before the scaler sees a gradient."""
    trainer = make_trainer("DLKUNetSTrainer_3epochs_3iterations", LABELS)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    weights = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.optimizer.step = lambda *args, **kwargs: None
    norm = next(module for module in trainer.network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    overflow = norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] * np.nan,))
    assert not np.isfinite(trainer.train_step(batch)["loss"])
    overflow.remove()
    assert all(torch.isfinite(value).all() for value in trainer.network.buffers())
    assert all(map(torch.equal, weights, trainer.network.parameters()))
    assert any(name.endswith("running_var") for name in trainer.running_statistics)
    trainer.network.eval()
    assert torch.isfinite(trainer.network(batch["data"])).all()


def test_single_steps_that_a_gradient_scaler_skips_are_logged_and_no_reason_to_stop(monkeypatch):
    trainer = make_trainer("nnUNetTrainer_3epochs_9iterations", LABELS)
    with_losses(trainer, [np.inf, np.nan, np.nan, np.nan, 1, np.nan, 1, np.nan], monkeypatch, skipped=True)
    trainer.run_training()
    assert Path(trainer.output_folder, "checkpoint_final.pth").is_file()
    assert "the loss of 6 training steps of this epoch was no number" in Path(trainer.log_file).read_text()


def test_five_in_a_row_end_it_across_epochs(monkeypatch):
    trainer = make_trainer("nnUNetTrainer_3epochs_3iterations", LABELS)
    trainer.disable_checkpointing = True
    with_losses(trainer, [1, *[np.nan] * 8], monkeypatch)
    with pytest.raises(UserError, match=r"epoch 1, .*in 5 steps in a row"):
        trainer.run_training()
