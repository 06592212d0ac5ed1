"""DCFFSNet: Deep Connectivity Feature Fusion Separation Network (section 2 of its paper).

Two kinds of features run side by side: the *feature scale* F, from the encoder, and the *connectivity scale* C, from
the bottleneck up. Connectivity is the agreement of a pixel with each of its eight neighbours (``layers.directions``).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.attention import ChannelAttention, SpatialAttention
from nnunet_plugins.architectures.layers.convolutions import conv_norm, conv_norm_relu
from nnunet_plugins.architectures.layers.devices import has_cpu_forms
from nnunet_plugins.architectures.layers.directions import NUM_DIRECTIONS, directional_vote, shift_groups
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_stride
from nnunet_plugins.architectures.layers.recomputation import recomputable
from nnunet_plugins.architectures.layers.resize import upsample


class DCFFSNetOutput(NamedTuple):
    """Output of :class:`DCFFSNet` with deep supervision."""

    logits: Tensor
    """``(B, K, H, W)`` class logits, voted from ``connectivity``."""
    connectivity: Tensor
    """``(B, K, 8, H, W)`` connectivity logits of PConv."""
    bottleneck_connectivity: Tensor | None
    """``(B, K, 8, H, W)`` connectivity logits of DSCRIM, P_out of eq. 1; ``None`` without DSCRIM."""


def connectivity_head(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Make a 1x1 convolution to connectivity logits that are undecided at first: neighbours agree with probability 1/2.

    With a bias of 0 it would be 1/4, and at a learning rate of 1e-4 the background takes hundreds of steps to recover.
    """
    head = nn.Conv2d(in_channels, NUM_DIRECTIONS * num_classes, 1)
    probability = 0.5**0.5
    assert head.bias is not None
    nn.init.constant_(head.bias, math.log(probability / (1 - probability)))
    return head


class DSCRIM(nn.Module):
    """Deeply supervised connectivity representation injection module for the bottleneck features F5, eq. 1-3.

    The eight direction groups share one grouped convolution each, so that all are computed at once. The paper leaves
    open the activation of P_add (here the sigmoid, a gate) and what surrounds the attentions (here a 3x3 convolution
    on either side, as in dual attention networks).

    ``Conv1x1(Upsample32(.))`` of eq. 1 is computed as ``Upsample32(Conv1x1(.))``, which is the same: a 1x1 convolution
    and bilinear interpolation commute, and bilinear interpolation by a whole factor keeps the mean, so that P_add needs
    no full-resolution map either.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        width = channels // NUM_DIRECTIONS

        def conv3x3() -> nn.Module:
            return conv_norm_relu(nn.Conv2d, channels, channels, 3, groups=NUM_DIRECTIONS)

        self.reduce = nn.Conv2d(channels, width, 1)
        # Everything that depends on the number of classes has ".seg_layers." in its name: nnU-Net's
        # -pretrained_weights leaves those weights out and so works across datasets.
        self.seg_layers = nn.ModuleDict(
            {
                "connectivity": connectivity_head(width, num_classes),
                "injection": nn.Conv2d(NUM_DIRECTIONS * num_classes, channels, 1),
            }
        )
        self.spatial_attention = nn.Sequential(conv3x3(), SpatialAttention(channels, NUM_DIRECTIONS), conv3x3())
        self.channel_attention = nn.Sequential(conv3x3(), ChannelAttention(NUM_DIRECTIONS), conv3x3())
        self.fuse = nn.Conv2d(channels, channels, 1, groups=NUM_DIRECTIONS)
        self.decode = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn F5 ``(B, C, h, w)`` into C5 ``(B, C, h, w)`` and P_out before its upsampling, ``(B, 8 * K, h, w)``."""
        connectivity = self.seg_layers["connectivity"](self.reduce(features))  # eq. 1
        prior = self.seg_layers["injection"](connectivity.mean((2, 3), keepdim=True)).sigmoid()  # P_add: (B, C, 1, 1)
        shifted = shift_groups(features)
        attended = self.spatial_attention(shifted) + self.channel_attention(shifted)
        directional = shifted + self.fuse(attended * prior)  # eq. 2, with the bracket of the text's steps 1-3
        return self.decode(directional), connectivity  # eq. 3


