"""DCFFSNet: Deep Connectivity Feature Fusion Separation Network (section 2 of its paper).

Two kinds of features run side by side: the *feature scale* F, from the encoder, and the *connectivity scale* C, from
the bottleneck up. Connectivity is the agreement of a pixel with each of its D neighbours (``layers.directions``):
eight in images, as published, and six in volumes, which are our extension.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.connectivity import DSCRIM, PConv, convolve_groups
from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size, conv, conv_norm, conv_norm_relu
from nnunet_plugins.architectures.layers.directions import Directions, directional_vote, neighbours
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_stride, total_stride
from nnunet_plugins.architectures.layers.recomputation import recomputable
from nnunet_plugins.architectures.layers.resize import upsample
from nnunet_plugins.architectures.layers.scales import EncoderPlan, Scales, image_scales, plan_scales, round_up


class DCFFSNetOutput(NamedTuple):
    """Output of :class:`DCFFSNet` with deep supervision."""

    logits: Tensor
    """``(B, K, *S)`` class logits, voted from ``connectivity``."""
    connectivity: Tensor
    """``(B, K, D, *S)`` connectivity logits of PConv."""
    bottleneck_connectivity: Tensor | None
    """``(B, K, D, *S)`` connectivity logits of DSCRIM, P_out of eq. 1; ``None`` without DSCRIM."""


class MSFFM(nn.Module):
    """Multi-scale feature fusion module, eq. 4-8: weighs both scales by attention computed from the two together.

    The groups of channels, one for each direction, share the weights. ``(B, C, *S)`` twice to ``(B, C, *S)`` twice.
    """

    def __init__(self, conv_op: ConvOp, channels: int, groups: int, kernel_size: int | Size = 3):
        super().__init__()
        self.groups = groups
        width = channels // groups
        self.coordinate = conv_op(width, width, 1)
        self.feature_norm = get_matching_batchnorm(conv_op)(width)
        self.connectivity_conv = conv_norm(conv_op, width, width, kernel_size)

    def forward(self, features: Tensor, connectivity: Tensor) -> tuple[Tensor, Tensor]:
        f = features.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (B*D, C/D, *S)
        c = connectivity.unflatten(1, (self.groups, -1)).flatten(0, 1)

        x_f = f
        for gate in self.gates(f):
            x_f = x_f * gate
        x_f = self.feature_norm(x_f)  # eq. 5
        layers: Iterator[Any] = iter(self.connectivity_conv)
        conv, norm = layers
        x_c = norm(convolve_groups(conv, connectivity, self.groups).view_as(c))  # eq. 6

        attention = (channel_descriptor(x_f) * x_c + channel_descriptor(x_c) * x_f).sum(1, keepdim=True)  # eq. 7
        gate = attention.sigmoid().to(f.dtype)  # (B*D, 1, *S); autocast sums in float32
        return (f * gate).view_as(features), (c * gate).view_as(connectivity)  # eq. 8

    def gates(self, f: Tensor) -> list[Tensor]:
        """Compute a gate along every axis from the means over the others, eq. 4: ``(B*D, C/D, H, 1)`` and so on."""
        axes = range(2, f.ndim)
        pooled = torch.cat([f.mean([other for other in axes if other != axis]) for axis in axes], 2)
        gates = self.coordinate(pooled[(..., *[None] * (len(axes) - 1))]).sigmoid().flatten(2)  # (B*D, C/D, H + W)
        shapes = [[-1 if other == axis else 1 for other in axes] for axis in axes]
        parts = gates.split(tuple(f.shape[2:]), 2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


def channel_descriptor(x: Tensor) -> Tensor:
    """Compute ``softmax(GAP(x))`` over the channels, eq. 7: ``(B, C, *S)`` to ``(B, C, 1, ...)``, in x's precision."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True).softmax(1).to(x.dtype)


class MSRCM(nn.Module):
    """Multi-scale residual convolution module, eq. 9: ``(B, C, *S)`` to ``(B, C_out, *S)``."""

    def __init__(self, conv_op: ConvOp, in_channels: int, out_channels: int, kernel_size: int | Size = 3):
        super().__init__()
        self.scales = nn.ModuleList(scale(conv_op, in_channels, kernel_size, reach) for reach in range(4))
        self.project = conv_norm_relu(conv_op, in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x + F.relu(sum(scale(x) for scale in self.scales)))


def scale(conv_op: ConvOp, channels: int, kernel_size: int | Size, reach: int) -> nn.Sequential:
    """Make a scale of MSRCM: a convolution that sees ``reach`` pixels far, and normalisation.

    In volumes kernels of 5 and 7 are chains of two and three of ``kernel_size`` with nothing between them, which is a
    large kernel in factors: 54 and 81 weights instead of 125 and 343 (``speed/dcffsnet_ops.py``).
    """
    if reach == 0 or conv_op is nn.Conv2d:
        return conv_norm(conv_op, channels, channels, 2 * reach + 1)
    chain = [conv(conv_op, channels, channels, kernel_size) for _ in range(reach - 1)]
    return nn.Sequential(*chain, *conv_norm(conv_op, channels, channels, kernel_size))


