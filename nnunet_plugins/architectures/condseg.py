"""ConDSeg: contrast-driven feature enhancement (Lei et al., AAAI 2025), and Net0, which trains its encoder first.

Widths and structures that the paper leaves open are those of its authors' published sizes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.convolutions import conv_bn, conv_bn_relu
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_stride
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.windows import aggregate_windows

Size = Sequence[int]

NUM_LEVELS = 4


class ConDSegOutput(NamedTuple):
    """What :class:`ConDSeg` returns for training."""

    logits: Tensor
    """``(B, K, H, W)`` class logits: of Net0 in stage 1, of the whole network in stage 2."""
    decoupled: Tensor | None
    """``(B, 3, H, W)`` logits of foreground, background and uncertainty; ``None`` in stage 1 and without SID."""


# ---- stage 1 ---------------------------------------------------------------------------------------------------------


class Net0Head(nn.Module):
    """The simplest head: some channels of every level at full resolution, side by side, and a 1x1 convolution.

    ``Conv1x1(Upsample(.))`` is computed as ``Upsample(Conv1x1(.))``, which is the same (a 1x1 convolution and bilinear
    interpolation commute): 0.2 instead of 7.8 GMACs for 3x256x256.
    """

    def __init__(self, widths: Iterable[int], num_classes: int, channels: int):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=False) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in self.reduce)
        # nnU-Net's -pretrained_weights leaves out what has ".seg_layers." in its name, and so works across datasets.
        self.seg_layers = nn.ModuleList([nn.Conv2d(channels * len(self.reduce), num_classes, 1)])

    def forward(self, features: Sequence[Tensor], size: Size) -> Tensor:
        levels = [
            F.relu(norm(resize(reduce(f), size)))
            for f, reduce, norm in zip(features, self.reduce, self.norms, strict=True)
        ]
        return self.seg_layers[0](torch.cat(levels, 1))


class Net0(nn.Module):
    """Encoder and the simplest head, for stage 1: consistency reinforcement.

    8.663 M parameters for three channels and one class (paper's code: 8.663 M).

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        backbone: any timm model with ``features_only``; its first four feature maps are used.
        head_channels: channels that the head takes from every feature map.

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, K, H, W)``, bounded by +-1000. Or V views of every image,
        ``(B, V, in_channels, H, W)``, computed one after the other, to ``(V * B, K, H, W)``.

    Raises:
        ValueError: the backbone has fewer than four feature maps.
    """

    stage = 1

    def __init__(self, in_channels: int, num_classes: int, *, backbone: str = "resnet50", head_channels: int = 64):
        super().__init__()
        self.backbone = backbone
        self.encoder, self.widths = timm_encoder(backbone, in_channels, NUM_LEVELS)
        self.stride: int = self.encoder.feature_info.reduction()[-1]
        self.head = Net0Head(self.widths, num_classes, head_channels)

    def pad(self, x: Tensor) -> Tensor:
        """To two pixels of f4 at least: batch normalisation wants more than one value of each channel."""
        return pad_to_stride(x, self.stride, minimum=2 * self.stride)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 5:
            return torch.cat([self(view) for view in x.unbind(1)])
        padded = self.pad(x)
        logits = self.head(self.encoder(padded), padded.shape[2:])
        return bounded(crop(logits, x.shape[2:]))


# ---- stage 2 ---------------------------------------------------------------------------------------------------------


class ChannelGate(nn.Module):
    """Weighs channels by their mean and maximum (Woo et al., CBAM, ECCV 2018). ``(B, C, H, W)`` to the same."""

    reduction = 16

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // self.reduction
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True))).sigmoid()


class SpatialGate(nn.Module):
    """Weighs positions by mean and maximum over the channels, likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()


