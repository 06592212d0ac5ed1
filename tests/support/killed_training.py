"""A training in a process of its own, that may be killed on the way; importable by spawned processes."""

import os
import signal

import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunet_plugins.architectures import ConDSeg
from nnunet_plugins.trainers import find_trainer
from support import cell_datasets


def make_small() -> dict:
    """Attributes of a ConDSeg trainer with a network of 2.3 M parameters, which is saved after every epoch."""
    ConDSeg.__init__.__kwdefaults__["channels"] = 16
    return {"network_kwargs": {"backbone": "resnet10t"}, "save_every": 1}


def train(environment: dict[str, str], name: str, resume: bool, last: tuple[int, str] | None) -> None:
    """Train as ``nnUNetv2_train [--c]`` does; SIGKILL in an epoch, when the method with that name is called."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    for attribute, value in make_small().items():
        setattr(find_trainer(name), attribute, value)
    trainer = cell_datasets.make_trainer(name, cell_datasets.LABELS, continue_training=resume)
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
