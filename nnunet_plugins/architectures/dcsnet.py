"""DCSNet: detection, and segmentation inside the detected boxes, for objects that fill less than 1 % of the image.

Zhang et al., "DCSNet: Multiscale Feature Aggregation for Small Medical Object Segmentation with Detection-guided
Hierarchical Cropping". The paper gives the size of a box's features, tokens and number of parameters; the widths of the
convolutions below are ours, and chosen so that the numbers of parameters are the paper's.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from nnunet_plugins.architectures.layers.boxes import crop_boxes, paste_boxes, perturbed
from nnunet_plugins.architectures.layers.detector import Detections, Detector, Objects, runs_eagerly
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import pad_to_stride
from nnunet_plugins.architectures.layers.resize import resize

STRIDES = (4, 8, 16, 32)
"""Of P2 ... P5."""

OUTSIDE = -5.0
"""Logit of every foreground outside all boxes: 0.7 %, about as sure as the head itself is of background. Tiles and
mirrored copies in which a lesion was not detected must not outvote those in which it was."""

GROUPS = 8
"""Of every group normalisation, and heads of the attention."""

MATCHING_IOU = 0.5
"""From which on a detected box is that of a true one."""


class Annotated(NamedTuple):
    """Images, and what is to be detected in them: the network's input in training."""

    images: Tensor
    """``(B, C, H, W)``."""
    objects: Objects

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Annotated":
        objects = self.objects.to(device, non_blocking=non_blocking)
        return Annotated(self.images.to(device, non_blocking=non_blocking), objects)


class Segments(NamedTuple):
    """What the head says about N boxes; K maps of logits each, in the size of the head."""

    logits: Tensor
    """``(N, K, S, S)``, from the fused levels."""
    levels: tuple[Tensor, ...]
    """The same from D2 ... D5 each."""
    edges: Tensor
    """``(N, K, S, S)``: is this pixel on the edge?"""


class DCSNetOutput(NamedTuple):
    """What the network returns with deep supervision."""

    logits: Tensor
    """``(B, K, H, W)``; in training, which needs the segments alone, those of the background."""
    segments: Segments | None = None
    """Of the boxes to train on; ``None`` if the images are not annotated."""
    boxes: Tensor | None = None
    """``(N, 5)``: image and corners of these boxes."""
    weights: Tensor | None = None
    """``(N,)``: 0 for a box that stands for none."""
    detection_losses: dict[str, Tensor] | None = None