class PreEnhancement(nn.Module):
    """f_i to e_i by dilated convolutions: ``(B, C_in, H, W)`` to ``(B, C, H, W)``."""

    dilations = (6, 12, 18)

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        convolutions = [conv_bn_relu(in_channels, channels, 1)]
        convolutions += [conv_bn_relu(in_channels, channels, 3, dilation=dilation) for dilation in self.dilations]
        self.branches = nn.ModuleList(convolution.append(ChannelGate(channels)) for convolution in convolutions)
        self.fuse = conv_bn(len(convolutions) * channels, channels, 3)
        self.shortcut = conv_bn(in_channels, channels, 1)
        self.gate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        fused = self.fuse(torch.cat([branch(x) for branch in self.branches], 1))
        return self.gate(F.relu(fused + self.shortcut(x)))


class SID(nn.Module):
    """Semantic information decoupling: f4 to f_fg, f_bg and f_uc, each ``(B, C, h, w)``, and their masks (eq. 8)."""

    regions = ("foreground", "background", "uncertainty")

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                region: nn.Sequential(
                    conv_bn_relu(in_channels, 4 * channels, 3),
                    conv_bn_relu(4 * channels, channels, 3),
                    conv_bn_relu(channels, channels, 1),
                )
                for region in self.regions
            }
        )
        self.heads = nn.ModuleDict({region: AuxiliaryHead(channels) for region in self.regions})

    def forward(self, f4: Tensor) -> tuple[Tensor, Tensor]:
        """f_fg and f_bg."""
        return self.branches["foreground"](f4), self.branches["background"](f4)

    def masks(self, f4: Tensor, foreground: Tensor, background: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Logits of M^fg, M^bg and M^uc, ``(B, 3, H, W)``: for training alone."""
        features = (foreground, background, self.branches["uncertainty"](f4))
        return torch.cat([head(f, sizes) for head, f in zip(self.heads.values(), features, strict=True)], 1)


class AuxiliaryHead(nn.Module):
    """``(B, C, h, w)`` to logits of one mask ``(B, 1, H, W)``, doubling the size four times on the way."""

    def __init__(self, channels: int):
        super().__init__()
        widths = (channels, 2 * channels, 2 * channels, channels, channels // 2, channels // 2)
        self.convolutions = nn.ModuleList(conv_bn_relu(a, b, 3) for a, b in pairwise(widths))
        self.predict = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor, sizes: Iterable[Size]) -> Tensor:
        return self.predict(convolve_upwards(self.convolutions, x, sizes))


def convolve_upwards(convolutions: Iterable[nn.Module], x: Tensor, sizes: Iterable[Size]) -> Tensor:
    """A convolution at the size of ``x``, and one after every resizing."""
    first, *others = convolutions
    x = first(x)
    for convolution, size in zip(others, sizes, strict=True):
        x = convolution(resize(x, size))
    return x


class CDFA(nn.Module):
    """Contrast-driven feature aggregation, eq. 11-14: attention within a window, with weights from f_fg and f_bg alone.

    ``(B, C_in, H, W)`` and twice ``(B, C, H, W)`` to ``(B, C, H, W)``. Deviation: the channels are split into heads,
    each with weights of its own, as in the authors' published sizes; the paper has one.
    """

    def __init__(self, in_channels: int, channels: int, window: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.weights_per_window = (window**2, window**2)
        self.before = nn.Sequential(conv_bn_relu(in_channels, channels, 3), conv_bn_relu(channels, channels, 3))
        self.value = nn.Conv2d(channels, channels, 1)
        self.foreground = nn.Conv2d(channels, num_heads * window**4, 1)  # eq. 12
        self.background = nn.Conv2d(channels, num_heads * window**4, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.after = nn.Sequential(conv_bn_relu(channels, channels, 3), conv_bn_relu(channels, channels, 3))

    def forward(self, x: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        values = self.value(self.before(x)).unflatten(1, (self.num_heads, -1))  # (B, heads, C / heads, H, W)
        outer, inner = self.attention(self.foreground(foreground)), self.attention(self.background(background))
        return self.after(self.project(aggregate_windows(values, outer, inner).flatten(1, 2)))

    def attention(self, logits: Tensor) -> Tensor:
        """``(B, heads * K^4, H, W)`` to ``(B, heads, K^2, K^2, H, W)``, whose rows sum to 1.

        In the precision of ``logits``: autocast would take the largest maps of the network to float32.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return logits.unflatten(1, (self.num_heads, *self.weights_per_window)).softmax(3)


class ContrastFusion(nn.Module):
    """A level of the multi-level fusion: brings f_fg and f_bg to its size by convolutions, and applies CDFA."""

    def __init__(self, in_channels: int, channels: int, doublings: int, window: int, num_heads: int):
        super().__init__()
        self.prepare_foreground, self.prepare_background = (
            nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in range(1 + doublings)) for _ in range(2)
        )
        self.cdfa = CDFA(in_channels, channels, window, num_heads)

    def forward(self, x: Tensor, foreground: Tensor, background: Tensor, sizes: Sequence[Size]) -> Tensor:
        """``sizes`` are those from f_fg's, exclusive, to that of ``x``."""
        foreground = convolve_upwards(self.prepare_foreground, foreground, sizes)
        background = convolve_upwards(self.prepare_background, background, sizes)
        return self.cdfa(x, foreground, background)


