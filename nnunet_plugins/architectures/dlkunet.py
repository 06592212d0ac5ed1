"""DLKUNet: a lightweight U-Net of depthwise convolutions and large-kernel attention (section 3 of its paper).

One code for 2D and 3D: ``conv_op`` decides.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, get_matching_convtransp
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size, conv_norm, depthwise_conv, functional_conv
from nnunet_plugins.architectures.layers.depthwise import convolve_depthwise
from nnunet_plugins.architectures.layers.dilation import dilated_conv
from nnunet_plugins.architectures.layers.lean import MaxPool, SaturatingReLU
from nnunet_plugins.architectures.layers.logits import MAX_LOGIT, bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_size, total_stride
from nnunet_plugins.architectures.layers.recomputation import recomputable

NUM_BLOCKS = {"S": 3, "M": 4, "L": 5}
"""Number of encoder blocks of every variant, Table 1."""

MAX_ACTIVATION = 100.0
"""Upper end of all ReLUs.

Deviation: the paper's ReLU has no upper end. Large-kernel attention squares what it gets, and nine blocks in a row
square it nine times: a trained network, with its running statistics, answers an image of four times the usual contrast
with NaN even in float32. 100 standard deviations are rare. :func:`saturated` is for products that float16 cannot hold.
"""


def saturated(x: Tensor) -> Tensor:
    """Put the largest finite numbers in the place of a float16 map's infinities; other maps stay as they are.

    Deviation: as if nothing had overflowed, in the gradient too. The gradient scaler leaves out a step whose gradients
    overflow, but the running statistics of the next normalisation would keep the infinity for good. Convolutions add up
    in float32: of a finite input only their result can overflow.
    """
    if x.dtype == torch.float16:
        limits = torch.finfo(x.dtype)
        x.detach().clamp_(limits.min, limits.max)
    return x


class Kernels(NamedTuple):
    """Kernel sizes of a block."""

    depthwise: Size
    """Kernel of the convolution part."""
    large: Size
    """First kernel of the attention part."""
    large_dilated: Size
    """Second kernel of the attention part, which is dilated."""


class SeparableConv(nn.Sequential):
    """Depthwise and pointwise convolution, batch normalisation, ReLU: eq. 1, and eq. 2 with the ReLU of its text.

    Takes a map ``(B, C, *S)``, or the parts of one whose channels add up to C: their concatenation is never made.
    """

    def __init__(self, conv_op: ConvOp, in_channels: int, out_channels: int, kernel_size: Size):
        super().__init__(
            depthwise_conv(conv_op, in_channels, kernel_size),
            *conv_norm(conv_op, in_channels, out_channels, 1, bias=True),
            SaturatingReLU(MAX_ACTIVATION),
        )

    @recomputable
    def forward(self, *parts: Tensor) -> Tensor:
        layers: Iterator[Any] = iter(self)
        depthwise, pointwise, norm, relu = layers
        return relu(norm(separable_conv(parts, depthwise, pointwise)))


def separable_conv(
    parts: Sequence[Tensor], depthwise: nn.Conv2d | nn.Conv3d, pointwise: nn.Conv2d | nn.Conv3d
) -> Tensor:
    """Compute ``pointwise(depthwise(x))`` for the concatenation x of the parts ``(B, C_i, *S)``.

    A depthwise convolution acts on each part by itself, and a pointwise convolution is the sum of those of the parts.
    """
    assert depthwise.bias is not None
    conv = functional_conv(parts[0])
    widths = [part.shape[1] for part in parts]
    weights = depthwise.weight.split(widths), depthwise.bias.split(widths), pointwise.weight.split(widths, 1)
    biases = [pointwise.bias] + [None] * (len(parts) - 1)
    mixed = (
        saturated(conv(saturated(convolve_depthwise(part, weight, bias)), mixing, mixing_bias))
        for part, weight, bias, mixing, mixing_bias in zip(parts, *weights, biases, strict=True)
    )
    return reduce(lambda total, part: saturated(total.add_(part)), mixed)


class LargeKernelAttention(nn.Module):
    """Attention part, eq. 3-4: ``(B, C, *S)`` times weights from a large neighbourhood.

    The published size has room for one pointwise convolution: that of eq. 3 and the "ChannelConv" of eq. 4 are one.
    """

    dilation = 3

    def __init__(self, conv_op: ConvOp, channels: int, kernels: Kernels):
        super().__init__()
        self.depthwise = depthwise_conv(conv_op, channels, kernels.large)
        self.spatial = depthwise_conv(conv_op, channels, kernels.large_dilated, self.dilation)
        self.pointwise = conv_op(channels, channels, 1)

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        near = saturated(convolve_depthwise(x, self.depthwise.weight, self.depthwise.bias))
        weights = saturated(self.pointwise(saturated(dilated_conv(self.spatial, near))))
        return saturated(weights * x)


class EBlock(nn.Module):
    """Encoder block of a convolution part and an attention part, Figure 2.

    ``(B, in_channels, *S)``, whole or in parts, to ``(B, out_channels, *S)``.
    """

    def __init__(self, conv_op: ConvOp, in_channels: int, out_channels: int, kernels: Kernels):
        super().__init__()
        self.convolution = nn.Sequential(
            SeparableConv(conv_op, in_channels, out_channels, kernels.depthwise),
            SeparableConv(conv_op, out_channels, out_channels, kernels.depthwise),
        )
        self.attention = LargeKernelAttention(conv_op, out_channels, kernels)

    def forward(self, *parts: Tensor) -> Tensor:
        first, second = self.convolution
        return self.attention(second(first(*parts)))


class EncoderLevel(EBlock):
    """Encoder block with the pooling before it: ``(B, in_channels, *S)`` to ``(B, out_channels, *S / stride)``."""

    def __init__(self, conv_op: ConvOp, in_channels: int, out_channels: int, stride: Size, kernels: Kernels):
        super().__init__(conv_op, in_channels, out_channels, kernels)
        self.pool = nn.Identity() if prod(stride) == 1 else MaxPool(stride)

    @recomputable
    def forward(self, *parts: Tensor) -> Tensor:
        return super().forward(*map(self.pool, parts))


class DFB(nn.Module):
    """Decoder fusion block with the upsampling before it, Figure 3: the result has the skip's size and channels."""

    def __init__(self, conv_op: ConvOp, channels: int, stride: Size, kernels: Kernels):
        super().__init__()
        self.upsample = get_matching_convtransp(conv_op)(2 * channels, channels, stride, stride)
        self.block = EBlock(conv_op, 2 * channels, channels, kernels)

    @recomputable
    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = pad_to_size(saturated(self.upsample(x)), skip.shape[2:])  # "auto-resize": pooling may have rounded down
        return self.block(skip, x)  # the two are concatenated


