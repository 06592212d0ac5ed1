"""Selection of the anchors, samples and boxes with which a training step of the detector computes.

Non-maximum suppression, matching and sampling have results of a size that only their values tell, and a GPU would stop
at each of them until the host knows it. So the candidates come to the CPU once, everything is selected there, and the
selection goes back, in shapes that follow from those of the arguments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.poolers import LevelMapper

from nnunet_plugins.architectures.layers.operators import define

LEVELS = range(2, 6)
"""Levels of the pyramid from which boxes are pooled: P2 ... P5."""
CANONICAL_SCALE = 56
"""Edge in pixels of the boxes that begin to belong to P4."""
CANDIDATE_IOU = 0.7
"""Overlap from which on the better of two candidates suppresses the other."""

ANCHORS_PER_IMAGE = 256
ANCHOR_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ANCHOR_IOU = (0.7, 0.3)
"""Overlap with an object from which on an anchor is one, and below which it is background."""
SAMPLES_PER_IMAGE = 128
SAMPLE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SAMPLE_IOU = (0.5, 0.5)
POSITIVE_SHARES = (0.5, 0.25)
"""Largest share of objects among the anchors, and among the samples."""


class Truth(NamedTuple):
    """Desired answers for R boxes."""

    labels: Tensor
    """``(R,)``: 1 for an object, 0 for background."""
    weights: Tensor
    """``(R,)``: shares of the boxes in a mean, 0 for those that fill up the number."""
    offsets: Tensor
    """``(R, 4)``: offsets of the boxes from their objects, 0 for background."""


class Selection(NamedTuple):
    """Everything that a training step of the detector computes with, for B images."""

    anchors: Tensor
    """``(B * 256,)``: indices of anchors among those of all images."""
    of_anchors: Truth
    samples: list[Tensor]
    """``(S_i, 5)`` boxes to pool from each of P2 ... P5, together ``B * 128``."""
    of_samples: Truth
    """For the samples of all levels, one after the other."""
    proposed: Tensor
    """``(B * 128,)``: 1 for samples that were proposed, 0 for the true boxes among them, and for filling."""
    true: Tensor
    """``(M, 5)``: true boxes to train on, each twice at most; a whole image where there is none."""
    weights: Tensor
    """``(M,)``: 1, or 0 for the whole image."""


def select(
    candidates: Tensor,
    anchors: Tensor,
    true: Tensor,
    annotated: Tensor | None,
    size: tuple[int, int],
    max_candidates: int,
    max_boxes: int,
) -> Selection:
    """Select on the CPU what to train on.

    Args:
        candidates: ``(B, P, 6)``: corners, score and level of boxes that the network proposes, on any device.
        anchors: ``(A, 4)`` of an image, on the CPU as all that follows.
        true: ``(N, 5)`` boxes of the objects.
        annotated: ``(B, 1, H, W)`` bool mask of annotated pixels, ``None`` for all; nothing else counts as background.
        size: (H, W) of the images.
        max_candidates: most candidates of an image after non-maximum suppression.
        max_boxes: most true boxes to train on.

    Returns:
        The selection, on the device of the candidates.
    """
    of_anchors = ANCHORS(anchors, true, annotated, len(candidates))  # while a GPU computes the candidates
    of_boxes = BOXES(to_host(candidates), true, annotated, size, max_candidates, max_boxes)
    index, *of_anchors = (x.to(candidates.device, non_blocking=True) for x in of_anchors)
    *of_samples, proposed, true, present, p2, p3, p4, p5 = (
        x.to(candidates.device, non_blocking=True) for x in of_boxes
    )
    return Selection(index, Truth(*of_anchors), [p2, p3, p4, p5], Truth(*of_samples), proposed, true, present)


def to_host(x: Tensor) -> Tensor:
    """Copy a tensor to the CPU: the one point of a training step at which the host waits for the device."""
    return x.detach().cpu()


def selected_anchors(anchors: Tensor, true: Tensor, annotated: Tensor | None, batch: int) -> list[Tensor]:
    """Compute the indices of anchors and the parts of their :class:`Truth`."""
    return sampled_anchors(anchors, *of_images(true, annotated, batch))


def empty_anchors(anchors: Tensor, true: Tensor, annotated: Tensor | None, batch: int) -> list[Tensor]:
    """Make empty tensors of the shapes of :func:`selected_anchors`."""
    new, rows = anchors.new_empty, batch * ANCHORS_PER_IMAGE
    return [new(rows, dtype=torch.int64), new(rows), new(rows), new(rows, 4)]


def selected_boxes(
    candidates: Tensor, true: Tensor, annotated: Tensor | None, size: Sequence[int], max_candidates: int, max_boxes: int
) -> list[Tensor]:
    """Compute the other tensors of a :class:`Selection`, the samples of all levels last."""
    height, width = size
    proposals = [proposed_boxes(boxes, (height, width), max_candidates) for boxes in candidates]
    boxes, *of_samples = sampled_boxes(proposals, *of_images(true, annotated, len(candidates)))
    levels = LevelMapper(LEVELS[0], LEVELS[-1], CANONICAL_SCALE)([boxes[:, 1:]])
    order = levels.argsort(stable=True)
    samples = [boxes[levels == level] for level in range(len(LEVELS))]
    chosen = true[torch.cat((torch.randperm(len(true)), torch.randperm(len(true))))[:max_boxes]]
    present = torch.ones(len(chosen))
    if not len(chosen):
        chosen, present = torch.tensor([[0.0, 0.0, 0.0, width, height]]), torch.zeros(1)
    return [*(x[order] for x in of_samples), chosen, present, *samples]


def empty_boxes(
    candidates: Tensor, true: Tensor, annotated: Tensor | None, size: Sequence[int], max_candidates: int, max_boxes: int
) -> list[Tensor]:
    """Make empty tensors of the shapes of :func:`selected_boxes`, with as many samples on every level."""
    new, rows = candidates.new_empty, len(candidates) * SAMPLES_PER_IMAGE
    chosen = max(min(2 * len(true), max_boxes), 1)
    samples = [new(rows // len(LEVELS), 5) for _ in LEVELS]
    return [new(rows), new(rows), new(rows, 4), new(rows), new(chosen, 5), new(chosen), *samples]


ANCHORS = define(
    "select_anchors(Tensor anchors, Tensor true, Tensor? annotated, int batch) -> Tensor[]",
    selected_anchors,
    empty_anchors,
)
BOXES = define(
    "select_boxes(Tensor candidates, Tensor true, Tensor? annotated, int[] size, int max_candidates, int max_boxes) "
    "-> Tensor[]",
    selected_boxes,
    empty_boxes,
)


def of_images(true: Tensor, annotated: Tensor | None, batch: int) -> tuple[list[Tensor], list[Tensor | None]]:
    """Split true boxes ``(N, 5)`` and a mask ``(B, 1, H, W)`` into those of every image."""
    objects = [true[true[:, 0] == image, 1:] for image in range(batch)]
    return objects, [None] * batch if annotated is None else list(annotated[:, 0])


def proposed_boxes(candidates: Tensor, size: tuple[int, int], number: int) -> Tensor:
    """Suppress candidates ``(P, 6)`` of an image that overlap better ones of their level: ``(N, 4)``."""
    boxes = clip_boxes_to_image(candidates[:, :4], size)
    kept = remove_small_boxes(boxes, 1e-3)
    boxes, scores, levels = boxes[kept], candidates[kept, 4].sigmoid(), candidates[kept, 5]
    return boxes[batched_nms(boxes, scores, levels, CANDIDATE_IOU)[:number]]


def sampled_anchors(anchors: Tensor, objects: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Sample anchors of every image: their indices, and the three parts of their :class:`Truth`."""
    matcher = Matcher(*ANCHOR_IOU, allow_low_quality_matches=True)
    truths = []
    for true, mask in zip(objects, masks, strict=True):
        labels, matched = matches(anchors, true, matcher)
        if mask is not None:
            labels = torch.where(seen(mask, anchors) | (labels > 0), labels, -1.0)
        truths.append((labels, matched))
    chosen = sampled([labels for labels, _ in truths], ANCHORS_PER_IMAGE, POSITIVE_SHARES[0])
    parts = [
        (rows + image * len(anchors), *truth(anchors[rows], labels[rows], matched[rows], ANCHOR_WEIGHTS))
        for image, (rows, (labels, matched)) in enumerate(zip(chosen, truths, strict=True))
    ]
    return filled(parts, ANCHORS_PER_IMAGE)