class DGHC(nn.Module):
    """Detection-guided hierarchical cropping: each level of the pyramid, in each box, in a fixed size (eq. 1-6).

    Args:
        base_size: S of P2's maps; P3, P4 and P5 have a half, a quarter and an eighth of it.
        sigma_center: standard deviation of a box's centre in training, in widths and heights.
        sigma_scale: the same of its width and height.
    """

    def __init__(self, base_size: int = 64, *, sigma_center: float = 0.05, sigma_scale: float = 0.05):
        super().__init__()
        self.sizes = [base_size >> level for level in range(len(STRIDES))]
        self.sigma_center = sigma_center
        self.sigma_scale = sigma_scale

    def perturb(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes ``(N, 5)`` as uncertain as a detector's, in images of this size; unchanged in evaluation (eq. 2-5)."""
        return perturbed(boxes, size, self.sigma_center, self.sigma_scale) if self.training else boxes

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> list[Tensor]:
        """P2 ... P5 ``(B, C, H / r, W / r)`` to ``(N, C, S, S)`` ... ``(N, C, S / 8, S / 8)`` (eq. 6)."""
        levels = zip(features, self.sizes, STRIDES, strict=True)
        return [crop_boxes(feature, boxes, size, stride) for feature, size, stride in levels]


def conv_gn(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Convolution and group normalisation: boxes are too few, and too much alike, for statistics of a batch."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, out_channels))


def conv_gn_relu(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    return conv_gn(in_channels, out_channels, kernel_size).append(nn.ReLU(inplace=True))


class EncoderBlock(nn.Module):
    """E_i: a convolution, and a residual block of two."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.projection = conv_gn_relu(in_channels, out_channels)
        self.residual = conv_gn_relu(out_channels, out_channels).extend(conv_gn(out_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        return (x + self.residual(x)).relu()


def transformer_layer(channels: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        channels,
        nhead=GROUPS,
        dim_feedforward=2 * channels,
        dropout=0.2,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


class LevelAttention(nn.Module):
    """Tokens of all levels attend to each other, and each level gets its own back (eq. 7).

    Each level becomes a grid of as many tokens as the coarsest has pixels, by a linear projection of patches. Positions
    are learned once for all levels.

    Args:
        widths: channels of E2 ... E5.
        grid: tokens of a level along either axis.
        channels: of a token.
    """

    def __init__(self, widths: Sequence[int], grid: int, channels: int):
        super().__init__()
        patches = [2**level for level in reversed(range(len(widths)))]
        self.tokens = nn.ModuleList(
            nn.Conv2d(width, channels, patch, stride=patch) for width, patch in zip(widths, patches, strict=True)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(grid * grid, channels))
        self.levels = nn.Parameter(0.02 * torch.randn(len(widths), 1, channels))
        self.transformer = nn.Sequential(*(transformer_layer(channels) for _ in range(4)), nn.LayerNorm(channels))
        self.projections = nn.ModuleList(nn.Conv2d(channels, width, 1) for width in widths)

    def forward(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """E2 ... E5, each with its share of the attention's result added."""
        grids = [project(x) for project, x in zip(self.tokens, encoded, strict=True)]  # (N, C, g, g)
        embeddings = (self.positions + self.levels).flatten(0, 1)  # (4 g^2, C)
        tokens = torch.cat([grid.flatten(2) for grid in grids], 2).transpose(1, 2) + embeddings
        attended = self.transformer(tokens).transpose(1, 2).chunk(len(grids), 2)
        context = [
            project(x.reshape(grid.shape)) for project, x, grid in zip(self.projections, attended, grids, strict=True)
        ]
        return [x + resize(c, x.shape[2:]) for x, c in zip(encoded, context, strict=True)]


class PixelFusion(nn.Module):
    """``F = sum of W_i * D_i`` with ``W = softmax(g(cat(D2 ... D5)))``, pixel by pixel (eq. 8-9)."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.gate = nn.Sequential(
            conv_gn_relu(num_levels * channels, channels), nn.Conv2d(channels, num_levels, kernel_size=1)
        )

    def forward(self, decoded: Sequence[Tensor]) -> Tensor:
        weights = self.gate(torch.cat(list(decoded), 1)).softmax(1)
        return (weights[:, :, None] * torch.stack(list(decoded), 1)).sum(1)


class MeanFusion(nn.Module):
    """The mean of all levels."""

    def forward(self, decoded: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(decoded)).mean(0)


class MSFA(nn.Module):
    """Multiscale feature aggregation: encoder, attention, decoder and fusion of the four levels in a box.

    Args:
        num_classes: K.
        base_size: S of the finest maps.
        use_msfa: ``False`` leaves out what the paper adds to an encoder and a decoder: attention, gates and fusion.
        features: channels of the pyramid's maps, and of the tokens.
        widths: channels of E2 ... E5.
        fused_channels: of D2 ... D5 and of what is fused.
    """

    def __init__(
        self,
        num_classes: int,
        base_size: int = 64,
        *,
        use_msfa: bool = True,
        features: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512),
        fused_channels: int = 64,
    ):
        super().__init__()
        self.use_msfa = use_msfa
        pairs = list(pairwise(widths))
        self.encoders = nn.ModuleList(EncoderBlock(features, width) for width in widths)
        self.attention = LevelAttention(widths, base_size >> len(pairs), features) if use_msfa else nn.Identity()
        self.bottleneck = conv_gn_relu(widths[-1], widths[-1])
        self.gates = nn.ModuleList(nn.Conv2d(fine + coarse, 1, 1) for fine, coarse in pairs if use_msfa)
        self.decoders = nn.ModuleList(
            conv_gn_relu(fine + coarse, fine).extend(conv_gn_relu(fine, fine)) for fine, coarse in pairs
        )
        self.refinements = nn.ModuleList(conv_gn_relu(width, fused_channels, kernel_size=1) for width in widths)
        self.fusion = PixelFusion(fused_channels, len(widths)) if use_msfa else MeanFusion()
        self.refinement = conv_gn_relu(fused_channels, fused_channels)
        num_outputs = 1 + len(widths) + 1
        self.seg_layers = nn.ModuleList(nn.Conv2d(fused_channels, num_classes, 1) for _ in range(num_outputs))
        self.seg_layers.register_buffer("has_background", torch.tensor(float(num_classes > 1)))

    def forward(self, levels: Sequence[Tensor]) -> Segments:
        """Maps ``(N, C, S, S)`` ... ``(N, C, S / 8, S / 8)`` of N boxes to logits."""
        encoded = self.attention([encode(x) for encode, x in zip(self.encoders, levels, strict=True)])
        decoded = self.decode(encoded)
        size = encoded[0].shape[2:]
        decoded = [resize(refine(x), size) for refine, x in zip(self.refinements, decoded, strict=True)]
        fused = self.refinement(self.fusion(decoded))
        main, *auxiliary, edge = self.seg_layers
        logits = self.relative_to_background(main(fused))
        by_level = [self.relative_to_background(head(x)) for head, x in zip(auxiliary, decoded, strict=True)]
        return Segments(logits, tuple(by_level), bounded(edge(fused).float()))

    def decode(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """D2 ... D5, in the sizes of E2 ... E5."""
        decoded = [self.bottleneck(encoded[-1])]
        for level in reversed(range(len(self.decoders))):
            skip = encoded[level]
            above = resize(decoded[0], skip.shape[2:])
            if self.use_msfa:
                skip = skip * self.gates[level](torch.cat((skip, above), 1)).sigmoid()
            decoded.insert(0, self.decoders[level](torch.cat((skip, above), 1)))
        return decoded

    @property
    def has_background(self) -> Tensor:
        """1 for classes, 0 for regions. Stored among the heads, which weights for another dataset leave alone."""
        return self.seg_layers.get_buffer("has_background")

    def relative_to_background(self, maps: Tensor) -> Tensor:
        """Logits in float32; those of classes less the background's, which boxes that overlap have in common then."""
        logits = bounded(maps.float())
        return logits - self.has_background * logits[:, :1]


class DCSNet(nn.Module):
    """Faster R-CNN on a ResNet-50 with a pyramid of features, and a head that segments inside boxes.

    Patches ``(B, C, H, W)`` of any size become logits ``(B, K, H, W)``: those of the detected boxes, pasted where these
    are, the maximum where they overlap, and background elsewhere. In training and online validation it takes
    :class:`Annotated` images and returns a :class:`DCSNetOutput`.

    Args:
        in_channels: C.
        num_classes: K, the first of which is the background; or regions, see :meth:`set_regions`.
        deep_supervision: return a :class:`DCSNetOutput`.
        base_size: S, the size of the finest maps of a box, a multiple of 8; Table 6.
        use_dghc: segment in boxes. Otherwise the whole image is the one box; Table 5.
        use_msfa: see :class:`MSFA`; Table 5.
        backbone: name of a timm encoder with feature maps at strides 4, 8, 16 and 32.
        features: channels of the pyramid, and of the tokens; a multiple of 8, as all widths.
        widths: channels of the head's levels E2 ... E5.
        fused_channels: channels of the head's decoded and fused maps.
        anchor_sizes: see :class:`Detector`.
        box_head_channels: channels of the two layers that classify a box.
        min_score: above which a box counts.
        max_objects: most boxes in an image.
        max_true_boxes: most true boxes of a batch to train on, and as many detected ones: each keeps 0.1 GB for the
            backward pass (in float32).

    Raises:
        ValueError: the base size or a width is no multiple of 8, the backbone has not these strides, or there are not
            5 anchors.

    Example:
        >>> DCSNet(3, 2).eval()(torch.zeros(1, 3, 64, 80)).shape
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
        backbone: str = "resnet50",
        features: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512),
        fused_channels: int = 64,
        anchor_sizes: Sequence[int] = (8, 16, 32, 64, 128),
        box_head_channels: int = 1024,
        min_score: float = 0.35,
        max_objects: int = 32,
        max_true_boxes: int = 24,
    ):
        super().__init__()
        if base_size < 16 or base_size % 8:
            raise ValueError(f"base_size={base_size}: expected a multiple of 8 from 16 on.")
        if len(widths) != len(STRIDES):
            raise ValueError(f"widths={tuple(widths)}: expected {len(STRIDES)}, one for each of E2 ... E5.")
        if wrong := [width for width in (features, *widths, fused_channels) if width < GROUPS or width % GROUPS]:
            raise ValueError(
                f"features={features}, widths={tuple(widths)}, fused_channels={fused_channels}: expected multiples of "
                f"{GROUPS}, for group normalisation and attention; round {wrong[0]} up."
            )
        self.deep_supervision = deep_supervision
        self.num_classes = num_classes
        self.use_dghc = use_dghc
        self.backbone = backbone
        self.max_true_boxes = max_true_boxes
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
        self.dghc = DGHC(base_size)
        self.msfa = MSFA(
            num_classes,
            base_size,
            use_msfa=use_msfa,
            features=features,
            widths=widths,
            fused_channels=fused_channels,
        )

    def set_regions(self, regions: bool) -> None:
        """Say whether the K maps are overlapping regions instead of classes; the state dict keeps it."""
        self.msfa.has_background.fill_(float(not regions))

    @runs_eagerly
    def forward(self, x: Tensor | Annotated) -> Tensor | DCSNetOutput:
        images, objects = (x, None) if isinstance(x, Tensor) else x
        features = self.pyramid(pad_to_stride(images, STRIDES[-1], minimum=2 * STRIDES[-1]))
        detected, losses = self.detect(features, images, objects)
        if objects is None:
            logits = self.predict(features, detected, images)
            return DCSNetOutput(logits) if self.deep_supervision else logits

        boxes, weights = self.boxes_to_train_on(objects.boxes, detected, images)
        segments = self.segment(features, boxes)
        with torch.no_grad():  # in validation what nnU-Net scores; in training nobody looks at it
            logits = self.background(images) if self.training else self.predict(features, detected, images)
        return DCSNetOutput(logits, segments, boxes, weights, losses) if self.deep_supervision else logits

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """P2 ... P5, and P6, which only proposes boxes: ``(B, C, H / r, W / r)``."""
        maps = self.encoder(images)[-len(STRIDES) :]
        return list(self.fpn({str(level): x for level, x in enumerate(maps)}).values())

    def segment(self, features: Sequence[Tensor], boxes: Tensor) -> Segments:
        return self.msfa(self.dghc(features[: len(STRIDES)], boxes))

    @runs_eagerly
    def detect(self, features: Sequence[Tensor], images: Tensor, objects: Objects | None) -> Detections:
        """Boxes to segment, and how well the detector does if that can be known."""
        if not self.use_dghc and objects is None:
            return Detections(whole_images(images), {})
        detections = self.detector(features, (images.shape[2], images.shape[3]), objects)
        return detections if self.use_dghc else detections._replace(boxes=whole_images(images))

    @runs_eagerly
    def predict(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` of the images from those of their boxes."""
        logits = self.background(images)
        return paste_boxes(self.segment(features, boxes).logits, boxes, logits) if len(boxes) else logits

    @torch.compiler.disable
    def background(self, images: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` of images in which nothing was detected."""
        outside = torch.full((self.num_classes, 1, 1), OUTSIDE, device=images.device)
        outside[0] *= 1 - self.msfa.has_background
        return outside.expand(len(images), -1, *images.shape[2:]).contiguous()

    @torch.compiler.disable
    def boxes_to_train_on(self, true: Tensor, detected: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, 5)``, perturbed in training, and their weights ``(N,)``.

        Some true ones, and as many of the detected ones that match a true one, so that the head sees what it gets at
        inference. Never none: a box of weight 0 then takes their place, for all processes of a distributed training to
        compute the same.
        """
        if not self.use_dghc:
            return detected, torch.ones_like(detected[:, 0])
        overlap = box_iou(detected[:, 1:], true[:, 1:]) * (detected[:, :1] == true[:, 0])
        matching = detected[(overlap >= MATCHING_IOU).any(1)]
        true, matching = (x[torch.randperm(len(x), device=x.device)] for x in (true, matching))
        true = true[: self.max_true_boxes]
        boxes = torch.cat((true, matching[: len(true)]))
        if not len(boxes):
            return whole_images(images[:1]), boxes.new_zeros(1)
        size = (images.shape[2], images.shape[3])
        return self.dghc.perturb(boxes, size), torch.ones_like(boxes[:, 0])


def whole_images(images: Tensor) -> Tensor:
    """One box for each of ``(B, C, H, W)``: ``(B, 5)``."""
    height, width = images.shape[2:]
    corners = torch.tensor([0.0, 0.0, width, height], device=images.device).expand(len(images), 4)
    return torch.cat((torch.arange(len(images), device=images.device)[:, None], corners), 1)