class MSFFM(nn.Module):
    """Multi-scale feature fusion module, eq. 4-8: weighs both scales by attention computed from the two together.

    Eight groups of channels share the weights. ``(B, C, H, W)`` twice to ``(B, C, H, W)`` twice.
    """

    def __init__(self, channels: int):
        super().__init__()
        width = channels // NUM_DIRECTIONS
        self.coordinate = nn.Conv2d(width, width, 1)
        self.feature_norm = nn.BatchNorm2d(width)
        self.connectivity_conv = conv_norm(nn.Conv2d, width, width, 3)

    def forward(self, features: Tensor, connectivity: Tensor) -> tuple[Tensor, Tensor]:
        height, width = features.shape[2:]
        f = features.unflatten(1, (NUM_DIRECTIONS, -1)).flatten(0, 1)  # (B*8, C/8, H, W)
        c = connectivity.unflatten(1, (NUM_DIRECTIONS, -1)).flatten(0, 1)

        pooled = torch.cat((f.mean(3), f.mean(2)), 2).unsqueeze(3)  # (B*8, C/8, H+W, 1)
        gates = self.coordinate(pooled).sigmoid().squeeze(3)  # eq. 4
        gate_rows, gate_columns = gates.split((height, width), 2)
        x_f = self.feature_norm(f * gate_rows.unsqueeze(3) * gate_columns.unsqueeze(2))  # eq. 5
        layers: Iterator[Any] = iter(self.connectivity_conv)
        conv, norm = layers
        x_c = norm(convolve_groups(conv, connectivity).view_as(c))  # eq. 6

        attention = (channel_descriptor(x_f) * x_c + channel_descriptor(x_c) * x_f).sum(1, keepdim=True)  # eq. 7
        gate = attention.sigmoid().to(f.dtype)  # (B*8, 1, H, W); autocast sums in float32
        return (f * gate).view_as(features), (c * gate).view_as(connectivity)  # eq. 8


def channel_descriptor(x: Tensor) -> Tensor:
    """Compute ``softmax(GAP(x))`` over the channels, eq. 7: ``(B, C, H, W)`` to ``(B, C, 1, 1)``, in x's precision."""
    return x.mean((2, 3), keepdim=True).softmax(1).to(x.dtype)


