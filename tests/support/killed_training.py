"""Trainings in processes of their own, which may be killed on the way; importable by spawned processes."""

import os
import signal

import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from support import cell_datasets
from support.narrow import narrow_networks


def train(environment: dict[str, str], name: str, resume: bool, last: tuple[int, str] | None) -> None:
    """Train as ``nnUNetv2_train [--c]`` does; SIGKILL in an epoch, when the method with that name is called."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    narrow_networks()
    trainer = cell_datasets.make_trainer(name, cell_datasets.LABELS, continue_training=resume)
    trainer.save_every = 1
    maybe_load_checkpoint(trainer, continue_training=resume, validation_only=False)
    if last is not None:
        epoch, method = last
        kill_in(trainer, epoch, method)
    trainer.run_training()


def kill_in(trainer, epoch: int, method: str) -> None:
    original = getattr(trainer, method)

    def dying(*arguments):
        if trainer.current_epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(trainer, method, dying)
