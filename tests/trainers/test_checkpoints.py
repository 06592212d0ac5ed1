"""Proves: checkpoints that cannot be read or written are named, with what goes on without them, and nothing is lost."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import CHECKPOINTS
from nnunet_plugins.trainers.checkpoints import readable

pytestmark = pytest.mark.usefixtures("results", "narrow", "no_pictures")

OURS, STOCK = "DLKUNetSTrainer_3epochs_1iterations", "nnUNetTrainer_3epochs_1iterations"
FINAL, LATEST, BEST = CHECKPOINTS


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)


class Stopped(Exception):
    """Stands for the end of the process."""


@pytest.fixture(params=[OURS, STOCK])
def interrupted(request, monkeypatch) -> Path:
    """The fold of a training that was stopped after two of its three epochs, with checkpoints of both."""
    trainer = make_trainer(request.param, LABELS)
    trainer.save_every = 1
    monkeypatch.setattr(trainer, "on_train_end", stop)
    monkeypatch.setattr(trainer, "on_epoch_end", saving_both(trainer, trainer.on_epoch_end))
    with pytest.raises(Stopped):
        trainer.run_training()
    assert {path.name for path in Path(trainer.output_folder).glob("*.pth")} == {LATEST, BEST}
    return Path(trainer.output_folder)


def stop():
    raise Stopped


def saving_both(trainer, on_epoch_end):
    """Make the second epoch the best one's successor, and the last."""

    def hook():
        if trainer.current_epoch == 1:
            trainer._best_ema = 2.0
        on_epoch_end()
        if trainer.current_epoch == 2:
            raise Stopped

    return hook


def go_on(folder: Path):
    trainer = make_trainer(folder.parent.name.split("__")[0], LABELS, continue_training=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    return trainer


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no checkpoint": lambda path: torch.save([1, 2], path),
    "text": lambda path: path.write_text("not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_one_that_comes_next(interrupted, damage):
    DAMAGES[damage](interrupted / LATEST)
    with pytest.raises(UserError) as refused:
        go_on(interrupted)
    sentence = str(refused.value)
    assert sentence.startswith(f"{interrupted / LATEST} cannot be read (")
    assert sentence.endswith(f"move it out of the folder; --c then goes on from {BEST} (after epoch 0).")
    assert "\n" not in sentence
    (interrupted / LATEST).rename(interrupted.parent / LATEST)
    assert go_on(interrupted).current_epoch == 1  # as the sentence says


def test_checkpoints_that_are_all_damaged_are_all_named(interrupted):
    for name in (LATEST, BEST):
        (interrupted / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"move it, and with it {BEST} out of the folder; --c then begins anew"):
        go_on(interrupted)


def test_an_error_in_loading_a_checkpoint_that_is_whole_stays_as_it_is(interrupted):
    content = torch.load(interrupted / LATEST, weights_only=False)
    content["network_weights"] = {"other": torch.zeros(1)}
    torch.save(content, interrupted / LATEST)
    with pytest.raises(RuntimeError, match="state_dict"):
        go_on(interrupted)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_looking_for_a_checkpoint_runs_no_code_from_its_file(interrupted, tmp_path):
    content = torch.load(interrupted / LATEST, weights_only=False) | {"more": Command(tmp_path / "executed")}
    torch.save(content, interrupted / LATEST)
    assert readable(interrupted / LATEST) is None
    assert not (tmp_path / "executed").exists()


def test_what_to_do_after_an_early_end_never_leads_to_an_earlier_training(interrupted):
    """A training that begins anew over the checkpoints of another must not go on from those."""
    (interrupted / LATEST).rename(interrupted / FINAL)
    trainer = make_trainer(interrupted.parent.name.split("__")[0], LABELS)
    trainer.initialize()
    assert trainer.how_to_go_on() == "it has saved no checkpoint yet, so begin again with the same command"
    trainer.save_checkpoint(str(interrupted / BEST))
    assert trainer.how_to_go_on().startswith(
        f"move {FINAL}, of an earlier training, out of the folder, then the same command with --c goes on from {BEST}"
    )


def test_every_process_of_a_training_on_several_gpus_knows_the_checkpoints(interrupted):
    """The first one writes them; whichever meets an error first tells how to go on."""
    trainer = make_trainer(interrupted.parent.name.split("__")[0], LABELS)
    trainer.initialize()
    trainer.local_rank = 1
    trainer.save_checkpoint(str(interrupted / LATEST))
    assert trainer.how_to_go_on().startswith(f"the same command with --c goes on from {LATEST}")


# ---- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files():
    """``small_files(size)``: no file of this process can grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", [OURS, STOCK])
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(name, small_files, monkeypatch):
    trainer = make_trainer(name, LABELS)
    trainer.save_every = 1
    on_epoch_start = trainer.on_epoch_start

    def fill_the_disk():
        if trainer.current_epoch == 1:
            small_files(100_000)
        on_epoch_start()

    monkeypatch.setattr(trainer, "on_epoch_start", fill_the_disk)
    with pytest.raises(UserError) as refused:
        trainer.run_training()
    sentence = str(refused.value)
    assert sentence.startswith(f"{Path(trainer.output_folder, LATEST)} cannot be written (")
    assert sentence.endswith(f"the same command with --c goes on from {LATEST} (after epoch 0).")
    assert sentence in Path(trainer.log_file).read_text()
    assert not list(Path(trainer.output_folder).glob("*partial*"))
    assert go_on(Path(trainer.output_folder)).current_epoch == 1


def test_a_full_disk_elsewhere_in_the_folder_is_told_too(monkeypatch):
    trainer = make_trainer(OURS, LABELS)

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", f"{folder}/progress.png")

    monkeypatch.setattr(trainer.logger, "plot_progress_png", full)
    with pytest.raises(UserError, match=r"progress.png cannot be written \(No space left on device\).*checkpoint_best"):
        trainer.run_training()
