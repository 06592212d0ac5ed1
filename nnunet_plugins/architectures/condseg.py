"""ConDSeg: contrast-driven feature enhancement (Lei et al., AAAI 2025), and Net0, which trains its encoder first.

Widths and structures that the paper leaves open are those of its authors' published sizes. Volumes are our extension.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.attention import ChannelGate, SpatialGate
from nnunet_plugins.architectures.layers.contrast import SID, ContrastFusion, ConvolutionFusion
from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size, conv_norm, conv_norm_relu, functional_conv
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_stride, total_stride
from nnunet_plugins.architectures.layers.recomputation import Recomputable, recomputable
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.scales import EncoderPlan, image_scales, plan_scales, round_up

NUM_LEVELS = 4
FEWEST_STAGES = 3  # of a plan of volumes: the decoder needs two levels below the full resolution


class ConDSegOutput(NamedTuple):
    """Output of :class:`ConDSeg` with deep supervision."""

    logits: Tensor
    """``(B, K, *S)`` class logits: of Net0 in stage 1, of the whole network in stage 2."""
    decoupled: Tensor | None
    """``(B, 3, *S)`` logits of foreground, background and uncertainty; ``None`` in stage 1 and without SID."""


# ---- stage 1 ---------------------------------------------------------------------------------------------------------


class Net0Head(nn.Module):
    """Head of Net0: equally many channels of every level at full resolution, side by side, and a 1x1 convolution.

    ``Conv1x1(Upsample(.))`` is computed as ``Upsample(Conv1x1(.))``, which is the same (a 1x1 convolution and bilinear
    interpolation commute): 0.2 instead of 7.8 GMACs for 3x256x256. The last convolution is computed as the sum of those
    of the levels, whose concatenation would be the largest map of all.
    """

    def __init__(self, conv_op: ConvOp, widths: Iterable[int], num_classes: int, channels: int):
        super().__init__()
        self.reduce = nn.ModuleList(conv_op(width, channels, 1, bias=False) for width in widths)
        self.norms = nn.ModuleList(get_matching_batchnorm(conv_op)(channels) for _ in self.reduce)
        # nnU-Net's -pretrained_weights leaves out what has ".seg_layers." in its name, and so works across datasets.
        self.seg_layers = nn.ModuleList([conv_op(channels * len(self.reduce), num_classes, 1)])

    def forward(self, features: Sequence[Tensor], size: Size) -> Tensor:
        (last,) = self.seg_layers
        assert isinstance(last, nn.Conv2d | nn.Conv3d) and last.bias is not None
        weights = last.weight.chunk(len(self.reduce), 1)
        levels = zip(features, weights, self.reduce, self.norms, strict=True)
        shares = [self.share(*level, size) for level in levels]
        return torch.stack(shares).sum(0, dtype=torch.float32) + last.bias.unflatten(0, (-1, *[1] * len(size)))

    @recomputable
    def share(self, feature: Tensor, weight: Tensor, reduce: nn.Module, norm: nn.Module, size: Size) -> Tensor:
        """Compute a level's share of the logits: ``(B, C, *s)`` to ``(B, K, *size)``."""
        return functional_conv(feature)(F.relu(norm(resize(reduce(feature), size))), weight)


