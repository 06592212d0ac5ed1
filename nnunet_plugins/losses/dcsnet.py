"""The losses of DCSNet: of the segmentation inside boxes, for K classes or regions, and of the detector.

The paper's masks are binary. Here they are the K maps of a softmax over classes, or the sigmoid of every region; of two
classes, Dice, focal loss, boundary and consistency are the paper's of the foreground alone.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.boxes import crop_boxes
from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    masked,
    masked_mean,
    segmentation_cross_entropy,
    soft_dice_loss,
    to_probabilities,
)

FOCUS = 2
"""Exponent of the focal loss (Lin et al., 2017), which has no weights of classes: in its box an object is not rare."""

LAPLACIAN = ((1.0, 1.0, 1.0), (1.0, -8.0, 1.0), (1.0, 1.0, 1.0))

LEVEL_WEIGHTS = ((0.3, (1.0, 0.8, 0.6, 0.4)), (0.6, (0.8, 0.9, 1.0, 1.1)), (1.0, (0.7, 0.8, 0.9, 1.0)))
"""Share of the training until which the weights ``w_2 ... w_5`` hold; from the authors' code.

Section 3.4 wants weights that are "progressively increased for lower-resolution outputs", section 4.2 that they change
over the epochs: here each level weighs ever more against the next finer one as the training goes on, and from 30 % on
more than it. The fifth number of the authors' list is that of the main output, which eq. 11 gives a weight of 1.
"""


class SegmentsOfBoxes(Protocol):
    """Predictions in N boxes that :class:`DCSNetLoss` can judge: logits ``(N, K, S, S)``."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def levels(self) -> tuple[Tensor, ...]: ...
    @property
    def edges(self) -> Tensor: ...


class DetectionOutputs(Protocol):
    """Outputs of a network that :class:`DCSNetLoss` can judge; they begin with logits ``(B, K, H, W)``.

    Everything here is ``None`` if the network was given images without annotation.
    """

    @property
    def segments(self) -> SegmentsOfBoxes | None: ...
    @property
    def boxes(self) -> Tensor | None: ...
    @property
    def weights(self) -> Tensor | None: ...
    @property
    def detection_losses(self) -> Mapping[str, Tensor] | None: ...


class DCSNetLoss(PluginLoss):
    """``seg(main) + sum of w_j seg(D_j) + 0.2 edge + 0.05 cons`` (eq. 11) in boxes, and the detector's own losses.

    Args:
        label_format: the dataset's.
        batch_dice: one Dice for all boxes (under DDP those of all processes) instead of one for each box.
    """

    edge_weight = 0.2  # lambda_1, section 4.2
    consistency_weight = 0.05  # lambda_2

    def __init__(self, label_format: LabelFormat, *, batch_dice: bool = True):
        super().__init__(label_format)
        self.batch_dice = batch_dice

    @property
    def level_weights(self) -> tuple[float, ...]:
        """Weights ``w_2 ... w_5`` of this epoch; in validation the last."""
        progress = self.epoch_of_schedule / self.num_epochs
        return next((weights for end, weights in LEVEL_WEIGHTS if progress < end), LEVEL_WEIGHTS[-1][1])

    def terms(self, outputs: DetectionOutputs, target: Target) -> dict[str, Tensor]:
        """Return the terms of eq. 11 for a ``DCSNetOutput`` of annotated images, and the detector's losses.

        Raises:
            ValueError: the network was given images alone.
        """
        segments = outputs.segments
        if segments is None or outputs.boxes is None or outputs.weights is None or outputs.detection_losses is None:
            raise ValueError("the network was given images alone; in training it needs Annotated ones")
        size = segments.logits.shape[2:]
        target = target_in_boxes(target, outputs.boxes, outputs.weights, size, softmax=self.softmax)
        main, *levels = (
            segmentation_loss(logits, target, softmax=self.softmax, batch_dice=self.batch_dice)
            for logits in (segments.logits, *segments.levels)
        )
        weighted = [weight * loss for weight, loss in zip(self.level_weights, levels, strict=True)]
        consistency = consistency_loss(segments.levels, target.mask, softmax=self.softmax)
        return {
            "main": main,
            "levels": torch.stack(weighted).sum(),
            "0.2 * edge": self.edge_weight * edge_loss(segments.edges, target),
            "0.05 * cons": self.consistency_weight * consistency,
        } | dict(outputs.detection_losses)


