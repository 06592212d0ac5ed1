"""The mixtures of Dice and cross-entropy with which DLKUNet is trained, section 4.4 of its paper.

The weights of a mixture are a function of the epoch (0, 1, ..., the paper's first is 1) and the number of epochs alone:
shorter and longer trainings than the paper's 400 epochs go through the same weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    dice_and_cross_entropy,
    full_resolution,
    split_target,
)


class MixtureWeights(NamedTuple):
    """Eq. 10."""

    alpha: float
    """Of the Dice loss."""
    beta: float
    """Of cross-entropy."""


def ordinary_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Eq. 7: both alike, always."""
    return MixtureWeights(1.0, 1.0)


def phase_based_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Eq. 11: (0.6, 0.4) in the first half of the training, (0.7, 0.3) in the second."""
    return MixtureWeights(0.6, 0.4) if 2 * epoch < num_epochs else MixtureWeights(0.7, 0.3)


def dynamic_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Eq. 12-13: alpha falls from 1 to A, beta rises from B to 1, in a sigmoid around the middle of the training.

    Its slope k is 0.1 for the paper's 400 epochs, and scaled so that the curve is the same for any number.
    """
    a, b, x0, k = 0.3, 0.7, 0.5 * num_epochs, 40 / num_epochs
    early = 1 - 1 / (1 + math.exp(-k * (epoch - x0)))
    return MixtureWeights(a + (1 - a) * early, 1 + (b - 1) * early)


SCHEDULES: dict[str, Callable[[int, int], MixtureWeights]] = {
    "ordinary": ordinary_weights,
    "phase_based": phase_based_weights,
    "dynamic": dynamic_weights,
}


class DiceCrossEntropyLoss(PluginLoss):
    """``alpha * Dice + beta * cross-entropy``, eq. 10, with the weights of a schedule.

    Dice and cross-entropy are nnU-Net's: for labels of the softmax, Dice without the background; for regions of the
    sigmoid. Both leave out what carries the ignore label.

    Deviation: where regions meet an ignore label, cross-entropy is the mean over all maps of the annotated pixels, as
    it is without one; nnU-Net divides by the number of pixels alone, which makes it K times larger.

    Args:
        label_format: of the dataset.
        schedule: a key of ``SCHEDULES``.
        batch_dice: one Dice for the batch (under DDP that of all processes) instead of one for each sample.

    Raises:
        ValueError: no such schedule.
    """

    def __init__(self, label_format: LabelFormat, *, schedule: str = "phase_based", batch_dice: bool = True):
        super().__init__()
        self.label_format = label_format
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
        self.schedule = SCHEDULES[schedule]
        self.batch_dice = batch_dice

    @property
    def weights(self) -> MixtureWeights:
        """Those of this epoch."""
        return self.schedule(self.epoch, self.num_epochs)

    def forward(self, logits: Tensor, targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Total loss for ``(B, K, *S)`` logits and nnU-Net's full-resolution target."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, softmax = logits.float(), not self.label_format.regions
            target = split_target(full_resolution(targets), logits.shape[1], self.label_format)
            dice, cross_entropy = dice_and_cross_entropy(logits, target, softmax=softmax, batch_dice=self.batch_dice)
            alpha, beta = self.weights
            return self.total({"alpha * dice": alpha * dice, "beta * cross_entropy": beta * cross_entropy})
