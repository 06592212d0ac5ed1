"""Contrast-driven feature aggregation of ConDSeg: SID, CDFA, and the levels that they fuse (eq. 8 and 11-14)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size, conv_norm_relu
from nnunet_plugins.architectures.layers.recomputation import Recomputable, recomputable
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.windows import aggregate_windows


class SID(nn.Module):
    """Semantic information decoupling: f4 to f_fg, f_bg and f_uc, each ``(B, C, *s)``, and their masks (eq. 8)."""

    regions = ("foreground", "background", "uncertainty")

    def __init__(self, conv_op: ConvOp, in_channels: int, channels: int, doublings: int = 4):
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                region: nn.Sequential(
                    conv_norm_relu(conv_op, in_channels, 4 * channels),
                    conv_norm_relu(conv_op, 4 * channels, channels),
                    conv_norm_relu(conv_op, channels, channels, 1),
                )
                for region in self.regions
            }
        )
        self.heads = nn.ModuleDict({region: AuxiliaryHead(conv_op, channels, doublings) for region in self.regions})

    def forward(self, f4: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f_fg and f_bg, which the network needs."""
        return self.branches["foreground"](f4), self.branches["background"](f4)

    def masks(self, f4: Tensor, foreground: Tensor, background: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Compute logits of M^fg, M^bg and M^uc, ``(B, 3, *S)``, which only the loss needs."""
        features = (foreground, background, self.branches["uncertainty"](f4))
        return torch.cat([head(f, sizes) for head, f in zip(self.heads.values(), features, strict=True)], 1)


class AuxiliaryHead(nn.Module):
    """Head of one mask, which doubles the size ``doublings`` times: ``(B, C, *s)`` to logits ``(B, 1, *S)``."""

    def __init__(self, conv_op: ConvOp, channels: int, doublings: int = 4):
        super().__init__()
        wide, narrow = 2 * channels, channels // 2
        widths = (channels, *(wide, wide, channels, narrow, narrow)[-(1 + doublings) :])
        self.convolutions = nn.ModuleList(conv_norm_relu(conv_op, a, b) for a, b in pairwise(widths))
        self.predict = conv_op(widths[-1], 1, 1)

    @recomputable
    def forward(self, x: Tensor, sizes: Iterable[Size]) -> Tensor:
        features = convolve_upwards(self.convolutions, x, sizes)
        # The bias in float32: its gradient is the sum of all pixels', which times a scaler's factor would overflow.
        assert self.predict.bias is not None
        return self.predict._conv_forward(features, self.predict.weight, None).float() + self.predict.bias


def convolve_upwards(convolutions: Iterable[nn.Module], x: Tensor, sizes: Iterable[Size]) -> Tensor:
    """Apply the first convolution to ``x``, and each of the others after resizing to one of the sizes."""
    first, *others = convolutions
    x = first(x)
    for convolution, size in zip(others, sizes, strict=True):
        x = convolution(resize(x, size))
    return x


class CDFA(nn.Module):
    """Contrast-driven feature aggregation: attention within a window, with weights from f_fg and f_bg (eq. 11-14).

    ``(B, C_in, *S)`` and twice ``(B, C, *S)`` to ``(B, C, *S)``. A window has M positions, K^2 or in volumes K^3.

    Deviation: the channels are split into heads, each with weights of its own, as in the authors' published sizes; the
    paper has one.
    """

    def __init__(self, conv_op: ConvOp, in_channels: int, channels: int, window: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        positions = window ** convert_conv_op_to_dim(conv_op)
        self.weights_per_window = (positions, positions)
        self.before = Recomputable(
            conv_norm_relu(conv_op, in_channels, channels), conv_norm_relu(conv_op, channels, channels)
        )
        self.value = conv_op(channels, channels, 1)
        self.foreground = conv_op(channels, num_heads * positions**2, 1)  # eq. 12
        self.background = conv_op(channels, num_heads * positions**2, 1)
        self.project = conv_op(channels, channels, 1)
        self.after = Recomputable(
            conv_norm_relu(conv_op, channels, channels), conv_norm_relu(conv_op, channels, channels)
        )

    @recomputable
    def forward(self, x: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        values = self.value(self.before(x)).unflatten(1, (self.num_heads, -1))  # (B, heads, C / heads, *S)
        outer, inner = self.attention(self.foreground(foreground)), self.attention(self.background(background))
        return self.after(self.project(aggregate_windows(values, outer, inner).flatten(1, 2)))

    def attention(self, logits: Tensor) -> Tensor:
        """Turn ``(B, heads * M * M, *S)`` into matrices ``(B, heads, M, M, *S)`` whose rows sum to 1.

        They have the precision of ``logits``: autocast would take the largest maps of the network to float32.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return logits.unflatten(1, (self.num_heads, *self.weights_per_window)).softmax(3)


class ContrastFusion(nn.Module):
    """Level of the multi-level fusion: convolves f_fg and f_bg upwards to its size, and applies CDFA."""

    def __init__(
        self, conv_op: ConvOp, in_channels: int, channels: int, *, doublings: int, window: int, num_heads: int
    ):
        super().__init__()
        self.prepare_foreground, self.prepare_background = (
            nn.ModuleList(Recomputable(*conv_norm_relu(conv_op, channels, channels)) for _ in range(1 + doublings))
            for _ in range(2)
        )
        self.cdfa = CDFA(conv_op, in_channels, channels, window, num_heads)

    @recomputable
    def forward(self, x: Tensor, foreground: Tensor, background: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Fuse; ``sizes`` are those of the levels after the deepest, up to that of ``x``."""
        foreground = convolve_upwards(self.prepare_foreground, foreground, sizes)
        background = convolve_upwards(self.prepare_background, background, sizes)
        return self.cdfa(x, foreground, background)


class ConvolutionFusion(nn.Module):
    """Level of the fusion in Table 4's baseline: the convolutions of CDFA without its attention."""

    def __init__(self, conv_op: ConvOp, in_channels: int, channels: int):
        super().__init__()
        widths = (in_channels, *[channels] * 4)
        self.convolutions = nn.Sequential(*(conv_norm_relu(conv_op, a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolutions(x)
