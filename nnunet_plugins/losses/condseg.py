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
    full_resolution,
    masked,
    masked_mean,
    segmentation_cross_entropy,
    split_target,
    sum_over_processes,
)

MAX_BETA = 100.0


class DecoupledOutputs(Protocol):
    """What :class:`ConDSegLoss` needs of the network's outputs."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def decoupled(self) -> Tensor | None: ...


class ConDSegLoss(PluginLoss):
    """``mask(M1) + mask(M2) + cons`` (eq. 7) or ``mask + beta1 * fg + beta2 * bg + compl`` (eq. 15).

    Which one follows from what the network hands over: two views of every sample in stage 1 with consistency
    reinforcement, foreground, background and uncertainty in stage 2. Where there is neither, ``mask`` alone is left.
    """

    def __init__(self, label_format: LabelFormat, *, batch_dice: bool = True):
        super().__init__()
        self.label_format = label_format
        self.batch_dice = batch_dice

    def forward(self, outputs: Tensor | DecoupledOutputs, targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Total loss.

        Args:
            outputs: logits ``(B, K, H, W)``, or ``(2B, K, H, W)`` of the images and then of their augmented views; or a
                ``ConDSegOutput`` of such and ``(B, 3, H, W)`` logits of SID.
            targets: nnU-Net's (list of one) full-resolution target for the B images.
        """
        logits, decoupled = (outputs, None) if isinstance(outputs, Tensor) else (outputs.logits, outputs.decoupled)
        labels, softmax = full_resolution(targets), not self.label_format.regions
        with torch.autocast(logits.device.type, enabled=False):
            target = split_target(labels, logits.shape[1], self.label_format)
            views = logits.float().split(labels.shape[0])
            masks = [self.mask_loss(view, target, softmax=softmax) for view in views]
            terms = {"mask": masks[0]}
            if len(views) == 2:
                consistency = consistency_loss(views[0], views[1], target.mask, softmax=softmax)
                terms = {"mask1": masks[0], "mask2": masks[1], "cons": consistency}
            if decoupled is not None:
                terms |= self.decoupling_terms(decoupled.float(), target)
            return self.total(terms)

    def mask_loss(self, logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
        """BCE and Dice, eq. 2-4."""
        return torch.stack(dice_and_cross_entropy(logits, target, softmax=softmax, batch_dice=self.batch_dice)).sum()

    def penalised_mask_loss(self, logits: Tensor, target: Target) -> Tensor:
        beta = penalty(logits, target.mask, over_processes=self.batch_dice)
        return beta * self.mask_loss(logits, target, softmax=False)

    def decoupling_terms(self, decoupled: Tensor, target: Target) -> dict[str, Tensor]:
        """``beta1 * fg``, ``beta2 * bg`` (eq. 9) and ``compl`` (eq. 10) of ``(B, 3, H, W)`` logits."""
        foreground = foreground_target(target, self.label_format)
        fg, bg, _ = decoupled.split(1, 1)
        return {
            "beta1 * fg": self.penalised_mask_loss(fg, foreground),
            "beta2 * bg": self.penalised_mask_loss(bg, complement(foreground)),
            "compl": complementarity_loss(decoupled, target.mask),
        }


def consistency_loss(first: Tensor, second: Tensor, mask: Tensor | None, *, softmax: bool) -> Tensor:
    """Cross-entropy of each of two predictions with the other one, binarised; eq. 5-6.

    With the threshold t = 1/2, which for classes means the most probable one. ``(B, K, H, W)`` logits to a scalar.
    """
    references = [Target(binarized(x, mask, softmax=softmax), mask) for x in (second, first)]
    losses = [
        segmentation_cross_entropy(logits, reference, softmax=softmax)
        for logits, reference in zip((first, second), references, strict=True)
    ]
    return 0.5 * torch.stack(losses).sum()


def binarized(logits: Tensor, mask: Tensor | None, *, softmax: bool) -> Tensor:
    """B(M, t) of eq. 5, without a gradient: ``(B, K, H, W)`` of 0 and 1, 0 where ``mask`` is."""
    if softmax:
        maps = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    else:
        maps = (logits >= 0).to(logits.dtype)
    return maps if mask is None else maps * mask


def foreground_target(target: Target, label_format: LabelFormat) -> Target:
    """What is not background: ``(B, 1, H, W)``."""
    if label_format.regions:
        return Target(target.one_hot.amax(1, keepdim=True), target.mask)
    return Target(target.one_hot[:, 1:].sum(1, keepdim=True), target.mask)


def complement(target: Target) -> Target:
    return masked(1 - target.one_hot, target.mask)


def penalty(logits: Tensor, mask: Tensor | None, *, over_processes: bool = False) -> Tensor:
    """``beta = 1 / tanh(mean predicted area)``, eq. 9, at most 100; of the batches of all DDP processes, if asked for.

    Deviation: a weight without a gradient, which would ask for larger areas instead of better ones.
    """
    area = logits.detach().sigmoid()
    mask = torch.ones_like(area) if mask is None else mask
    sums = torch.stack([(area * mask).sum(), mask.sum()])
    predicted, annotated = sum_over_processes(sums) if over_processes else sums
    return 1 / (predicted / annotated.clamp_min(1)).tanh().clamp_min(1 / MAX_BETA)


def complementarity_loss(decoupled: Tensor, mask: Tensor | None) -> Tensor:
    """Eq. 10 of the softmax over foreground, background and uncertainty: 0 if one of them is certain, at most 1/3."""
    foreground, background, uncertainty = decoupled.softmax(1).split(1, 1)
    products = foreground * background + foreground * uncertainty + background * uncertainty
    return masked_mean(products, mask)
