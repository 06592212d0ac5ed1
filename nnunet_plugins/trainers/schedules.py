"""Learning rates as functions of the epoch or of the log: nothing to save, nothing lost when a training resumes."""

import math
from bisect import insort
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Protocol

from torch.optim import Optimizer

STANDARD_ERRORS = 3.0
"""Certainty with which a declining loss is told from a plateau."""
NORMAL_MEDIAN = 1.4826
"""Standard deviation of normally distributed numbers of which the median of the absolute values is 1."""
COOLDOWN = 0.2
"""Share of the epochs over which rates that fell on plateaus go to their end."""
ROUNDING = 1e-9
"""Relative difference of sums that is none."""


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
    """Learning rates that fall where the validation loss does not, replayed from the log before every epoch.

    Deviation: torch's ``ReduceLROnPlateau`` counts epochs without a record. nnU-Net's validation loss is a mean over 50
    random batches, whose noise keeps records away from a loss that still falls; see :func:`plateaus` for what counts
    here. And over the last fifth of the epochs all rates go towards 0, in equal steps: few plateaus are found in a
    noisy loss, and nnU-Net predicts with the last iterate, where the authors keep the best.

    Args:
        optimizer: whose groups' present rates are those at the start of the training.
        losses: the validation losses of all epochs so far, those before a resume included.
        factor: by which a plateau multiplies the rates.
        patience: fewest epochs without a better loss before it does.
        num_epochs: of the training.
        min_lr: rate below which none falls.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        losses: Callable[[], Sequence[float]],
        factor: float,
        patience: int,
        num_epochs: int,
        min_lr: float = 1e-7,
    ):
        self.optimizer = optimizer
        self.losses = losses
        self.factor = factor
        self.patience = patience
        self.num_epochs = num_epochs
        self.min_lr = min_lr
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        found = plateaus(self.losses()[:epoch], self.factor, self.patience, self.num_epochs)
        left = min(1, (1 - epoch / self.num_epochs) / COOLDOWN)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = max(lr * self.factor**found * left, min(lr, self.min_lr))


def plateaus(losses: Sequence[float], factor: float, patience: int, num_epochs: int) -> int:
    """Count the plateaus of validation losses: as many epochs as before, and no smaller mean.

    The mean of n epochs is compared with that of the n before it, none of them before the last plateau. n is the
    patience, or longer: so many epochs that both means differ by three standard errors if the loss falls by
    ``1 / num_epochs`` of itself in every epoch, or by ``factor`` of that after each plateau, as the rates do. A decline
    that would matter in what remains of the training is thus no plateau, however noisy the loss is. Losses that are not
    finite count for nothing; noise is a share of the loss, which is positive.

    Example:
        >>> plateaus([3, 2, 1, 1, 1, 1, 1], factor=0.5, patience=2, num_epochs=100)
        1
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    noise, sums = relative_noise(finite), [0.0, *accumulate(finite)]
    found = start = 0
    for end in range(2 * patience, len(finite) + 1):
        decline = factor**found / num_epochs
        n = max(patience, math.ceil((STANDARD_ERRORS * math.sqrt(2) * noise[end - 1] / decline) ** (2 / 3)))
        if end - start < 2 * n:
            continue
        last, before = sums[end] - sums[end - n], sums[end - n] - sums[end - 2 * n]
        if last >= before - ROUNDING * abs(before):
            found, start = found + 1, end
    return found


def relative_noise(losses: Sequence[float]) -> list[float]:
    """Estimate a loss's noise after each epoch, as a share of the loss, from the changes between epochs so far.

    Their median bears a few large changes, as in the first epochs.
    """
    changes: list[float] = []
    noise = [0.0]
    for before, after in pairwise(losses):
        size = (abs(before) + abs(after)) / 2
        insort(changes, abs(after - before) / size if size else 0.0)
        noise.append(NORMAL_MEDIAN * changes[len(changes) // 2] / math.sqrt(2))
    return noise