class Net0(nn.Module):
    """Encoder with the simplest head, for stage 1: consistency reinforcement.

    8.663 M parameters for three channels and one class (paper's code: 8.663 M).

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        backbone: any timm model with ``features_only``; its first four feature maps are used.
        plan: nnU-Net's stages for an encoder of volumes instead, three or more, of which the first five are used.
        head_channels: channels that the head makes of every feature map; by default 64, and in volumes those of the
            plan's first stage.

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, bounded by +-1000. Or V views of every image,
        ``(B, V, in_channels, *S)``, computed one after the other, to ``(V * B, K, *S)``.

    Raises:
        ValueError: the backbone has fewer than four feature maps, or the plan cannot be followed.

    Example:
        >>> Net0(3, 2, backbone="resnet18")(torch.zeros(2, 3, 40, 56)).shape
        torch.Size([2, 2, 40, 56])
    """

    stage = 1

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        backbone: str = "resnet50.tv_in1k",
        plan: EncoderPlan | None = None,
        head_channels: int | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        if plan is None:
            scales = image_scales(backbone, in_channels, NUM_LEVELS)
        else:
            plan.check(fewest=FEWEST_STAGES)
            scales = plan_scales(plan.first(1 + NUM_LEVELS), in_channels)
        self.conv_op, self.encoder, self.widths = scales.conv_op, scales.encoder, scales.channels
        self.stride = total_stride(scales.strides)
        head_channels = head_channels or (64 if plan is None else plan.features_per_stage[0])
        self.head = Net0Head(self.conv_op, self.widths, num_classes, head_channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == len(self.stride) + 3:
            return torch.cat([self(view) for view in x.unbind(1)])
        padded = pad_to_stride(x, self.stride)
        logits = self.head(self.encoder(padded), padded.shape[2:])
        return bounded(crop(logits, x.shape[2:]))


# ---- stage 2 ---------------------------------------------------------------------------------------------------------


class PreEnhancement(nn.Module):
    """Enhancement of f_i to e_i by dilated convolutions: ``(B, C_in, *S)`` to ``(B, C, *S)``."""

    dilations = (6, 12, 18)

    def __init__(self, conv_op: ConvOp, in_channels: int, channels: int):
        super().__init__()
        convolutions = [conv_norm_relu(conv_op, in_channels, channels, 1)]
        convolutions += [conv_norm_relu(conv_op, in_channels, channels, dilation=d) for d in self.dilations]
        self.branches = nn.ModuleList(branch.append(ChannelGate(conv_op, channels)) for branch in convolutions)
        self.fuse = conv_norm(conv_op, len(convolutions) * channels, channels)
        self.shortcut = conv_norm(conv_op, in_channels, channels, 1)
        self.gate = SpatialGate(conv_op)

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        fused = self.fuse(torch.cat([branch(x) for branch in self.branches], 1))
        return self.gate(F.relu(fused + self.shortcut(x)))


class SADecoder(nn.Module):
    """Size-aware decoder of two adjacent levels: ``(B, C, *s)`` and ``(B, C, *S)`` to ``(B, C, *S)``."""

    def __init__(self, conv_op: ConvOp, channels: int):
        super().__init__()
        self.reduce = conv_norm_relu(conv_op, 2 * channels, channels, 1)
        self.residuals = nn.ModuleList(conv_norm(conv_op, channels, channels, kernel_size) for kernel_size in (3, 3, 1))
        self.gates = nn.Sequential(ChannelGate(conv_op, channels), SpatialGate(conv_op))

    @recomputable
    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        x = self.reduce(torch.cat((resize(deep, shallow.shape[2:]), shallow), 1))
        shortcut = x
        for residual in self.residuals:
            x = F.relu(residual(x) + shortcut)
            shortcut = shortcut + x
        return self.gates(x)


class ConDSeg(nn.Module):
    """ConDSeg for images and volumes of any size, number of channels and number of classes.

    45.55 M parameters without the head of Net0 (0.12 M) and 100.4 GMACs for 3x256x256, one class and ResNet-50 (paper's
    code: 45.553 M, 101.1 G).

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        deep_supervision: return :class:`ConDSegOutput` instead of the logits.
        backbone: any timm model with ``features_only``; its first four feature maps are f1 .. f4.
        plan: nnU-Net's stages for an encoder of volumes instead, see :class:`Net0`. Their finest level is fused by
            convolutions, since CDFA's matrices, 729 weights a head, would be the largest maps by far.
        channels: channels of the enhanced, fused and decoded features; by default 128, and in volumes those of the
            plan's second stage.
        num_heads: heads of CDFA.
        head_channels: channels that Net0's head makes of every feature map, see there.
        window: K of CDFA, odd.
        use_contrast: ``False`` gives Table 4's baseline of the fusion: no SID, and convolutions instead of CDFA.
        use_sa_decoder: ``False`` gives its single-scale decoder: only the one of the two finest levels.

    Attributes:
        stage: 1 computes :attr:`net0` alone, 2 the whole network. Saved in the state dict, so that a checkpoint
            predicts with the network that it was trained for.

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, bounded by +-1000.

    Raises:
        ValueError: an even window, channels that heads and gates cannot share, a backbone with fewer than four
            feature maps, or a plan that cannot be followed.

    Example:
        >>> ConDSeg(3, 2, backbone="resnet18", channels=32)(torch.zeros(2, 3, 40, 56)).shape
        torch.Size([2, 2, 40, 56])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        backbone: str = "resnet50.tv_in1k",
        plan: EncoderPlan | None = None,
        channels: int | None = None,
        num_heads: int = 4,
        head_channels: int | None = None,
        window: int = 3,
        use_contrast: bool = True,
        use_sa_decoder: bool = True,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.stage = 2
        self.net0 = Net0(in_channels, num_classes, backbone=backbone, plan=plan, head_channels=head_channels)
        conv_op, widths = self.net0.conv_op, self.net0.widths
        if channels is None:
            channels = 128 if plan is None else round_up(plan.features_per_stage[1], ChannelGate.reduction)
        check_sizes(window, channels, num_heads)

        self.enhance = nn.ModuleList(PreEnhancement(conv_op, width, channels) for width in widths)
        self.sid = SID(conv_op, widths[-1], channels, doublings=len(widths)) if use_contrast else None
        fusion_widths = (channels, *[2 * channels] * (len(widths) - 1))  # levels 4 .. 1
        num_contrasts = (len(widths) if plan is None else len(widths) - 1) if use_contrast else 0
        self.fusions = nn.ModuleList(
            ContrastFusion(conv_op, width, channels, doublings=doublings, window=window, num_heads=num_heads)
            if doublings < num_contrasts
            else ConvolutionFusion(conv_op, width, channels)
            for doublings, width in enumerate(fusion_widths)
        )
        num_decoders = len(widths) - 1 if use_sa_decoder else 1
        self.decoders = nn.ModuleList(SADecoder(conv_op, channels) for _ in range(num_decoders))
        self.fuse_sizes = Recomputable(*conv_norm_relu(conv_op, num_decoders * channels, channels))
        self.refine = Recomputable(
            conv_norm_relu(conv_op, channels, channels), conv_norm_relu(conv_op, channels, channels // 2, 1)
        )
        self.output = nn.Sequential(OrderedDict(seg_layers=nn.Sequential(conv_op(channels // 2, num_classes, 1))))

    def forward(self, x: Tensor) -> Tensor | ConDSegOutput:
        logits, decoupled = (self.net0(x), None) if self.stage == 1 else self.segment(x)
        if not self.deep_supervision:
            return logits
        return ConDSegOutput(self.with_idle_parameters(logits), decoupled)

    def segment(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the whole network, Figure 2: logits, and with deep supervision SID's masks."""
        padded = pad_to_stride(x, self.net0.stride)
        features = self.net0.encoder(padded)  # f1 .. f4
        enhanced = [enhance(f) for enhance, f in zip(self.enhance, features, strict=True)]  # e1 .. e4
        upwards = [e.shape[2:] for e in reversed(enhanced[:-1])] + [padded.shape[2:]]

        contrast: tuple[Tensor, Tensor] | None = None
        decoupled: Tensor | None = None
        if self.sid is not None:
            contrast = foreground, background = self.sid(features[-1])  # f_fg and f_bg
            if self.deep_supervision:
                masks = self.sid.masks(features[-1], foreground, background, upwards)
                decoupled = bounded(crop(masks, x.shape[2:]))

        fused = self.fuse(enhanced, contrast, upwards)  # F~4 .. F~1
        neighbours = list(pairwise(fused))[-len(self.decoders) :]  # for large, medium and small entities
        decoded = [decoder(*levels) for decoder, levels in zip(self.decoders, neighbours, strict=True)]
        return bounded(crop(self.fuse_decoded(decoded, padded.shape[2:]), x.shape[2:])), decoupled

    def fuse(
        self, enhanced: Sequence[Tensor], contrast: tuple[Tensor, Tensor] | None, upwards: Sequence[Size]
    ) -> list[Tensor]:
        """Fuse e4 .. e1 from the deepest level up, each with the fused level below it."""
        fused: list[Tensor] = []
        for doublings, (fusion, e) in enumerate(zip(self.fusions, reversed(enhanced), strict=True)):
            level = torch.cat((e, resize(fused[-1], e.shape[2:])), 1) if fused else e
            contrasts = () if contrast is None or isinstance(fusion, ConvolutionFusion) else contrast
            fused.append(fusion(level, *contrasts, upwards[:doublings]) if contrasts else fusion(level))
        return fused

    @recomputable
    def fuse_decoded(self, decoded: Sequence[Tensor], size: Size) -> Tensor:
        """Fuse the decoded levels, the finest last, to logits ``(B, K, *size)``."""
        levels = [resize(level, decoded[-1].shape[2:]) for level in decoded]
        fused = self.fuse_sizes(torch.cat(levels, 1))
        return self.output(self.refine(resize(fused, size)))

    def with_idle_parameters(self, logits: Tensor) -> Tensor:
        """Add the parameters that the stage does not use to the logits, times 0: DDP waits for every gradient.

        In float32: the idle parameters' gradient is the sum of all gradients of the logits, which would overflow in
        half precision.
        """
        if not torch.is_grad_enabled():
            return logits
        rest = [child for child in self.children() if child is not self.net0]
        idle = rest if self.stage == 1 else [self.net0.head]
        return logits.float() + 0.0 * torch.stack([p.sum() for module in idle for p in module.parameters()]).sum()

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.stage, device=next(self.parameters()).device)  # with the weights, as if it were one

    def set_extra_state(self, state: Tensor) -> None:
        self.stage = int(state)


def check_sizes(window: int, channels: int, num_heads: int) -> None:
    """Refuse windows without a centre, and channels that CDFA's heads or the channel gates cannot share."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window {window} has no centre: choose an odd one")
    smallest = ChannelGate.reduction
    if channels < smallest or channels % num_heads:
        raise ValueError(
            f"channels={channels}: expected a multiple of {num_heads}, for CDFA's heads, from {smallest} on, for "
            "the channel gates; choose e.g. 32"
        )
