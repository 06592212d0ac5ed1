"""Faster R-CNN with one class of objects, composed of torchvision's parts (Ren et al., 2015; Lin et al., 2017)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from nnunet_plugins.architectures.layers.boxes import boxes_of_images

ASPECT_RATIOS = (0.5, 1.0, 2.0)
POOLED_SIZE = 7
FINEST_STRIDE = 4
NUM_LEVELS = 5


runs_eagerly = torch.compiler.disable(recursive=False)
"""Decorator of functions whose shapes depend on the number of boxes: each number would be compiled to another graph.

The modules that such a function calls are compiled.
"""


class Objects(NamedTuple):
    """Objects to detect in a batch."""

    boxes: Tensor
    """``(N, 5)`` of image and corners."""
    annotated: Tensor | None = None
    """``(B, 1, H, W)`` bool mask of annotated pixels, ``None`` for all; nothing else counts as background."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Objects":
        annotated = None if self.annotated is None else self.annotated.to(device, non_blocking=non_blocking)
        return Objects(self.boxes.to(device, non_blocking=non_blocking), annotated)

    def of_images(self, batch: int) -> list[dict[str, Tensor]]:
        """Convert the boxes to torchvision's targets, one for each image."""
        boxes = [self.boxes[self.boxes[:, 0] == index, 1:] for index in range(batch)]
        return [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64, device=b.device)} for b in boxes]

    def seen(self, image: int, boxes: Tensor) -> Tensor:
        """Tell whether the centres of boxes ``(N, 4)`` lie where the image is annotated: ``(N,)`` bool."""
        assert self.annotated is not None, "everything is annotated: there is nothing to ask"
        height, width = self.annotated.shape[2:]
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).long().unbind(1)
        return self.annotated[image, 0, y.clamp(0, height - 1), x.clamp(0, width - 1)]


class Detections(NamedTuple):
    """Boxes detected in a batch, and the detector's losses."""

    boxes: Tensor
    """``(N, 5)``, without a gradient."""
    losses: dict[str, Tensor]
    """torchvision's four losses by its names; empty if the objects are not known."""