class MSRCM(nn.Module):
    """Multi-scale residual convolution module, eq. 9: ``(B, C, H, W)`` to ``(B, C_out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.scales = nn.ModuleList(
            conv_norm(nn.Conv2d, in_channels, in_channels, kernel_size) for kernel_size in (1, 3, 5, 7)
        )
        self.project = conv_norm_relu(nn.Conv2d, in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x + F.relu(sum(scale(x) for scale in self.scales)))


class PConv(nn.Module):
    """Directional convolution, eq. 10: shift eight groups, convolve all with *one* kernel, decode to connectivity.

    ``(B, C, H, W)`` to ``(B, 8 * K, H, W)``.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(channels // NUM_DIRECTIONS, channels // NUM_DIRECTIONS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.seg_layers = nn.ModuleList([connectivity_head(channels, num_classes)])

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        return self.seg_layers[0](F.relu(self.norm(convolve_groups(self.conv, shift_groups(x)))))


def convolve_groups(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve each of the eight groups of channels of ``(B, C, H, W)`` with the same kernel, which keeps the size.

    On the CPU the kernel is repeated for a grouped convolution, with gradients a third of the time of a larger batch.
    """
    if not has_cpu_forms(x):
        return conv(x.unflatten(1, (NUM_DIRECTIONS, -1)).flatten(0, 1)).view_as(x)
    kernels = conv.weight.repeat(NUM_DIRECTIONS, 1, 1, 1)
    return F.conv2d(x, kernels, padding=conv.padding, groups=NUM_DIRECTIONS)


class IdentityFusion(nn.Module):
    """Replacement of MSFFM in the ablation "w/o MSF": returns both inputs unchanged."""

    def forward(self, features: Tensor, connectivity: Tensor) -> tuple[Tensor, Tensor]:
        return features, connectivity


class DecoderStage(nn.Module):
    """Stage of the decoder: MSFFM at the skip, MSRCM on the concatenation, upsampling to the next scale."""

    def __init__(self, skip_channels: int, channels: int, out_channels: int, *, msffm: bool, msrcm: bool):
        super().__init__()
        self.project_skip = (
            nn.Identity() if skip_channels == channels else conv_norm_relu(nn.Conv2d, skip_channels, channels, 1)
        )
        self.fusion = MSFFM(channels) if msffm else IdentityFusion()
        if msrcm:
            self.extract: nn.Module = MSRCM(2 * channels, out_channels)
        else:
            self.extract = nn.Sequential(
                conv_norm_relu(nn.Conv2d, 2 * channels, out_channels, 3),
                conv_norm_relu(nn.Conv2d, out_channels, out_channels, 3),
            )

    @recomputable
    def forward(self, features: Tensor, connectivity: Tensor) -> Tensor:
        features, connectivity = self.fusion(self.project_skip(features), connectivity)
        return upsample(self.extract(torch.cat((connectivity, features), 1)), 2)


class DCFFSNet(nn.Module):
    """DCFFSNet for 2D images of any size, number of channels and number of classes.

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

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions. Each has eight connectivity maps.
        deep_supervision: return :class:`DCFFSNetOutput` instead of the logits.
        voting: "max" or "mean": how eight directions make one class logit, see ``directional_vote``.
        backbone: any timm model with five feature maps, at strides 2 to 32; see the table for ResNet-34.
        decoder_channels: channels of C at 1/16, 1/8, 1/4, 1/2 and 1, multiples of 8.
        use_dscrim: ``False`` gives Table 2's ablation "w/o DS".
        use_msffm: ``False`` gives its ablation "w/o MSF".
        use_msrcm: ``False`` gives its ablation "w/o MSR".

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, K, H, W)``, float32, bounded by +-30.

    Raises:
        ValueError: channels that cannot be split into eight groups, or a backbone without these feature maps.

    Example:
        >>> DCFFSNet(3, 2, backbone="resnet18")(torch.zeros(1, 3, 40, 56)).shape
        torch.Size([1, 2, 40, 56])
    """

    stride = 32
    max_logit = 30.0  # nnU-Net sums logits in fp16 at inference; a probability of 1 - 1e-13 is certain enough

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        voting: str = "max",
        backbone: str = "resnet34.tv_in1k",
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
        self.encoder, encoder_channels = timm_encoder(backbone, in_channels)
        check_channels(backbone, encoder_channels, self.encoder.feature_info.reduction(), decoder_channels)
        f1, f2, f3, f4, f5 = encoder_channels
        c4, c3, c2, c1, c0 = decoder_channels
        self.dscrim = DSCRIM(f5, num_classes) if use_dscrim else None
        self.bottleneck = nn.Conv2d(f5, f5, 1) if self.dscrim is None else nn.Identity()
        self.expand = nn.Conv2d(f5, c4, 1)
        ablation = {"msffm": use_msffm, "msrcm": use_msrcm}
        self.stages = nn.ModuleList(
            [
                DecoderStage(f4, c4, c3, **ablation),
                DecoderStage(f3, c3, c2, **ablation),
                DecoderStage(f2, c2, c1, **ablation),
                DecoderStage(f1, c1, c0, **ablation),
            ]
        )
        self.pconv = PConv(c0, num_classes)

    def forward(self, x: Tensor) -> Tensor | DCFFSNetOutput:
        size = x.shape[2:]
        # Two pixels at 1/32 at least: a shift of a single pixel would leave nothing.
        f1, f2, f3, f4, f5 = self.encoder(pad_to_stride(x, self.stride, minimum=2 * self.stride))
        c5, p_out = self.dscrim(f5) if self.dscrim is not None else (self.bottleneck(f5), None)
        c = upsample(self.expand(c5), 2)
        for stage, features in zip(self.stages, (f4, f3, f2, f1), strict=True):
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
        """Turn connectivity logits ``(B, K, 8, H, W)`` into class logits ``(B, K, H, W)``, in float32."""
        with torch.autocast(connectivity.device.type, enabled=False):
            return bounded(directional_vote(connectivity, self.voting), self.max_logit)

    def per_class(self, x: Tensor) -> Tensor:
        """``(B, 8 * K, H, W)`` to ``(B, K, 8, H, W)``."""
        return x.unflatten(1, (self.num_classes, NUM_DIRECTIONS))


def check_channels(
    backbone: str, encoder_channels: Sequence[int], strides: Sequence[int], decoder_channels: Sequence[int]
) -> None:
    """Refuse encoders without the five scales, and channels that cannot be split into eight groups."""
    if list(strides) != [2, 4, 8, 16, 32] or encoder_channels[-1] % 64:
        raise ValueError(
            f"backbone {backbone!r} has {encoder_channels} channels at strides {strides}: expected strides 2, 4, 8, "
            "16, 32 and a multiple of 64 channels at the last; choose e.g. a ResNet"
        )
    if len(decoder_channels) != 5 or any(width < 8 or width % 8 for width in decoder_channels):
        raise ValueError(
            f"decoder_channels={tuple(decoder_channels)}: expected 5 multiples of 8, for eight groups at every scale; "
            "round each up"
        )