def sampled_boxes(
    proposals: Sequence[Tensor], objects: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> list[Tensor]:
    """Sample proposals and true boxes of every image: boxes, the parts of their :class:`Truth`, who was proposed."""
    matcher = Matcher(*SAMPLE_IOU)
    truths = []
    for boxes, true, mask in zip(proposals, objects, masks, strict=True):
        known = boxes if mask is None else boxes[seen(mask, boxes)]
        proposed = torch.cat((torch.ones(len(known)), torch.zeros(len(true))))
        known = torch.cat((known, true))
        truths.append((known, *matches(known, true, matcher), proposed))
    chosen = sampled([labels for _, labels, _, _ in truths], SAMPLES_PER_IMAGE, POSITIVE_SHARES[1])
    parts = []
    for image, (rows, of_image) in enumerate(zip(chosen, truths, strict=True)):
        boxes, labels, matched, proposed = (x[rows] for x in of_image)
        parts.append((F.pad(boxes, (1, 0), value=image), *truth(boxes, labels, matched, SAMPLE_WEIGHTS), proposed))
    return filled(parts, SAMPLES_PER_IMAGE)


def seen(mask: Tensor, boxes: Tensor) -> Tensor:
    """Tell whether the centres of boxes ``(R, 4)`` lie where the mask ``(H, W)`` is: ``(R,)`` bool."""
    height, width = mask.shape
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).long().unbind(1)
    return mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]


