"""The mixtures of Dice and cross-entropy with which DLKUNet is trained, section 4.4 of its paper.

The weights of a mixture are a function of the epoch (0, 1, ..., the paper's first is 1) and the number of epochs alone:
shorter and longer trainings than the paper's 400 epochs go through the same weights.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from nnunet_plugins.losses.common import LabelFormat, PluginLoss, Target, dice_and_cross_entropy


class MixtureWeights(NamedTuple):
    """Weights of a mixture of Dice and cross-entropy, eq. 10."""

    alpha: float
    """Weight of the Dice loss."""
    beta: float
    """Weight of cross-entropy."""


def ordinary_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Return the same weight for both in every epoch, eq. 7."""
    return MixtureWeights(1.0, 1.0)


def phase_based_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Return (0.6, 0.4) in the first half of the training and (0.7, 0.3) in the second, eq. 11.

    Example:
        >>> [phase_based_weights(epoch, num_epochs=4).alpha for epoch in range(4)]
        [0.6, 0.6, 0.7, 0.7]
    """
    return MixtureWeights(0.6, 0.4) if 2 * epoch < num_epochs else MixtureWeights(0.7, 0.3)


def dynamic_weights(epoch: int, num_epochs: int, middle: float = 0.5) -> MixtureWeights:
    """Let alpha fall from 1 to A and beta rise from B to 1, in a sigmoid around the middle of the training; eq. 12-13.

    Its slope k is 0.1 for the paper's 400 epochs, and scaled so that the curve is the same for any number; ``middle``
    is x0 as a share of them.

    Example:
        >>> dynamic_weights(200, num_epochs=400).beta
        0.85
    """
    a, b, x0, k = 0.3, 0.7, middle * num_epochs, 40 / num_epochs
    early = 1 - 1 / (1 + math.exp(-k * (epoch - x0)))
    return MixtureWeights(a + (1 - a) * early, 1 + (b - 1) * early)


def dynamic_acdc_weights(epoch: int, num_epochs: int) -> MixtureWeights:
    """Let alpha rise from B to 1 and beta fall from 1 to A: eq. 12-13 with the two losses exchanged.

    So the authors train on ACDC, and so section 4.4 describes later stages; its equations raise cross-entropy. Their
    code has k = 0.1 and a middle x0 of 100 or 150 epochs. Of the paper's 400 that is a quarter or three eighths; here
    it is the latter, which is nearer to the paper's "typically" one half. For any number of epochs the curve is the
    same.

    Example:
        >>> dynamic_acdc_weights(150, num_epochs=400).alpha
        0.85
    """
    falling, rising = dynamic_weights(epoch, num_epochs, middle=0.375)
    return MixtureWeights(alpha=rising, beta=falling)


SCHEDULES: dict[str, Callable[[int, int], MixtureWeights]] = {
    "ordinary": ordinary_weights,
    "phase_based": phase_based_weights,
    "dynamic": dynamic_weights,
    "dynamic_acdc": dynamic_acdc_weights,
}


class DiceCrossEntropyLoss(PluginLoss):
    """``alpha * Dice + beta * cross-entropy``, eq. 10, with the weights of a schedule.

    Dice and cross-entropy are nnU-Net's: for labels those of the softmax, Dice without the background; for regions
    those of the sigmoid. Both leave out what carries the ignore label.

    Deviation: where regions meet an ignore label, cross-entropy is the mean over all maps of the annotated pixels, as
    it is without one; nnU-Net divides by the number of pixels alone, which makes it K times larger.

    Args:
        label_format: the dataset's.
        schedule: a key of ``SCHEDULES``.
        batch_dice: one Dice for the batch (under DDP that of all processes) instead of one for each sample.

    Raises:
        ValueError: no such schedule.
    """

    def __init__(self, label_format: LabelFormat, *, schedule: str = "phase_based", batch_dice: bool = True):
        super().__init__(label_format)
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
        self.schedule = SCHEDULES[schedule]
        self.batch_dice = batch_dice

    @property
    def weights(self) -> MixtureWeights:
        """Weights of this epoch; in validation those of the last."""
        return self.schedule(self.epoch_of_schedule, self.num_epochs)

    def terms(self, outputs: Tensor, target: Target) -> dict[str, Tensor]:
        """Return the two weighted terms of ``(B, K, *S)`` logits."""
        dice, cross_entropy = dice_and_cross_entropy(outputs, target, softmax=self.softmax, batch_dice=self.batch_dice)
        alpha, beta = self.weights
        return {"alpha * dice": alpha * dice, "beta * cross_entropy": beta * cross_entropy}