class ConvolutionFusion(nn.Module):
    """Table 4, baseline: CDFA's convolutions without the attention."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        widths = (in_channels, *[channels] * 4)
        self.convolutions = nn.Sequential(*(conv_bn_relu(a, b, 3) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolutions(x)


class SADecoder(nn.Module):
    """Size-aware decoder: two adjacent levels, ``(B, C, h, w)`` and ``(B, C, H, W)``, to ``(B, C, H, W)``."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = conv_bn_relu(2 * channels, channels, 1)
        self.residuals = nn.ModuleList(conv_bn(channels, channels, kernel_size) for kernel_size in (3, 3, 1))
        self.gates = nn.Sequential(ChannelGate(channels), SpatialGate())

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        x = self.reduce(torch.cat((resize(deep, shallow.shape[2:]), shallow), 1))
        shortcut = x
        for residual in self.residuals:
            x = F.relu(residual(x) + shortcut)
            shortcut = shortcut + x
        return self.gates(x)


class ConDSeg(nn.Module):
    """ConDSeg for 2D images of any size, number of channels and number of classes.

    45.55 M parameters without the head of Net0 (0.12 M) and 100.4 GMACs for 3x256x256, one class and ResNet-50 (paper's
    code: 45.553 M, 101.1 G).

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        deep_supervision: return :class:`ConDSegOutput` instead of the logits.
        backbone: any timm model with ``features_only``; its first four feature maps are f1 .. f4.
        channels: of the enhanced, fused and decoded features.
        num_heads: of CDFA.
        head_channels: of Net0's head.
        window: K of CDFA, odd.
        use_contrast: ``False`` gives Table 4's baseline of the fusion: no SID, convolutions in the place of CDFA.
        use_sa_decoder: ``False`` gives its single-scale decoder: the one of the two finest levels alone.

    Attributes:
        stage: 1 computes :attr:`net0` alone, 2 the whole network. Saved in the state dict, so that a checkpoint
            predicts with what it was trained for.

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, K, H, W)``, bounded by +-1000.

    Raises:
        ValueError: an even window, channels that heads and gates cannot share, or a backbone with fewer than four
            feature maps.

    Example:
        >>> ConDSeg(3, 2)(torch.zeros(2, 3, 40, 56)).shape
        torch.Size([2, 2, 40, 56])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        backbone: str = "resnet50",
        channels: int = 128,
        num_heads: int = 4,
        head_channels: int = 64,
        window: int = 3,
        use_contrast: bool = True,
        use_sa_decoder: bool = True,
    ):
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window {window} has no centre: choose an odd one")
        smallest = ChannelGate.reduction
        if channels < smallest or channels % num_heads:
            raise ValueError(
                f"channels={channels}: expected a multiple of {num_heads}, for CDFA's heads, from {smallest} on, for "
                "the channel gates; choose e.g. 32"
            )
        self.deep_supervision = deep_supervision
        self.stage = 2
        self.net0 = Net0(in_channels, num_classes, backbone=backbone, head_channels=head_channels)
        widths = self.net0.widths
        self.enhance = nn.ModuleList(PreEnhancement(width, channels) for width in widths)
        self.sid = SID(widths[-1], channels) if use_contrast else None
        fusion_widths = [channels] + [2 * channels] * (NUM_LEVELS - 1)  # levels 4 .. 1
        if use_contrast:
            self.fusions = nn.ModuleList(
                ContrastFusion(width, channels, doublings, window, num_heads)
                for doublings, width in enumerate(fusion_widths)
            )
        else:
            self.fusions = nn.ModuleList(ConvolutionFusion(width, channels) for width in fusion_widths)
        self.decoders = nn.ModuleList(SADecoder(channels) for _ in range(NUM_LEVELS - 1 if use_sa_decoder else 1))
        self.fuse_sizes = conv_bn_relu(len(self.decoders) * channels, channels, 3)
        self.refine = nn.Sequential(conv_bn_relu(channels, channels, 3), conv_bn_relu(channels, channels // 2, 1))
        self.output = nn.Sequential(OrderedDict(seg_layers=nn.Sequential(nn.Conv2d(channels // 2, num_classes, 1))))

    def forward(self, x: Tensor) -> Tensor | ConDSegOutput:
        logits, decoupled = (self.net0(x), None) if self.stage == 1 else self.segment(x)
        if not self.deep_supervision:
            return logits
        return ConDSegOutput(self.with_idle_parameters(logits), decoupled)

    def segment(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Stage 2."""
        padded = self.net0.pad(x)
        features = self.net0.encoder(padded)  # f1 .. f4
        enhanced = [enhance(f) for enhance, f in zip(self.enhance, features, strict=True)]  # e1 .. e4
        upwards = [e.shape[2:] for e in reversed(enhanced[:-1])] + [padded.shape[2:]]

        decoupled: Tensor | None = None
        if self.sid is not None:
            foreground, background = self.sid(features[-1])
            if self.deep_supervision:
                masks = self.sid.masks(features[-1], foreground, background, upwards)
                decoupled = bounded(crop(masks, x.shape[2:]))

        fused: list[Tensor] = []  # F~4 .. F~1
        for doublings, (fusion, e) in enumerate(zip(self.fusions, reversed(enhanced), strict=True)):
            level = torch.cat((e, resize(fused[-1], e.shape[2:])), 1) if fused else e
            contrast = () if self.sid is None else (foreground, background, upwards[:doublings])
            fused.append(fusion(level, *contrast))

        finest = fused[-1].shape[2:]
        neighbours = list(pairwise(fused))[-len(self.decoders) :]  # for large, medium and small entities
        decoded = [resize(decoder(*levels), finest) for decoder, levels in zip(self.decoders, neighbours, strict=True)]
        refined = self.refine(resize(self.fuse_sizes(torch.cat(decoded, 1)), padded.shape[2:]))
        return bounded(crop(self.output(refined), x.shape[2:])), decoupled

    def with_idle_parameters(self, logits: Tensor) -> Tensor:
        """Let the parameters that the stage does not use enter the loss, times 0: DDP waits for every gradient.

        In float32: the sum of all gradients of the logits is theirs, and in half precision it would overflow.
        """
        if not torch.is_grad_enabled():
            return logits
        rest = [child for child in self.children() if child is not self.net0]
        idle = rest if self.stage == 1 else [self.net0.head]
        return logits.float() + 0.0 * torch.stack([p.sum() for module in idle for p in module.parameters()]).sum()

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.stage)

    def set_extra_state(self, state: Tensor) -> None:
        self.stage = int(state)