class Detector(nn.Module):
    """Detector of boxes: region proposals on a feature pyramid, and their refinement.

    Thresholds are torchvision's except for ``min_score``.

    Deviation: a patch is smaller than torchvision's images of 800 pixels, and has few objects. Anchors, and the boxes
    that belong to a level, are a quarter as large, and losses use 128 candidates of an image instead of 512, most of
    which would be background.

    Args:
        channels: channels of the features.
        anchor_sizes: edges in pixels of the anchors of P2 ... P6.
        box_head_channels: channels of the two layers that classify and refine a box.
        min_score: score from which on a box counts as detected.
        max_objects: most detections in an image.

    Raises:
        ValueError: there is not one anchor size for each level.
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        anchor_sizes: Sequence[int] = (8, 16, 32, 64, 128),
        box_head_channels: int = 1024,
        min_score: float = 0.35,
        max_objects: int = 32,
    ):
        super().__init__()
        if len(anchor_sizes) != NUM_LEVELS:
            raise ValueError(f"anchor_sizes={anchor_sizes}: give {NUM_LEVELS} of them, one for each of P2 ... P6.")
        candidates = {"training": 2000, "testing": 1000}
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(tuple((size,) for size in anchor_sizes), (ASPECT_RATIOS,) * len(anchor_sizes)),
            RPNHead(channels, len(ASPECT_RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=candidates,
            post_nms_top_n=candidates,
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(["0", "1", "2", "3"], POOLED_SIZE, 2, canonical_scale=56),  # P6 only proposes
            TwoMLPHead(channels * POOLED_SIZE**2, box_head_channels),
            rare_objects(FastRCNNPredictor(box_head_channels, num_classes=2)),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=128,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=min_score,
            nms_thresh=0.5,
            detections_per_img=max_objects,
        )

    @runs_eagerly
    def forward(self, features: Sequence[Tensor], size: tuple[int, int], objects: Objects | None = None) -> Detections:
        """Detect boxes: in training among the proposals that are sampled for the losses, otherwise among all.

        Args:
            features: ``(B, C, H / r, W / r)`` of every level, the finest first, with r = 4, 8, 16, ...
            size: (H, W) of the images before padding, which no box exceeds.
            objects: objects to detect, for the losses.
        """
        objectness, deltas = self.rpn.head(list(features))
        return self.detect(features, objectness, deltas, size, objects)

    @torch.compiler.disable
    def detect(
        self,
        features: Sequence[Tensor],
        objectness: list[Tensor],
        deltas: list[Tensor],
        size: tuple[int, int],
        objects: Objects | None,
    ) -> Detections:
        """Detect boxes, given the proposal head's outputs; coordinates and scores are in float32.

        All shapes here depend on the values of tensors, so that nothing is compiled.
        """
        batch = len(features[0])
        like = [torch.empty((0, *f.shape[2:]), device=f.device) for f in features]
        anchors = self.rpn.anchor_generator(
            ImageList(like[0].new_empty((0, *padded_size(features))), [size] * batch), like
        )
        num_anchors = [level[0].numel() for level in objectness]
        scores, offsets = concat_box_prediction_layers([o.float() for o in objectness], [d.float() for d in deltas])
        candidates = self.rpn.box_coder.decode(offsets.detach(), anchors).view(batch, -1, 4)
        proposals, _ = self.rpn.filter_proposals(candidates, scores, [size] * batch, num_anchors)

        losses: dict[str, Tensor] = {}
        if objects is not None:
            targets = objects.of_images(batch)
            losses = self.proposal_losses(scores, offsets, anchors, targets, objects)
            samples, *matches = self.sample(proposals, targets, objects)
            answers = self.classify(features, samples)
            losses |= self.box_losses(*answers, *matches)
            if self.training:
                return Detections(self.best(*without_true_boxes(*answers, samples, targets), samples, size), losses)
        return Detections(self.best(*self.classify(features, proposals), proposals, size), losses)

    def proposal_losses(
        self,
        scores: Tensor,
        offsets: Tensor,
        anchors: list[Tensor],
        targets: list[dict[str, Tensor]],
        objects: Objects,
    ) -> dict[str, Tensor]:
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, targets)
        if objects.annotated is not None:
            seen = [objects.seen(index, boxes) for index, boxes in enumerate(anchors)]
            labels = [label.where(known | (label > 0), -1.0) for label, known in zip(labels, seen, strict=True)]
        if torch.cat(labels).max() < 0:
            objectness, boxes = 0 * scores.sum(), 0 * offsets.sum()
        else:
            objectness, boxes = self.rpn.compute_loss(
                scores, offsets, labels, self.rpn.box_coder.encode(matched, anchors)
            )
        return {"loss_objectness": objectness, "loss_rpn_box_reg": boxes}

    def sample(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]], objects: Objects
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Sample proposals for the losses, with their labels and their offsets from their objects."""
        if objects.annotated is not None:
            proposals = [boxes[objects.seen(index, boxes)] for index, boxes in enumerate(proposals)]
        samples, _, labels, distances = self.roi_heads.select_training_samples(proposals, targets)
        return samples, labels, distances

    def classify(self, features: Sequence[Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute class logits and offsets of all proposals."""
        levels = {str(index): feature for index, feature in enumerate(features)}
        pooled = self.roi_heads.box_roi_pool(levels, proposals, [padded_size(features)])
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), offsets.float()

    def box_losses(
        self, logits: Tensor, offsets: Tensor, labels: list[Tensor], distances: list[Tensor]
    ) -> dict[str, Tensor]:
        if len(logits):
            classes, boxes = fastrcnn_loss(logits, offsets, labels, distances)
        else:
            classes, boxes = logits.sum(), offsets.sum()
        return {"loss_classifier": classes, "loss_box_reg": boxes}

    @torch.no_grad()
    def best(self, logits: Tensor, offsets: Tensor, proposals: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Select the boxes ``(N, 5)`` that count as detected."""
        boxes, _, _ = self.roi_heads.postprocess_detections(logits, offsets, proposals, [size] * len(proposals))
        return boxes_of_images(boxes)


def without_true_boxes(
    logits: Tensor, offsets: Tensor, samples: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Remove the scores of the true boxes, which torchvision adds to the proposals."""
    true = [(boxes[:, None] == target["boxes"]).all(2).any(1) for boxes, target in zip(samples, targets, strict=True)]
    return logits.masked_fill(
        torch.cat(true)[:, None] & torch.tensor([False, True], device=logits.device), -torch.inf
    ), offsets


def rare_objects(predictor: FastRCNNPredictor) -> FastRCNNPredictor:
    """Start from scores of about 0.1, as focal loss does: otherwise half of all boxes would pass."""
    nn.init.constant_(predictor.cls_score.bias[1:], -2.2)
    nn.init.constant_(predictor.cls_score.bias[:1], 0.0)
    return predictor


def padded_size(features: Sequence[Tensor]) -> tuple[int, int]:
    """Compute (H, W) of the padded images from their features."""
    return FINEST_STRIDE * features[0].shape[2], FINEST_STRIDE * features[0].shape[3]