class IdentityFusion(nn.Module):
    """Replacement of MSFFM in the ablation "w/o MSF": returns both inputs unchanged."""

    def forward(self, features: Tensor, connectivity: Tensor) -> tuple[Tensor, Tensor]:
        return features, connectivity


class DecoderStage(nn.Module):
    """Stage of the decoder: MSFFM at the skip, MSRCM on the concatenation, upsampling to the next scale."""

    def __init__(
        self,
        conv_op: ConvOp,
        skip_channels: int,
        channels: int,
        out_channels: int,
        *,
        groups: int,
        kernel_size: int | Size,
        stride: Size,
        msffm: bool,
        msrcm: bool,
    ):
        super().__init__()
        self.stride = stride
        self.project_skip = (
            nn.Identity() if skip_channels == channels else conv_norm_relu(conv_op, skip_channels, channels, 1)
        )
        self.fusion = MSFFM(conv_op, channels, groups, kernel_size) if msffm else IdentityFusion()
        if msrcm:
            self.extract: nn.Module = MSRCM(conv_op, 2 * channels, out_channels, kernel_size)
        else:
            self.extract = nn.Sequential(
                conv_norm_relu(conv_op, 2 * channels, out_channels, kernel_size),
                conv_norm_relu(conv_op, out_channels, out_channels, kernel_size),
            )

    @recomputable
    def forward(self, features: Tensor, connectivity: Tensor) -> Tensor:
        features, connectivity = self.fusion(self.project_skip(features), connectivity)
        return upsample(self.extract(torch.cat((connectivity, features), 1)), self.stride)


class DCFFSNet(nn.Module):
    """DCFFSNet for images and volumes of any size, number of channels and number of classes.

    ======  ==========  ==========  ==================  ================
    scale   encoder F   C and F     into MSRCM (C + F)  out of the stage
    ======  ==========  ==========  ==================  ================
    1/32    512         DSCRIM 512  -                   256 (1x1)
    1/16    256         256         512                 128
    1/8     128         128         256                 64
    1/4     64          64          128                 32
    1/2     64 -> 32    32          64                  64
    1       -           -           -                   PConv: 8 * K
    ======  ==========  ==========  ==================  ================

    With ResNet-34, 52.34 M parameters and 21.44 GMACs for 3x224x224 and one class (paper: 52.717 M, 21.732 G). The
    paper leaves the encoder and all widths open; these meet its figures.

    Volumes, our extension, have an encoder that follows nnU-Net's plans, and at every scale below the full resolution
    what the table has; C is as wide as F one scale finer.

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions. Each has D connectivity maps.
        deep_supervision: return :class:`DCFFSNetOutput` instead of the logits.
        voting: "max" or "mean": how D directions make one class logit, see ``directional_vote``.
        backbone: any timm model with five feature maps, at strides 2 to 32; see the table for ResNet-34.
        decoder_channels: channels of C at 1/16, 1/8, 1/4, 1/2 and 1, multiples of D.
        plan: nnU-Net's stages, two or more, for an encoder of volumes instead of ``backbone`` and channels of C that
            follow from it. Across axes along which the first kernels are 1, as of thick slices, there is no neighbour.
        diagonal: whether pixels that share only an edge or a corner are neighbours; by default in images alone. In
            volumes 26 directions instead of 6 take four times the memory at full resolution.
        use_dscrim: ``False`` gives Table 2's ablation "w/o DS".
        use_msffm: ``False`` gives its ablation "w/o MSF".
        use_msrcm: ``False`` gives its ablation "w/o MSR".

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, float32, bounded by +-30.

    Raises:
        ValueError: channels that cannot be split into D groups, a backbone without these feature maps, or a plan that
            cannot be followed.

    Example:
        >>> DCFFSNet(3, 2, backbone="resnet18")(torch.zeros(1, 3, 40, 56)).shape
        torch.Size([1, 2, 40, 56])
        >>> plan = EncoderPlan([(1, 1, 1), (2, 2, 2)], [(3, 3, 3)] * 2, [12, 24])
        >>> DCFFSNet(1, 2, plan=plan)(torch.zeros(1, 1, 8, 12, 10)).shape
        torch.Size([1, 2, 8, 12, 10])
    """

    max_logit = 30.0  # nnU-Net sums logits in fp16 at inference; a probability of 1 - 1e-13 is certain enough

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        voting: str = "max",
        backbone: str = "resnet34.tv_in1k",
        plan: EncoderPlan | None = None,
        diagonal: bool | None = None,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 64),
        use_dscrim: bool = True,
        use_msffm: bool = True,
        use_msrcm: bool = True,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.deep_supervision = deep_supervision
        self.voting = voting
        self.backbone = backbone
        self.directions = directions_of(plan, diagonal)
        groups = len(self.directions)
        if plan is None:
            scales = scales_of_images(backbone, in_channels)
        else:
            plan, decoder_channels = grouped(plan, groups)
            scales = plan_scales(plan, in_channels)
        conv_op, self.encoder, encoder_channels, strides, kernel_sizes = scales
        check_channels(encoder_channels, decoder_channels, groups)
        self.stride = total_stride(strides)
        self.step = strides[-1]
        *skips, f5 = encoder_channels
        self.dscrim = DSCRIM(conv_op, f5, num_classes, self.directions) if use_dscrim else None
        self.bottleneck = conv_op(f5, f5, 1) if self.dscrim is None else nn.Identity()
        self.expand = conv_op(f5, decoder_channels[0], 1)
        levels = zip(reversed(skips), pairwise(decoder_channels), kernel_sizes[-2:0:-1], strides[-2::-1], strict=True)
        options: dict[str, Any] = {"groups": groups, "msffm": use_msffm, "msrcm": use_msrcm}
        self.stages = nn.ModuleList(
            DecoderStage(conv_op, skip, *widths, kernel_size=kernel_size, stride=stride, **options)
            for skip, widths, kernel_size, stride in levels
        )
        self.pconv = PConv(conv_op, decoder_channels[-1], num_classes, self.directions, kernel_sizes[0])

    def forward(self, x: Tensor) -> Tensor | DCFFSNetOutput:
        size = x.shape[2:]
        *skips, f5 = self.encoder(pad_to_stride(x, self.stride))
        c5, p_out = self.dscrim(f5) if self.dscrim is not None else (self.bottleneck(f5), None)
        c = upsample(self.expand(c5), self.step)
        for stage, features in zip(self.stages, reversed(skips), strict=True):
            c = stage(features, c)
        connectivity = self.per_class(crop(self.pconv(c), size))
        logits = self.vote(connectivity)
        if not self.deep_supervision:
            return logits
        if p_out is not None:
            p_out = self.per_class(crop(upsample(p_out.float(), self.stride), size))  # 4000 gradients meet in a pixel
        return DCFFSNetOutput(logits, connectivity, p_out)

    @recomputable
    def vote(self, connectivity: Tensor) -> Tensor:
        """Turn connectivity logits ``(B, K, D, *S)`` into class logits ``(B, K, *S)``, in float32."""
        with torch.autocast(connectivity.device.type, enabled=False):
            return bounded(directional_vote(connectivity, self.voting, self.directions), self.max_logit)

    def per_class(self, x: Tensor) -> Tensor:
        """``(B, D * K, *S)`` to ``(B, K, D, *S)``."""
        return x.unflatten(1, (self.num_classes, len(self.directions)))


