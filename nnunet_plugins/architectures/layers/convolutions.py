"""Convolution blocks of all networks; ``conv_op`` decides whether they are 2D or 3D."""

from collections.abc import Callable, Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, get_matching_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, ...]
"""One number for each spatial axis."""

ConvOp = type[nn.Conv2d] | type[nn.Conv3d]

NormOp = Callable[[int], nn.Module]
"""From a number of channels to the layer that normalises them."""


def functional_conv(x: Tensor) -> Callable[..., Tensor]:
    """Convolution of torch's functions for maps ``(B, C, *S)``."""
    return F.conv2d if x.ndim == 4 else F.conv3d


def conv(
    conv_op: ConvOp,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d | nn.Conv3d:
    """Convolution that keeps the size of its input, for odd kernels."""
    dimensions = convert_conv_op_to_dim(conv_op)
    edges: Any = (kernel_size,) * dimensions if isinstance(kernel_size, int) else tuple(kernel_size)
    padding: Any = tuple(dilation * (edge // 2) for edge in edges)
    return conv_op(in_channels, out_channels, edges, padding=padding, dilation=dilation, groups=groups, bias=bias)


def conv_norm(
    conv_op: ConvOp,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    *,
    norm_op: NormOp | None = None,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution that keeps the size, and normalisation; by default that of the batch."""
    normalise = get_matching_batchnorm(conv_op) if norm_op is None else norm_op
    convolution = conv(conv_op, in_channels, out_channels, kernel_size, dilation=dilation, groups=groups, bias=bias)
    return nn.Sequential(convolution, normalise(out_channels))


def conv_norm_relu(
    conv_op: ConvOp,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    *,
    norm_op: NormOp | None = None,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution that keeps the size, normalisation, ReLU."""
    block = conv_norm(
        conv_op, in_channels, out_channels, kernel_size, norm_op=norm_op, dilation=dilation, groups=groups
    )
    return block.append(nn.ReLU(inplace=True))


def double_conv(
    conv_op: ConvOp,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    *,
    norm_op: NormOp | None = None,
) -> nn.Sequential:
    """Convolution, normalisation and ReLU, twice."""
    first = conv_norm_relu(conv_op, in_channels, out_channels, kernel_size, norm_op=norm_op)
    return first.extend(conv_norm_relu(conv_op, out_channels, out_channels, kernel_size, norm_op=norm_op))


def depthwise_conv(
    conv_op: ConvOp, channels: int, kernel_size: int | Sequence[int], dilation: int = 1
) -> nn.Conv2d | nn.Conv3d:
    """Convolution of every channel by itself that keeps the size."""
    return conv(conv_op, channels, channels, kernel_size, dilation=dilation, groups=channels, bias=True)
