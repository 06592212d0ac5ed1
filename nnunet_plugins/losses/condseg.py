"""The losses of ConDSeg's two stages, for K classes or regions.

A mask M of the paper is a foreground probability. Here it has K maps: the softmax over classes, whose binary
cross-entropy is cross-entropy, or the sigmoid of every region.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    dice_and_cross_entropy,
    masked,
    masked_mean,
    segmentation_cross_entropy,
    sum_over_processes,
)

MAX_BETA = 100.0


class DecoupledOutputs(Protocol):
    """Outputs of a network that :class:`ConDSegLoss` can judge."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def decoupled(self) -> Tensor | None: ...


class ConDSegLoss(PluginLoss):
    """``mask(M1) + mask(M2) + cons`` (eq. 7) or ``mask + beta1 * fg + beta2 * bg + compl`` (eq. 15).

    Which one follows from the network's outputs: two views of every sample in stage 1 with consistency reinforcement;
    foreground, background and uncertainty in stage 2. Without either, ``mask`` alone is left.

    Args:
        label_format: the dataset's.
        batch_dice: one Dice for the batch (under DDP that of all processes) instead of one for each sample.
    """

    def __init__(self, label_format: LabelFormat, *, batch_dice: bool = True):
        super().__init__(label_format)
        self.batch_dice = batch_dice

    def terms(self, outputs: Tensor | DecoupledOutputs, target: Target) -> dict[str, Tensor]:
        """Return the terms of eq. 7 or 15.

        Args:
            outputs: logits ``(B, K, H, W)``, or ``(2B, K, H, W)`` of the images and then of their augmented views; or a
                ``ConDSegOutput`` of such and ``(B, 3, H, W)`` logits of SID.
            target: one-hot maps and mask of the B images.
        """
        logits, decoupled = (outputs, None) if isinstance(outputs, Tensor) else (outputs.logits, outputs.decoupled)
        terms = self.mask_terms(logits.split(len(target.one_hot)), target)
        if decoupled is not None:
            terms |= self.decoupling_terms(decoupled, target)
        return terms

    def mask_terms(self, views: Sequence[Tensor], target: Target) -> dict[str, Tensor]:
        """``mask`` of the only view, or ``mask1``, ``mask2`` and ``cons`` of two, each ``(B, K, H, W)`` logits."""
        masks = [self.mask_loss(view, target, softmax=self.softmax) for view in views]
        if len(views) == 1:
            return {"mask": masks[0]}
        first, second = views
        consistency = consistency_loss(first, second, target.mask, softmax=self.softmax)
        return {"mask1": masks[0], "mask2": masks[1], "cons": consistency}

    def decoupling_terms(self, decoupled: Tensor, target: Target) -> dict[str, Tensor]:
        """``beta1 * fg``, ``beta2 * bg`` (eq. 9) and ``compl`` (eq. 10) of ``(B, 3, H, W)`` logits."""
        foreground = foreground_target(target, self.label_format)
        fg, bg, _ = decoupled.split(1, 1)
        return {
            "beta1 * fg": self.penalised_mask_loss(fg, foreground),
            "beta2 * bg": self.penalised_mask_loss(bg, complement(foreground)),
            "compl": complementarity_loss(decoupled, target.mask),
        }

    def mask_loss(self, logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
        """BCE and Dice, eq. 2-4."""
        return torch.stack(dice_and_cross_entropy(logits, target, softmax=softmax, batch_dice=self.batch_dice)).sum()

    def penalised_mask_loss(self, logits: Tensor, target: Target) -> Tensor:
        """``beta * mask`` of one binary map, ``(B, 1, H, W)`` logits; eq. 9."""
        beta = penalty(logits, target.mask, over_processes=self.batch_dice)
        return beta * self.mask_loss(logits, target, softmax=False)


def consistency_loss(first: Tensor, second: Tensor, mask: Tensor | None, *, softmax: bool) -> Tensor:
    """Cross-entropy of each of two predictions with the other one, binarised; eq. 5-6.

    With the threshold t = 1/2, which for classes means the most probable one. ``(B, K, H, W)`` logits to a scalar.
    """
    losses = [
        segmentation_cross_entropy(logits, Target(binarized(other, mask, softmax=softmax), mask), softmax=softmax)
        for logits, other in ((first, second), (second, first))
    ]
    return 0.5 * torch.stack(losses).sum()


def binarized(logits: Tensor, mask: Tensor | None, *, softmax: bool) -> Tensor:
    """B(M, t) of eq. 5, without a gradient: ``(B, K, H, W)`` logits to 0 and 1, and to 0 where ``mask`` is 0."""
    if softmax:
        maps = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    else:
        maps = (logits >= 0).to(logits.dtype)
    return maps if mask is None else maps * mask


def foreground_target(target: Target, label_format: LabelFormat) -> Target:
    """Binary target ``(B, 1, H, W)`` of everything but the background: the union of all classes or regions."""
    if label_format.regions:
        return Target(target.one_hot.amax(1, keepdim=True), target.mask)
    return Target(target.one_hot[:, 1:].sum(1, keepdim=True), target.mask)


def complement(target: Target) -> Target:
    """Target ``(B, K, H, W)`` of everything that each map leaves out and that is annotated."""
    return masked(1 - target.one_hot, target.mask)


def penalty(logits: Tensor, mask: Tensor | None, *, over_processes: bool = False) -> Tensor:
    """``beta = 1 / tanh(mean predicted area)`` of ``(B, 1, H, W)`` logits, eq. 9, at most 100.

    Deviation: a weight without a gradient, which would ask for larger areas instead of better ones.

    Args:
        logits: ``(B, 1, H, W)``.
        mask: ``(B, 1, H, W)``, 1 where annotated; ``None`` if everything is.
        over_processes: take the mean over the batches of all DDP processes.

    Example:
        >>> round(penalty(torch.zeros(1, 1, 2, 2), None).item(), 3)  # 1 / tanh(0.5)
        2.164
    """
    area = logits.detach().sigmoid()
    mask = torch.ones_like(area) if mask is None else mask
    sums = torch.stack([(area * mask).sum(), mask.sum()])
    predicted, annotated = sum_over_processes(sums) if over_processes else sums
    return 1 / (predicted / annotated.clamp_min(1)).tanh().clamp_min(1 / MAX_BETA)


def complementarity_loss(decoupled: Tensor, mask: Tensor | None) -> Tensor:
    """Overlap of the masks of foreground, background and uncertainty, ``(B, 3, H, W)`` logits to a scalar; eq. 10.

    The masks are the sigmoids of eq. 9. Three separate ones can all be 0, and their overlap is at most 3: where
    foreground or background is certain, uncertainty is pushed down. A softmax would leave it alone where it prevails.
    """
    foreground, background, uncertainty = decoupled.sigmoid().split(1, 1)
    products = foreground * background + foreground * uncertainty + background * uncertainty
    return masked_mean(products, mask)
