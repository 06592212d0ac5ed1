"""Depthwise convolution, on the CPU with gradients that are computed faster than torch's own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.convolutions import functional_conv
from nnunet_plugins.architectures.layers.devices import has_cpu_forms

BAND = 3
"""Columns of the widest kernel for whose gradient oneDNN has a depthwise form."""


def convolve_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve every channel of ``(B, C, *S)`` by itself; weights ``(C, 1, *K)`` with odd edges, the size is kept.

    On the CPU memory becomes channels last, and in full precision the gradients are those of :class:`DepthwiseConv`.
    """
    if not has_cpu_forms(x):
        return same_conv(x, weight, bias)
    x = channels_last(x)
    if torch.is_autocast_enabled("cpu") or x.dtype != weight.dtype:
        return same_conv(x, weight, bias)
    return DepthwiseConv.apply(x, weight, bias)


def channels_last(x: Tensor) -> Tensor:
    """Order the memory of ``(B, C, *S)`` as ``(B, *S, C)``, and say so in the strides of a single channel too."""
    memory_format = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if x.shape[1] == 1:  # in torch's eyes such a map has any order, and layers after it take the usual one
        return torch.empty_like(x, memory_format=memory_format).copy_(x)
    return x.contiguous(memory_format=memory_format)


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the depthwise convolution by torch."""
    return functional_conv(x)(x, weight, bias, padding=[edge // 2 for edge in weight.shape[2:]], groups=len(weight))


class DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution with gradients of its own.

    The input's is a convolution with the mirrored kernel, which in 3D takes a tenth of the time of oneDNN's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return same_conv(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        axes = tuple(range(2, x.ndim))
        gradient = channels_last(gradients[0])
        return (
            same_conv(gradient, weight.flip(axes), None) if ctx.needs_input_grad[0] else None,
            weight_gradient(gradient, x, weight),
            gradient.sum((0, *axes)) if ctx.has_bias else None,
        )


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of a depthwise convolution's weights in bands of :data:`BAND` columns and, in 3D, by planes.

    For wider kernels, and in 3D, oneDNN has only the gradient of a dense convolution, which takes up to ten times as
    long. So it has where the padding is as wide as the map: the map is padded beforehand.
    """
    padded = F.pad(x, [edge // 2 for edge in reversed(weight.shape[2:]) for _ in range(2)])
    depth, shape = 1, weight.shape
    if x.ndim == 5:  # planes in the batch, those of the gradient with as many zeros after them as the input has
        depth = weight.shape[2]
        gradient = F.pad(gradient, (0, 0, 0, 0, 0, depth - 1)).movedim(2, 1).flatten(0, 1)
        padded, weight = padded.movedim(2, 1).flatten(0, 1), weight[:, :, 0]
    bands = []
    for first in range(0, weight.shape[-1], BAND):
        band = weight[..., first : first + BAND]
        columns = padded.narrow(3, first, gradient.shape[3] + band.shape[3] - 1)
        columns = channels_last(columns)
        planes = [plane_gradient(gradient[: len(gradient) - z], columns[z:], band) for z in range(depth)]
        bands.append(planes[0] if x.ndim == 4 else torch.stack(planes, 2))
    return torch.cat(bands, -1).flatten().view(shape)  # with strides like the weights', for DDP


def plane_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of the weights of a 2D depthwise convolution of ``x`` without padding."""
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], len(weight), [False, True, False]
    )[1]