class DLKUNet(nn.Module):
    """DLKUNet in its three sizes, in 2D and 3D, for patches of any size.

    ========  =====================  ==============  ================  ===================
    variant   channels               parameters, 2D  GMACs, 1x224x224  in the paper
    ========  =====================  ==============  ================  ===================
    S         96, 192, 384           1.131 M         10.28             1.13 M, 15.95 GFLOP
    M         96, 192, ..., 768      4.494 M         14.39             4.49 M, 22.84 GFLOP
    L         96, 192, ..., 1536     17.709 M        18.40             17.70 M, 29.64 GFLOP
    ========  =====================  ==============  ================  ===================

    (9 classes. The paper's FLOPs are torchinfo's, which counts a transposed convolution's kernel at every output.)

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        variant: "S", "M" or "L".
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        base_channels: channels at full resolution, C in Figure 9; they double from block to block.
        depthwise_kernel: edge of the convolution part's kernels; Table 5 has 3, 5 and 7.
        large_kernels: edges of the attention part's kernels, the second dilated; Table 5 has (5, 7), (3, 7), (5, 5).
        strides: pooling before every block, as in nnU-Net's plans: none before the first, ``(1, ..., 1)``. Blocks
            beyond the given ones pool by 2, as all do by default; surplus strides are not used.
        kernel_sizes: nnU-Net's kernel size for every block. Only where it is 1 matters: along such an axis (thick
            slices) all of the block's kernels are 1.

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, bounded by +-1000.

    Raises:
        ValueError: the variant does not exist, a kernel has no centre, or the first block pools.

    Example:
        >>> import torch
        >>> DLKUNet(1, 9, variant="S", conv_op=nn.Conv3d)(torch.zeros(1, 1, 20, 40, 40)).shape
        torch.Size([1, 9, 20, 40, 40])
    """

    max_logit = MAX_LOGIT

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        variant: str = "L",
        conv_op: ConvOp = nn.Conv2d,
        base_channels: int = 96,
        depthwise_kernel: int = 3,
        large_kernels: tuple[int, int] = (5, 7),
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
    ):
        super().__init__()
        if variant not in NUM_BLOCKS:
            raise ValueError(f"variant {variant!r}: choose one of {', '.join(NUM_BLOCKS)}")
        num_blocks, dimensions = NUM_BLOCKS[variant], convert_conv_op_to_dim(conv_op)
        strides = extended([(1,) * dimensions] if strides is None else strides, (2,) * dimensions, num_blocks)
        if strides[0] != (1,) * dimensions:
            raise ValueError(f"strides begin with {strides[0]}: the first block works at full resolution, give ones")
        planned_kernels = extended([] if kernel_sizes is None else kernel_sizes, (3,) * dimensions, num_blocks)
        kernels = [kernels_of_block((depthwise_kernel, *large_kernels), planned) for planned in planned_kernels]
        widths = [base_channels * 2**level for level in range(num_blocks)]

        self.total_stride = total_stride(strides)
        levels = zip((in_channels, *widths[:-1]), widths, strides, kernels, strict=True)
        self.encoder = nn.ModuleList(EncoderLevel(conv_op, *level) for level in levels)
        self.decoder = nn.ModuleList(
            DFB(conv_op, widths[level], strides[level + 1], kernels[level]) for level in reversed(range(num_blocks - 1))
        )
        # nnU-Net's -pretrained_weights leaves out what has ".seg_layers." in its name, and so works across datasets.
        self.reprojection = nn.Sequential(OrderedDict(seg_layers=nn.Sequential(conv_op(widths[0], num_classes, 1))))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = pad_to_size(x, self.total_stride)  # at least one pixel at the lowest resolution
        encoded = []
        for level in self.encoder:
            x = level(x)
            encoded.append(x)
        for dfb, skip in zip(self.decoder, reversed(encoded[:-1]), strict=True):
            x = dfb(x, skip)
        logits = bounded(self.reprojection(x), self.max_logit)
        return crop(logits, size)


def extended(given: Sequence[Sequence[int]], default: Size, length: int) -> list[Size]:
    """Extend or cut the given sizes to ``length``; additional ones are ``default``."""
    return [tuple(size) for size in [*given, *[default] * length][:length]]


def kernels_of_block(edges: tuple[int, int, int], planned: Size) -> Kernels:
    """Kernels with these edges, and of size 1 along each axis where the planned kernel is 1."""
    if wrong := [edge for edge in edges if edge < 1 or edge % 2 == 0]:
        raise ValueError(f"kernels of size {wrong} have no centre: choose odd ones")
    return Kernels(*(tuple(edge if length > 1 else 1 for length in planned) for edge in edges))
