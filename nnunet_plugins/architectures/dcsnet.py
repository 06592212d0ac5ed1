"""DCSNet: detection, and segmentation inside the detected boxes, for objects that fill less than 1 % of the image.

Zhang et al., "DCSNet: Multiscale Feature Aggregation for Small Medical Object Segmentation with Detection-guided
Hierarchical Cropping". The paper gives the sizes of a box's features and tokens, and the number of parameters; the
widths of the convolutions were chosen here to meet it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from nnunet_plugins.architectures.layers.boxes import crop_boxes, paste_boxes, perturbed
from nnunet_plugins.architectures.layers.detection_graph import DetectionGraph
from nnunet_plugins.architectures.layers.detector import ANCHOR_SIZES, Detector, Objects, runs_eagerly
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.msfa import GROUPS, MSFA, Segments
from nnunet_plugins.architectures.layers.old_checkpoints import refuse_state_dicts_without
from nnunet_plugins.architectures.layers.padding import pad_to_stride

STRIDES = (4, 8, 16, 32)
"""Strides of P2 ... P5."""

OUTSIDE = -5.0
"""Logit of every foreground class outside all boxes: sigmoid(-5) = 0.7 %.

Inside a box the head is about as sure of background. Tiles and mirrored copies in which a lesion was not detected must
not outvote those in which it was.
"""


class Annotated(NamedTuple):
    """Images and the objects to detect in them: the network's input in training."""

    images: Tensor
    """``(B, C, H, W)``."""
    objects: Objects

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Annotated":
        return self._replace(images=self.images.to(device, non_blocking=non_blocking))


class DCSNetOutput(NamedTuple):
    """Output of :class:`DCSNet` with deep supervision."""

    logits: Tensor
    """``(B, K, H, W)``; in training background everywhere, as the loss reads only the segments."""
    segments: Segments | None = None
    """Logits of the boxes to train on; ``None`` if the images are not annotated."""
    boxes: Tensor | None = None
    """``(N, 5)``: image and corners of these boxes."""
    weights: Tensor | None = None
    """``(N,)``: weights of these boxes, 0 for those that stand in where there is no object."""
    detection_losses: dict[str, Tensor] | None = None
    """torchvision's four, by its names."""