def matches(boxes: Tensor, true: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Match boxes ``(R, 4)`` with true ones: labels 1, 0 and -1 (neither) ``(R,)``, and the true boxes ``(R, 4)``."""
    if not len(true) or not len(boxes):
        return torch.zeros(len(boxes)), boxes
    index = matcher(box_iou(true, boxes))
    return (index >= 0).float() - (index == matcher.BETWEEN_THRESHOLDS).float(), true[index.clamp_min(0)]


def sampled(labels: list[Tensor], number: int, positive_share: float) -> list[Tensor]:
    """Sample rows of every image, at most ``number``, in which objects have at most the given share."""
    masks = BalancedPositiveNegativeSampler(number, positive_share)(labels)
    return [(positive | negative).nonzero()[:, 0] for positive, negative in zip(*masks, strict=True)]


def truth(boxes: Tensor, labels: Tensor, matched: Tensor, weights: tuple[float, float, float, float]) -> Truth:
    """Make the truth for boxes ``(R, 4)``, all with the same weight."""
    of_objects = torch.where(labels[:, None] > 0, matched, boxes)
    return Truth(labels, torch.ones_like(labels), BoxCoder(weights).encode_single(of_objects, boxes))


def filled(parts: Sequence[tuple[Tensor, ...]], number: int) -> list[Tensor]:
    """Fill the parts of every image up with zeros, concatenate them, and let the third, the weights, add up to 1."""
    columns = [
        torch.cat([F.pad(x, (0, 0) * (x.ndim - 1) + (0, number - len(x))) for x in images])
        for images in zip(*parts, strict=True)
    ]
    columns[2] = columns[2] / columns[2].sum().clamp_min(1)
    return columns
