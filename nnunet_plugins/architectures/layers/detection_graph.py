"""DCSNet's inference as a graph without branches, which formats of exported networks can express.

No shape depends on the values of a tensor: as many boxes are kept as there may be at most, and masks tell which count.
Everything is computed for one image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from nnunet_plugins.architectures.layers.boxes import moved
from nnunet_plugins.architectures.layers.detector import (
    FINEST_STRIDE,
    POOLED_SIZE,
    SAMPLING_RATIO,
    Detector,
    Proposals,
)

NOT_THERE = -1.0
"""Score of boxes that do not count, below that of any that does."""
SMALLEST_CANDIDATE, SMALLEST_BOX = 1e-3, 1e-2
"""Edges in pixels below which torchvision drops a box, before and after its refinement."""
FINEST_LEVEL, CANONICAL_LEVEL = 2, 4


def detect_one(detector: Detector, features: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Detect boxes in one image, as the detector does.

    Args:
        detector: its parts and thresholds.
        features: ``(1, C, H / r, W / r)`` of every level, the finest first.
        size: (H, W) of the image.

    Returns:
        Corners ``(N, 4)`` of as many boxes as there may be at most, and which of them were detected, ``(N,)``.
    """
    boxes, scores = propose(detector, features, size)
    logits, offsets = detector.classify(pool(detector, features, boxes))
    refined = clip_boxes_to_image(moved(boxes, offsets[:, 4:], detector.roi_heads.box_coder.weights), size)
    sure = logits.softmax(1)[:, 1]
    counts = (scores > NOT_THERE) & (sure > detector.roi_heads.score_thresh) & (shortest(refined) >= SMALLEST_BOX)
    kept, scores = suppressed(
        refined,
        torch.where(counts, sure, NOT_THERE),
        detector.roi_heads.nms_thresh,
        detector.roi_heads.detections_per_img,
    )
    return kept, scores > NOT_THERE


def propose(detector: Detector, features: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Choose the best candidates of all levels: corners ``(P, 4)`` and scores ``(P,)``."""
    rpn = detector.rpn
    scores, offsets, counts = Proposals(*rpn.head(list(features))).flat()
    moved_anchors = moved(detector.anchors(features), offsets[0], rpn.box_coder.weights)
    best = []
    for of_level, boxes in zip(scores[0].sigmoid().split(counts), moved_anchors.split(counts), strict=True):
        highest, index = of_level.topk(min(rpn.pre_nms_top_n(), len(of_level)))
        boxes = clip_boxes_to_image(boxes[index], size)
        there = torch.where(shortest(boxes) >= SMALLEST_CANDIDATE, highest, NOT_THERE)
        best.append(suppressed(boxes, there, rpn.nms_thresh, len(there)))
    all_boxes, all_scores = (torch.cat(parts) for parts in zip(*best, strict=True))
    highest, index = all_scores.topk(min(rpn.post_nms_top_n(), len(all_scores)))
    return all_boxes[index], highest


def shortest(boxes: Tensor) -> Tensor:
    """Compute the shorter edge of boxes ``(N, 4)``."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(1)


def suppressed(boxes: Tensor, scores: Tensor, overlap: float, number: int) -> tuple[Tensor, Tensor]:
    """Keep the boxes that overlap none of a higher score, the highest first, and fill up to a number of them."""
    kept = nms(boxes, scores, overlap)
    filling = torch.zeros(number, dtype=kept.dtype)
    index = torch.cat((kept, filling))[:number]
    there = torch.cat((torch.ones_like(kept), filling))[:number] > 0
    return boxes[index], torch.where(there, scores[index], NOT_THERE)


def pool(detector: Detector, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Crop to each box the level that has about its size, as torchvision's pooling does: ``(N, C, 7, 7)``."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    scale = area.sqrt() / detector.roi_heads.box_roi_pool.canonical_scale
    last = FINEST_LEVEL + len(detector.roi_heads.box_roi_pool.featmap_names) - 1
    levels = (CANONICAL_LEVEL + scale.log2() + 1e-6).floor().clamp(FINEST_LEVEL, last) - FINEST_LEVEL
    places = F.pad(boxes, (1, 0))  # image 0
    pooled = torch.zeros((), dtype=features[0].dtype)
    for level in range(last - FINEST_LEVEL + 1):
        cropped = roi_align(features[level], places, POOLED_SIZE, FINEST_STRIDE**-1 / 2**level, SAMPLING_RATIO)
        pooled = torch.where((levels == level)[:, None, None, None], cropped, pooled)
    return pooled


def paste_all(maps: Tensor, boxes: Tensor, there: Tensor, onto: Tensor) -> Tensor:
    """Paste maps ``(N, K, h, w)`` into those boxes ``(N, 4)`` that are there; the maximum counts.

    Args:
        maps: of the boxes.
        boxes: corners.
        there: ``(N,)``.
        onto: ``(1, K, H, W)``.
    """
    height, width = onto.shape[2:]
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    u = (torch.arange(width) + 0.5 - x1) / (x2 - x1)  # 0 .. 1 across the box
    v = (torch.arange(height) + 0.5 - y1) / (y2 - y1)
    inside = ((u >= 0) & (u < 1))[:, None, None, :] & ((v >= 0) & (v < 1))[:, None, :, None]
    shape = (len(boxes), height, width)
    grid = 2 * torch.stack((u[:, None, :].expand(shape), v[:, :, None].expand(shape)), -1) - 1
    sampled = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    chosen = torch.where(inside & there[:, None, None, None], sampled, onto)
    return torch.maximum(chosen.amax(0, keepdim=True), onto)


class DetectionGraph(nn.Module):
    """DCSNet for one image ``(1, C, H, W)`` in evaluation: the same logits ``(1, K, H, W)``."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        network, size = self.network, (images.shape[2], images.shape[3])
        features = network.pyramid(images)
        whole = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        boxes, there = whole, torch.ones(1, dtype=torch.bool)
        if network.use_dghc:
            boxes, there = detect_one(network.detector, features, size)
            boxes = torch.where(there[:, None], boxes, whole)  # a box that can be cropped to
        maps = network.segment(features, F.pad(boxes, (1, 0))).logits
        return paste_all(maps, boxes, there, network.background(images))