# ---- scales ----------------------------------------------------------------------------------------------------------


def directions_of(plan: EncoderPlan | None, diagonal: bool | None = None) -> Directions:
    """List the directions to the neighbours in images or in a plan's volumes; see :class:`DCFFSNet`."""
    if plan is None:
        return neighbours((True, True), diagonal=diagonal is not False)
    return neighbours([edge > 1 for edge in plan.kernel_sizes[0]], diagonal=bool(diagonal))


def grouped(plan: EncoderPlan, groups: int) -> tuple[EncoderPlan, list[int]]:
    """Round the deepest features up to what DSCRIM's groups need, and derive C's channels, coarse to fine.

    Raises:
        ValueError: the plan cannot be followed.
    """
    plan.check(fewest=2)
    *features, deepest = plan.features_per_stage
    one_scale_finer = (*features[-2::-1], features[0])
    plan = plan._replace(features_per_stage=[*features, round_up(deepest, 8 * groups)])
    return plan, [round_up(width, math.lcm(groups, 4)) for width in one_scale_finer]  # 2C: what tensor cores need


def scales_of_images(backbone: str, in_channels: int) -> Scales:
    """Make an encoder of images.

    Raises:
        ValueError: it lacks one of the five scales, or its last features cannot be split for the attentions.
    """
    scales = image_scales(backbone, in_channels)
    if scales.strides != [(2, 2)] * 5 or scales.channels[-1] % 64:
        raise ValueError(
            f"backbone {backbone!r} has {scales.channels} channels at strides "
            f"{scales.encoder.feature_info.reduction()}: expected strides 2, 4, 8, 16, 32 and a multiple of 64 "
            "channels at the last; choose e.g. a ResNet"
        )
    return scales


def check_channels(encoder_channels: Sequence[int], decoder_channels: Sequence[int], groups: int) -> None:
    """Refuse channels of C that do not fit the scales, or that cannot be split into groups."""
    num_scales = len(encoder_channels)
    if len(decoder_channels) != num_scales or any(width < groups or width % groups for width in decoder_channels):
        raise ValueError(
            f"decoder_channels={tuple(decoder_channels)}: expected {num_scales} multiples of {groups}, for a group of "
            "each direction at every scale; round each up"
        )
