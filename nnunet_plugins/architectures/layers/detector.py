"""Faster R-CNN with one class of objects, composed of torchvision's parts (Ren et al., 2015; Lin et al., 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, box_iou, clip_boxes_to_image, roi_align

from nnunet_plugins.architectures.layers.boxes import boxes_of_images, moved
from nnunet_plugins.architectures.layers.selection import (
    ANCHOR_IOU,
    ANCHORS_PER_IMAGE,
    CANDIDATE_IOU,
    CANONICAL_SCALE,
    POSITIVE_SHARES,
    SAMPLE_IOU,
    SAMPLES_PER_IMAGE,
    Selection,
    Truth,
    select,
)

ASPECT_RATIOS = (0.5, 1.0, 2.0)
POOLED_SIZE = 7
SAMPLING_RATIO = 2
FINEST_STRIDE = 4
NUM_LEVELS = 5
ANCHOR_SIZES = (16, 32, 64, 128, 256)
"""Edges in pixels of the anchors of P2 ... P6; with its margin a box is 13 pixels wide or more."""
FIRST_ANCHOR_SIZES = (8, 16, 32, 64, 128)
"""Edges of the anchors of version 0.2.0, whose weights do not hold them."""
MATCHING_IOU = 0.5
"""Overlap from which on a detected box matches a true one."""
DETECTED_SHARE = 0.5
"""Share of the boxes of a lesson that are detected ones, where these match."""


runs_eagerly = torch.compiler.disable(recursive=False)
"""Decorator of functions whose shapes depend on the number of boxes: each number would be compiled to another graph.

The modules that such a function calls are compiled.
"""


@dataclass(frozen=True)
class Objects:
    """Objects to detect in a batch; they stay on the CPU, also where DDP moves all tensors that it finds in tuples."""

    boxes: Tensor
    """``(N, 5)`` of image and corners."""
    annotated: Tensor | None = None
    """``(B, 1, H, W)`` bool mask of annotated pixels, ``None`` for all; nothing else counts as background."""


class Proposals(NamedTuple):
    """Outputs of the proposal head for the A anchors of every level."""

    objectness: list[Tensor]
    """``(B, A, H / r, W / r)``."""
    deltas: list[Tensor]
    """``(B, 4 A, H / r, W / r)``."""

    def flat(self) -> tuple[Tensor, Tensor, list[int]]:
        """Scores ``(B, A)`` and offsets ``(B, A, 4)`` of all levels in float32, and the number of anchors of each."""
        batch = len(self.objectness[0])
        scores, offsets = concat_box_prediction_layers(
            [level.float() for level in self.objectness], [level.float() for level in self.deltas]
        )
        counts = [level[0].numel() for level in self.objectness]
        return scores.view(batch, -1), offsets.view(batch, -1, 4), counts


class Lesson(NamedTuple):
    """Boxes to learn the segmentation from, and the detector's losses."""

    boxes: Tensor
    """``(M, 5)``, without a gradient: true boxes, half of them replaced by detected ones that match them, if any."""
    weights: Tensor
    """``(M,)``: 1, or 0 for the whole image that stands in where there is no object."""
    losses: dict[str, Tensor]
    """torchvision's four losses by its names."""