@torch.no_grad()
def target_in_boxes(
    target: Target, boxes: Tensor, weights: Tensor, size: int | Sequence[int], *, softmax: bool
) -> Target:
    """Crop a target ``(B, K, H, W)`` to boxes, and make it 0 and 1 again: ``(N, K, *size)``.

    Args:
        target: one-hot maps and mask of the images.
        boxes: ``(N, 5)``, index of the image and corners.
        weights: ``(N,)``; boxes of weight 0 are masked out.
        size: height and width of the result, a number for squares.
        softmax: whether exactly one class holds for every pixel.
    """
    shares = crop_boxes(target.one_hot, boxes, size)
    annotated = torch.ones_like(shares[:, :1]) if target.mask is None else crop_boxes(target.mask, boxes, size)
    if softmax:
        one_hot = torch.zeros_like(shares).scatter_(1, shares.argmax(1, keepdim=True), 1.0)
    else:
        one_hot = (shares >= 0.5 * annotated).float()
    mask = weights[:, None, None, None] * (annotated >= 0.5)
    return masked(one_hot, mask)


def segmentation_loss(logits: Tensor, target: Target, *, softmax: bool, batch_dice: bool = True) -> Tensor:
    """``0.5 Dice + 0.3 focal + 0.2 boundary`` (section 3.4 and 4.2) of ``(N, K, S, S)`` logits."""
    probabilities = to_probabilities(logits, softmax=softmax)
    dice = soft_dice_loss(probabilities, target, batch_dice=batch_dice, background=not softmax)
    boundary = boundary_loss(probabilities, target, batch_dice=batch_dice, background=not softmax)
    return 0.5 * dice + 0.3 * focal_loss(logits, target, softmax=softmax) + 0.2 * boundary


def focal_loss(logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
    """``-(1 - p)^2 log p`` of ``(N, K, S, S)`` logits, with the probability p of the true class or region state."""
    if softmax:
        log_p = (logits.log_softmax(1) * target.one_hot).sum(1, keepdim=True)
    else:
        log_p = F.logsigmoid(torch.where(target.one_hot > 0, logits, -logits))
    return masked_mean(-((1 - log_p.exp()) ** FOCUS) * log_p, target.mask)


def boundary_loss(
    probabilities: Tensor, target: Target, *, batch_dice: bool = True, background: bool = False
) -> Tensor:
    """``1 - Dice`` between the inner edges of the ``(N, K, S, S)`` probabilities and those of the truth."""
    truth = masked(inner_edges(target.one_hot), eroded_mask(target))
    return soft_dice_loss(inner_edges(probabilities), truth, batch_dice=batch_dice, background=background)


def inner_edges(maps: Tensor) -> Tensor:
    """Part of ``(N, C, S, S)`` maps that 3x3 erosion takes away.

    It is ``p - min-pooling(p)``, which needs no threshold and so has a gradient.

    Example:
        >>> inner_edges(torch.tensor([[[[0.0, 1, 1, 1, 0]] * 3]]))[0, 0, 1]
        tensor([0., 1., 0., 1., 0.])
    """
    return maps - eroded(maps)


def eroded(maps: Tensor) -> Tensor:
    """3x3 minimum of ``(N, C, S, S)`` maps; pixels beyond the border do not count."""
    return -F.max_pool2d(-maps, 3, stride=1, padding=1)


def eroded_mask(target: Target) -> Tensor | None:
    """Mask ``(N, 1, S, S)`` of pixels whose neighbours are all annotated, too: there an edge is known."""
    return None if target.mask is None else eroded(target.mask)


def edge_loss(edges: Tensor, target: Target) -> Tensor:
    """Binary cross-entropy of ``(N, K, S, S)`` logits with the edges of every map of the truth."""
    truth = masked(laplacian_edges(target.one_hot), eroded_mask(target))
    return segmentation_cross_entropy(edges, truth, softmax=False)


def laplacian_edges(one_hot: Tensor) -> Tensor:
    """Mark both sides of every edge of ``(N, K, S, S)`` maps of 0 and 1: their Laplacian is not 0 there."""
    maps = F.pad(one_hot.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor(LAPLACIAN, dtype=maps.dtype)[None, None].to(maps.device, non_blocking=True)
    return (F.conv2d(maps, kernel).abs() > 0.5).float().view_as(one_hot)


def consistency_loss(levels: Sequence[Tensor], mask: Tensor | None, *, softmax: bool) -> Tensor:
    """Squared difference between the probabilities of adjacent levels, ``(N, K, S, S)`` logits each; eq. 10.

    Deviation: its mean instead of its sum, which would grow with the number of pixels.
    """
    probabilities = [to_probabilities(logits, softmax=softmax) for logits in levels]
    differences = [masked_mean((p - q) ** 2, mask) for p, q in pairwise(probabilities)]
    return torch.stack(differences).mean()
