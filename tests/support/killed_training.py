"""Trainings in processes of their own, which may be killed on the way; importable by spawned processes."""

import io
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from support import cell_datasets
from support.narrow import narrow_networks

ORIGINAL_SAVE = torch.save
CURVES = ("lrs", "train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")


def train(environment: dict[str, str], name: str, resume: bool, last: tuple[int, str] | None) -> None:
    """Train as ``nnUNetv2_train [--c]`` does; SIGKILL in an epoch, when the method with that name is called.

    ``torch.save`` is such a name too: it writes half of the checkpoint first.
    """
    trainer = prepared_trainer(environment, name, resume)
    if last is not None:
        epoch, method = last
        kill_in(trainer, epoch, method)
    trainer.run_training()


def train_and_tell(environment: dict[str, str], name: str, resume: bool, messages: Connection) -> None:
    """Train likewise, and send ``epoch`` and ``save`` when an epoch and the writing of a checkpoint begin."""
    MetaLogger.plot_progress_png = lambda *arguments: None  # half a second after every epoch
    trainer = prepared_trainer(environment, name, resume)
    for method, message in (("on_epoch_start", "epoch"), ("save_checkpoint", "save")):
        before_each_call(trainer, method, partial(tell, messages, message))
    trainer.run_training()


def tell(messages: Connection, message: str, *arguments: Any) -> None:
    messages.send(message)


def prepared_trainer(environment: dict[str, str], name: str, resume: bool) -> Any:
    os.environ.update(environment)
    torch.set_num_threads(1)
    narrow_networks()
    trainer = cell_datasets.make_trainer(name, cell_datasets.LABELS, continue_training=resume)
    trainer.save_every = 1
    maybe_load_checkpoint(trainer, continue_training=resume, validation_only=False)
    return trainer


def kill_in(trainer: Any, epoch: int, method: str) -> None:
    def in_that_epoch(die: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: die(*arguments) if trainer.current_epoch == epoch else None

    if method == "torch.save":
        before_each_call(torch, "save", in_that_epoch(write_half_and_die))
    else:
        before_each_call(trainer, method, in_that_epoch(die))


def before_each_call(owner: Any, name: str, action: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def wrapper(*arguments: Any, **options: Any) -> Any:
        action(*arguments)
        return original(*arguments, **options)

    setattr(owner, name, wrapper)


def write_half_and_die(content: Any, path: str) -> None:
    whole = io.BytesIO()
    ORIGINAL_SAVE(content, whole)
    Path(path).write_bytes(whole.getvalue()[: whole.tell() // 2])
    die()


def die(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def differences(folder: Path, expected: Path, epochs: int) -> list[str]:
    """Where a finished training differs from another one: weights, optimiser, log; or from its number of epochs."""
    found, whole = (
        torch.load(next(root.rglob("checkpoint_final.pth")), weights_only=False) for root in (folder, expected)
    )
    different = [
        key for key, value in whole["network_weights"].items() if not torch.equal(value, found["network_weights"][key])
    ]
    for number, state in whole["optimizer_state"]["state"].items():
        pairs = [(value, found["optimizer_state"]["state"][number][key]) for key, value in state.items()]
        different += [f"optimiser {number}" for ours, theirs in pairs if not torch.equal(ours, theirs)]
    different += [key for key in CURVES if found["logging"][key] != whole["logging"][key]]
    different += [f"{key} of too few epochs" for key in CURVES if len(found["logging"][key]) != epochs]
    return different + (["best average"] if found["_best_ema"] != whole["_best_ema"] else [])