class DGHC(nn.Module):
    """Detection-guided hierarchical cropping: each level of the pyramid, in each box, in a fixed size (eq. 1-6).

    Args:
        base_size: S, edge of P2's maps; those of P3, P4 and P5 are a half, a quarter and an eighth of it. ``None``
            keeps the sizes of the pyramid's own levels, for boxes that are whole images.
        sigma_center: standard deviation of the shift of a box's centre in training, as a share of its width and height.
        sigma_scale: the same for its width and height.
    """

    def __init__(self, base_size: int | None = 64, *, sigma_center: float = 0.05, sigma_scale: float = 0.05):
        super().__init__()
        self.base_size = base_size
        self.sigma_center = sigma_center
        self.sigma_scale = sigma_scale

    def perturb(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """In training, shift and scale boxes at random, so that they are as inexact as a detector's (eq. 2-5).

        Args:
            boxes: ``(N, 5)``.
            size: height and width of the images.
        """
        return perturbed(boxes, size, self.sigma_center, self.sigma_scale) if self.training else boxes

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> list[Tensor]:
        """Crop P2 ... P5 ``(B, C, H / r, W / r)`` to ``(N, C, S, S)`` ... ``(N, C, S / 8, S / 8)`` (eq. 6)."""
        sizes: list[Sequence[int]] = [feature.shape[2:] for feature in features]
        if self.base_size is not None:
            sizes = [(self.base_size >> level,) * 2 for level in range(len(STRIDES))]
        levels = zip(features, sizes, STRIDES, strict=True)
        return [crop_boxes(feature, boxes, size, stride) for feature, size, stride in levels]


class DCSNet(nn.Module):
    """Faster R-CNN on a ResNet-50 with a feature pyramid, and a head that segments inside boxes.

    Returns logits of the whole image: inside detected boxes those of the head (the maximum where boxes overlap),
    elsewhere those of background. In training and online validation the network takes :class:`Annotated` images.

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions, see :meth:`set_regions`.
        deep_supervision: return a :class:`DCSNetOutput` instead of the logits.
        base_size: S, edge of the finest maps of a box, a multiple of 8; Table 6.
        use_dghc: ``False`` makes the whole image the one box, in the pyramid's own sizes, the finest a quarter of the
            image's; Table 5.
        use_msfa: ``False`` gives a plain encoder and decoder in the boxes, see :class:`MSFA`; Table 5.
        backbone: any timm model with feature maps at strides 4, 8, 16 and 32.
        features: channels of the pyramid, and of the tokens; a multiple of 8, as all widths.
        widths: channels of the head's levels E2 ... E5.
        fused_channels: channels of the head's levels when they are fused.
        anchor_sizes: edges in pixels of the anchors of P2 ... P6.
        box_head_channels: channels of the two layers that classify a box.
        min_score: score from which on a box counts as detected.
        max_objects: most detections in an image.
        boxes_per_image: the head is trained on at most this many boxes for each image of a batch,
        max_boxes: and on at most so many in all; each keeps 0.1 GB for the backward pass (in float32).

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, K, H, W)``, for any H and W.

    Raises:
        ValueError: the base size or a width is no multiple of 8, the backbone lacks these strides, or there are not
            five anchors.

    Example:
        >>> network = DCSNet(3, 2, backbone="resnet18", features=64, box_head_channels=64).eval()
        >>> network(torch.zeros(1, 3, 64, 80)).shape
        torch.Size([1, 2, 64, 80])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        base_size: int = 64,
        use_dghc: bool = True,
        use_msfa: bool = True,
        backbone: str = "resnet50.tv_in1k",
        features: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512),
        fused_channels: int = 64,
        anchor_sizes: Sequence[int] = ANCHOR_SIZES,
        box_head_channels: int = 1024,
        min_score: float = 0.35,
        max_objects: int = 32,
        boxes_per_image: int = 2,
        max_boxes: int = 24,
    ):
        super().__init__()
        check_sizes(base_size, features, widths, fused_channels)
        self.deep_supervision = deep_supervision
        self.num_classes = num_classes
        self.use_dghc = use_dghc
        self.backbone = backbone
        self.boxes_per_image = boxes_per_image
        self.max_boxes = max_boxes
        self.encoder, encoder_channels = timm_encoder(backbone, in_channels)
        if tuple(self.encoder.feature_info.reduction()[-4:]) != STRIDES:
            raise ValueError(f"backbone {backbone!r} has no feature maps at strides {STRIDES}; choose e.g. a ResNet.")
        self.fpn = FeaturePyramidNetwork(encoder_channels[-4:], features, extra_blocks=LastLevelMaxPool())
        self.detector = Detector(
            features,
            anchor_sizes=anchor_sizes,
            box_head_channels=box_head_channels,
            min_score=min_score,
            max_objects=max_objects,
        )
        self.dghc = DGHC(base_size if use_dghc else None)
        self.msfa = MSFA(
            num_classes, base_size, use_msfa=use_msfa, features=features, widths=widths, fused_channels=fused_channels
        )
        if not use_dghc:  # version 0.2.0 had the same weights, for maps of 64 x 64
            self.msfa.seg_layers.register_buffer("stride", torch.tensor(float(STRIDES[0])))
            refuse_state_dicts_without(self, "msfa.seg_layers.stride", "0.2.0")

    def set_regions(self, regions: bool) -> None:
        """Say whether the K maps are overlapping regions instead of classes; the state dict keeps it."""
        self.msfa.has_background.fill_(float(not regions))

    @runs_eagerly
    def forward(self, x: Tensor | Annotated) -> Tensor | DCSNetOutput:
        output = DCSNetOutput(self.infer(x)) if isinstance(x, Tensor) else self.learn(*x)
        return output if self.deep_supervision else output.logits

    @runs_eagerly
    def infer(self, images: Tensor) -> Tensor:
        """Segment images: detect boxes, and segment inside them."""
        features = self.pyramid(images)
        return self.predict(features, self.detect(features, images), images)

    @runs_eagerly
    def learn(self, images: Tensor, objects: Objects) -> DCSNetOutput:
        """Segment inside boxes around true objects, for the losses; in validation also inside the detected ones."""
        features, size = self.pyramid(images), (images.shape[2], images.shape[3])
        proposals = self.detector.propose(features)
        max_boxes = min(self.boxes_per_image * len(images), self.max_boxes)
        boxes, weights, losses = self.detector.learn(features, proposals, size, objects, max_boxes)
        boxes, weights = self.boxes_to_train_on(boxes, weights, images)
        segments = self.segment(features, boxes)
        with torch.no_grad():  # nnU-Net scores these logits in validation, and ignores them in training
            if self.training:
                logits = self.background(images)
            else:
                detected = self.detector.detect(features, proposals, size) if self.use_dghc else boxes
                logits = self.predict(features, detected, images)
        return DCSNetOutput(logits, segments, boxes, weights, losses)

    def for_export(self) -> DetectionGraph:
        """Make a module of the same weights for formats of exported networks, which takes one image at a time."""
        return DetectionGraph(self)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Compute P2 ... P5, and P6, which only proposes boxes: ``(B, C, H / r, W / r)`` of the padded images."""
        padded = pad_to_stride(images, STRIDES[-1])
        maps = self.encoder(padded)[-len(STRIDES) :]
        return list(self.fpn({str(level): x for level, x in enumerate(maps)}).values())

    def segment(self, features: Sequence[Tensor], boxes: Tensor) -> Segments:
        """Segment inside boxes ``(N, 5)``."""
        return self.msfa(self.dghc(features[: len(STRIDES)], boxes))

    @runs_eagerly
    def detect(self, features: Sequence[Tensor], images: Tensor) -> Tensor:
        """Detect the boxes ``(N, 5)`` to segment, whole images without DGHC."""
        if not self.use_dghc:
            return whole_images(images)
        return self.detector(features, (images.shape[2], images.shape[3]))

    @runs_eagerly
    def predict(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """Paste the logits of the boxes into those of the background: ``(B, K, H, W)``."""
        logits = self.background(images)
        return paste_boxes(self.segment(features, boxes).logits, boxes, logits) if len(boxes) else logits

    @torch.compiler.disable
    def background(self, images: Tensor) -> Tensor:
        """Make the logits ``(B, K, H, W)`` of images in which nothing is detected."""
        outside = torch.full((self.num_classes, 1, 1), OUTSIDE, device=images.device)
        # classes: the background map has logit 0; regions have no background map
        outside[0] *= 1 - self.msfa.has_background
        return outside.expand(len(images), -1, *images.shape[2:]).contiguous()

    @torch.compiler.disable
    def boxes_to_train_on(self, boxes: Tensor, weights: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Perturb boxes ``(N, 5)`` of a lesson in training; without DGHC, replace them and their weights ``(N,)``."""
        if not self.use_dghc:
            return whole_images(images), weights.new_ones(len(images))
        return self.dghc.perturb(boxes, (images.shape[2], images.shape[3])), weights


def whole_images(images: Tensor) -> Tensor:
    """Make one box for each of the images ``(B, C, H, W)``: ``(B, 5)``."""
    height, width = images.shape[2:]
    boxes = torch.zeros(len(images), 5, device=images.device)
    boxes[:, 0] = torch.arange(len(images), device=images.device)
    boxes[:, 3], boxes[:, 4] = width, height
    return boxes


def check_sizes(base_size: int, features: int, widths: Sequence[int], fused_channels: int) -> None:
    """Refuse sizes that the pyramid's levels, group normalisation or attention cannot divide."""
    if base_size < 16 or base_size % 8:
        raise ValueError(f"base_size={base_size}: expected a multiple of 8 from 16 on.")
    if len(widths) != len(STRIDES):
        raise ValueError(f"widths={tuple(widths)}: expected {len(STRIDES)}, one for each of E2 ... E5.")
    if wrong := [width for width in (features, *widths, fused_channels) if width < GROUPS or width % GROUPS]:
        raise ValueError(
            f"features={features}, widths={tuple(widths)}, fused_channels={fused_channels}: expected multiples of "
            f"{GROUPS}, for group normalisation and attention; round {wrong[0]} up."
        )
