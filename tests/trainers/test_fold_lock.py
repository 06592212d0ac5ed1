"""Proves: a fold is trained by one process at a time; the second is told which, and has changed nothing."""

import errno
import fcntl
import os
import platform
from pathlib import Path

import pytest
from support.cell_datasets import LABELS, make_trainer
from support.holders import HOLD, line, process

from nnunet_plugins.errors import UserError
from nnunet_plugins.locks import is_locked
from nnunet_plugins.trainers.fold_lock import LOCK

pytestmark = pytest.mark.usefixtures("results", "narrow")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)


@pytest.mark.parametrize("base", ["DRGOTrainer", "DLKUNetSTrainer", "nnUNetTrainer"])
def test_a_second_training_of_a_fold_is_refused_and_leaves_all_as_it_is(base, monkeypatch):
    trainer = make_trainer(f"{base}_3epochs_1iterations", LABELS)
    folder = Path(trainer.output_folder)
    (folder / ".checkpoint_latest.pth.1.partial").mkdir()  # the first training is writing it
    monkeypatch.setattr(trainer, "on_train_start", lambda: pytest.fail("it has begun"))
    with process(HOLD, folder / LOCK) as first:
        assert line(first) == "held"
        before = sorted(folder.iterdir())
        with pytest.raises(UserError) as refused:
            trainer.run_training()
        assert sorted(folder.iterdir()) == before
    sentence = str(refused.value)
    assert f"{folder} is being trained by process {first.pid} on {platform.node()}: wait" in sentence
    assert sentence in Path(trainer.log_file).read_text()


@pytest.mark.parametrize("base", ["DLKUNetSTrainer", "nnUNetTrainer"])
def test_with_weights_and_biases_a_second_training_is_refused_before_its_run_is_begun(base, monkeypatch):
    name = f"{base}_3epochs_1iterations"
    folder = Path(make_trainer(name, LABELS).output_folder)
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    with process(HOLD, folder / LOCK) as first:
        assert line(first) == "held"
        with pytest.raises(UserError, match=f"is being trained by process {first.pid}"):
            make_trainer(name, LABELS)


def test_another_fold_can_be_trained_meanwhile():
    first, second = (make_trainer("DLKUNetSTrainer_3epochs_1iterations", LABELS, fold=fold) for fold in (0, 1))
    with process(HOLD, Path(first.output_folder, LOCK)) as holder:
        assert line(holder) == "held"
        second.run_training()
    assert Path(second.output_folder, "checkpoint_final.pth").is_file()


def test_a_fold_is_locked_while_it_is_trained_and_free_afterwards(monkeypatch):
    trainer = make_trainer("DLKUNetSTrainer_3epochs_1iterations", LABELS)
    path = Path(trainer.output_folder, LOCK)
    seen = []
    monkeypatch.setattr(trainer, "on_train_end", lambda: seen.append(locked_for_others(path)))
    trainer.run_training()
    assert seen == [True]
    assert not is_locked(path)


def locked_for_others(path: Path) -> bool:
    """Whether a process other than this one finds the file locked."""
    child = os.fork()
    if child == 0:
        os._exit(int(is_locked(path)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_file_system_without_locks_is_logged_once_and_no_reason_to_stop(monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    trainer = make_trainer("DLKUNetSTrainer_3epochs_1iterations", LABELS)
    trainer.run_training()
    assert Path(trainer.output_folder, "checkpoint_final.pth").is_file()
    assert Path(trainer.log_file).read_text().count("cannot be locked (No locks available)") == 1
