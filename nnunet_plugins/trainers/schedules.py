"""Learning rates as functions of the epoch or of the log: nothing to save, nothing lost when a training resumes."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Schedule(Protocol):
    """Interface that nnU-Net expects of a schedule of learning rates."""

    def step(self, epoch: int) -> None:
        """Set the learning rates of ``epoch``; nnU-Net calls this before the epoch."""


class EpochSchedule:
    """Learning rates as a pure function of the epoch, the same factor for every group of parameters.

    Args:
        optimizer: whose groups' present rates are those at the start of the training.
        factor: of the rates after a share (0 .. 1) of the epochs.
        num_epochs: of the training.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[float], float], num_epochs: int):
        self.optimizer = optimizer
        self.factor = factor
        self.num_epochs = num_epochs
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * self.factor(epoch / self.num_epochs)


class PlateauSchedule:
    """torch's :class:`ReduceLROnPlateau`, replayed from the log before every epoch.

    Args:
        optimizer: whose groups' present rates are those at the start of the training.
        losses: the validation losses of all epochs so far, those before a resume included.
        factor: by which a plateau multiplies the rates.
        patience: epochs without a better loss before it does.
    """

    def __init__(self, optimizer: Optimizer, losses: Callable[[], Sequence[float]], factor: float, patience: int):
        self.optimizer = optimizer
        self.losses = losses
        self.factor = factor
        self.patience = patience
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr
        plateau = ReduceLROnPlateau(self.optimizer, factor=self.factor, patience=self.patience)
        for loss in self.losses()[:epoch]:
            plateau.step(loss)