class Detector(nn.Module):
    """Detector of boxes: region proposals on a feature pyramid, and their refinement.

    Thresholds are torchvision's except for ``min_score``.

    Deviation: a patch is smaller than torchvision's images of 800 pixels, and has few objects. Anchors are half as
    large, and boxes that belong to a level a quarter; losses use 128 candidates of an image instead of 512, most of
    which would be background, and in training they are drawn from the best 500 of a level instead of 2000.

    The state dict holds the sizes of the anchors, as its weights mean boxes relative to these.

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
        anchor_sizes: Sequence[int] = ANCHOR_SIZES,
        box_head_channels: int = 1024,
        min_score: float = 0.35,
        max_objects: int = 32,
    ):
        super().__init__()
        if len(anchor_sizes) != NUM_LEVELS:
            raise ValueError(f"anchor_sizes={anchor_sizes}: give {NUM_LEVELS} of them, one for each of P2 ... P6.")
        most = {"training": 500, "testing": 1000}
        self.rpn = RegionProposalNetwork(
            anchor_generator(anchor_sizes),
            RPNHead(channels, len(ASPECT_RATIOS)),
            *ANCHOR_IOU,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=POSITIVE_SHARES[0],
            pre_nms_top_n=most,
            post_nms_top_n=most | {"training": 2000},
            nms_thresh=CANDIDATE_IOU,
        )
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], POOLED_SIZE, SAMPLING_RATIO, canonical_scale=CANONICAL_SCALE)
        self.roi_heads = RoIHeads(
            pool,  # without P6, which only proposes
            TwoMLPHead(channels * POOLED_SIZE**2, box_head_channels),
            rare_objects(FastRCNNPredictor(box_head_channels, num_classes=2)),
            *SAMPLE_IOU,
            batch_size_per_image=SAMPLES_PER_IMAGE,
            positive_fraction=POSITIVE_SHARES[1],
            bbox_reg_weights=None,
            score_thresh=min_score,
            nms_thresh=0.5,
            detections_per_img=max_objects,
        )
        self.register_buffer("anchor_sizes", torch.tensor(anchor_sizes, dtype=torch.float32))
        self._register_load_state_dict_pre_hook(use_anchors_of_weights, with_module=True)

    @runs_eagerly
    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Detect boxes ``(N, 5)``, without a gradient.

        Args:
            features: ``(B, C, H / r, W / r)`` of every level, the finest first, with r = 4, 8, 16, ...
            size: (H, W) of the images before padding, which no box exceeds.
        """
        return self.detect(features, self.propose(features), size)

    @runs_eagerly
    def propose(self, features: Sequence[Tensor]) -> Proposals:
        """Judge all anchors of features as in :meth:`forward`."""
        return Proposals(*self.rpn.head(list(features)))

    @torch.compiler.disable
    @torch.no_grad()
    def detect(self, features: Sequence[Tensor], proposals: Proposals, size: tuple[int, int]) -> Tensor:
        """Detect boxes ``(N, 5)`` among proposals.

        All shapes here depend on the values of tensors, so that nothing is compiled.
        """
        scores, offsets, counts = proposals.flat()
        sizes, anchors = [size] * len(scores), self.anchors(features).to(scores.device)
        candidates = moved(anchors, offsets, self.rpn.box_coder.weights)
        boxes, _ = self.rpn.filter_proposals(candidates, scores, sizes, counts)
        levels = {str(index): feature for index, feature in enumerate(features)}
        pooled = self.roi_heads.box_roi_pool(levels, boxes, [padded_size(features)])
        logits, offsets = self.classify(pooled)
        return boxes_of_images(self.roi_heads.postprocess_detections(logits, offsets, boxes, sizes)[0])

    @torch.compiler.disable
    def learn(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        size: tuple[int, int],
        objects: Objects,
        max_boxes: int,
    ) -> Lesson:
        """Compute the losses, and choose boxes to learn the segmentation from.

        Args:
            features: as in :meth:`forward`.
            proposals: what :meth:`propose` makes of them.
            size: (H, W) of the images before padding.
            objects: objects to detect.
            max_boxes: most boxes in the lesson.
        """
        scores, offsets, counts = proposals.flat()
        anchors = self.anchors(features)
        number = self.rpn.post_nms_top_n()
        candidates = self.candidates(scores, offsets, anchors.to(scores.device, non_blocking=True), counts)
        selection = select(candidates, anchors, objects.boxes, objects.annotated, size, number, max_boxes)
        pooled = [
            roi_align(feature, boxes, POOLED_SIZE, FINEST_STRIDE**-1 / 2**level, SAMPLING_RATIO)
            for level, (feature, boxes) in enumerate(zip(features, selection.samples, strict=False))
        ]
        answers = self.classify(torch.cat(pooled))
        losses = proposal_losses(scores, offsets, selection) | box_losses(*answers, selection)
        matching = self.matching(*answers, selection, size)
        replaced = torch.rand_like(selection.weights)[:, None] < DETECTED_SHARE
        return Lesson(torch.where(replaced, matching, selection.true), selection.weights, losses)

    def anchors(self, features: Sequence[Tensor]) -> Tensor:
        """Make the anchors ``(A, 4)`` of an image, on the CPU."""
        like = [torch.empty((0, *feature.shape[2:]), device="cpu") for feature in features]
        images = torch.empty((0, *padded_size(features)), device="cpu")
        (anchors,) = self.rpn.anchor_generator(ImageList(images, [padded_size(features)]), like)
        return anchors

    @torch.no_grad()
    def candidates(self, scores: Tensor, offsets: Tensor, anchors: Tensor, counts: list[int]) -> Tensor:
        """Choose the best boxes of every level: corners, score and level ``(B, P, 6)``."""
        best = []
        levels = zip(scores.split(counts, 1), offsets.split(counts, 1), anchors.split(counts), strict=True)
        for level, (of_level, offset, anchor) in enumerate(levels):
            values, index = of_level.topk(min(self.rpn.pre_nms_top_n(), of_level.shape[1]))
            chosen = offset.gather(1, index[..., None].expand(-1, -1, 4))
            boxes = moved(anchor[index], chosen, self.rpn.box_coder.weights)
            best.append(torch.cat((boxes, values[..., None], torch.full_like(values[..., None], level)), 2))
        return torch.cat(best, 1)

    def classify(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits ``(R, 2)`` and offsets ``(R, 8)`` of boxes from their features ``(R, C, 7, 7)``."""
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), offsets.float()

    @torch.no_grad()
    def matching(self, logits: Tensor, offsets: Tensor, selection: Selection, size: tuple[int, int]) -> Tensor:
        """Find for each true box the detected one with the highest score that matches it, else itself: ``(M, 5)``."""
        samples, true = torch.cat(selection.samples), selection.true
        refined = moved(samples[:, 1:], offsets[:, 4:], self.roi_heads.box_coder.weights)
        detected = torch.cat((samples[:, :1], clip_boxes_to_image(refined, size)), 1)
        scores = logits.softmax(1)[:, 1] * selection.proposed
        overlap = box_iou(true[:, 1:], detected[:, 1:]) * (true[:, :1] == detected[:, 0])
        scores = scores * (overlap >= MATCHING_IOU) * (scores > self.roi_heads.score_thresh)  # (M, R)
        highest, index = scores.max(1, keepdim=True)
        return torch.where(highest > 0, detected[index[:, 0]], true)


def anchor_generator(sizes: Sequence[float]) -> AnchorGenerator:
    """Make anchors of one size, and three shapes, for every level."""
    return AnchorGenerator(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(sizes))


def use_anchors_of_weights(detector: Detector, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take the anchors for which weights were trained; torch calls this before it loads a state dict.

    Weights of version 0.2.0 do not hold them: these are those that their trainer names, or the default of that version.
    """
    name, own = f"{prefix}anchor_sizes", tuple(detector.get_buffer("anchor_sizes").tolist())
    if name not in state_dict:
        state_dict[name] = torch.tensor(FIRST_ANCHOR_SIZES if own == ANCHOR_SIZES else own, dtype=torch.float32)
    detector.rpn.anchor_generator = anchor_generator(state_dict[name].tolist())


def proposal_losses(scores: Tensor, offsets: Tensor, selection: Selection) -> dict[str, Tensor]:
    """Compute the losses of the proposal head for scores ``(B, A)`` and offsets ``(B, A, 4)`` of all anchors."""
    truth = selection.of_anchors
    scores, offsets = scores.flatten()[selection.anchors], offsets.flatten(0, 1)[selection.anchors]
    objectness = F.binary_cross_entropy_with_logits(scores, truth.labels, truth.weights, reduction="sum")
    return {"loss_objectness": objectness, "loss_rpn_box_reg": regression_loss(offsets, truth)}


def box_losses(logits: Tensor, offsets: Tensor, selection: Selection) -> dict[str, Tensor]:
    """Compute the losses of the samples' class logits ``(R, 2)`` and offsets ``(R, 8)``."""
    truth = selection.of_samples
    classes = F.cross_entropy(logits, truth.labels.long(), reduction="none")
    return {
        "loss_classifier": (truth.weights * classes).sum(),
        "loss_box_reg": regression_loss(offsets[:, 4:], truth),
    }


def regression_loss(offsets: Tensor, truth: Truth) -> Tensor:
    """Smooth L1 distance of the offsets ``(R, 4)`` of objects."""
    distances = F.smooth_l1_loss(offsets, truth.offsets, beta=1 / 9, reduction="none").sum(1)
    return (truth.weights * truth.labels * distances).sum()


def rare_objects(predictor: FastRCNNPredictor) -> FastRCNNPredictor:
    """Start from scores of about 0.1, as focal loss does: otherwise half of all boxes would pass."""
    nn.init.constant_(predictor.cls_score.bias[1:], -2.2)
    nn.init.constant_(predictor.cls_score.bias[:1], 0.0)
    return predictor


def padded_size(features: Sequence[Tensor]) -> tuple[int, int]:
    """Compute (H, W) of the padded images from their features."""
    return FINEST_STRIDE * features[0].shape[2], FINEST_STRIDE * features[0].shape[3]
