"""Activation and pooling that keep less for the backward pass than torch's own, with the same values and gradients."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.padding import pad_to_size


class SaturatingReLU(nn.Module):
    """ReLU with an upper end that keeps its output, as the next layer does; torch's hardtanh keeps its input."""

    def __init__(self, maximum: float):
        super().__init__()
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        return Saturation.apply(x, self.maximum)

    def extra_repr(self) -> str:
        return f"maximum={self.maximum}"


class Saturation(torch.autograd.Function):
    """Clamp to [0, maximum]; the gradient is 0 where the output is at either end, as that of hardtanh.

    Not in place: ``torch.compile`` cannot trace that without gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, maximum: float) -> Tensor:
        y = x.clamp(0.0, maximum)
        ctx.save_for_backward(y)
        ctx.maximum = maximum
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], y, 0.0, ctx.maximum), None


class MaxPool(nn.Module):
    """Maximum over windows that do not overlap; it keeps one byte for every window, and not an int64 index.

    ``(B, C, *S)`` to ``(B, C, *(S // stride))``.
    """

    def __init__(self, stride: Sequence[int]):
        super().__init__()
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        return MaxOfWindows.apply(x, self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class MaxOfWindows(torch.autograd.Function):
    """Maximum over windows; its gradient goes to the first value of a window that is the largest, as that of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, ...]) -> Tensor:
        pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
        y, index = pool(x, stride, return_indices=True)
        ctx.size, ctx.stride = x.shape[2:], stride
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(place_in_window(index, x.shape[2:], stride))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return spread_over_windows(gradients[0], place, ctx.size, ctx.stride), None


def place_in_window(index: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Turn flat indices into the map into the number of the place in its window, counted row by row, as bytes."""
    place, after = torch.zeros_like(index, dtype=torch.uint8), 1
    for length, step in zip(reversed(size), reversed(stride), strict=True):
        place += (index % length % step * after).to(torch.uint8)
        index, after = index // length, after * step
    return place


def spread_over_windows(x: Tensor, place: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Write each value of ``(B, C, *S)`` to its place in a window of a map ``(B, C, *size)``, 0 everywhere else."""
    places = torch.arange(prod(stride), dtype=torch.uint8, device=x.device).view(stride)
    for axis in range(len(stride)):  # (h, w), (B, C, H / h, W / w) to (1, h, 1, w), (B, C, H / h, 1, W / w, 1)
        places = places.unsqueeze(2 * axis)
        x, place = x.unsqueeze(3 + 2 * axis), place.unsqueeze(3 + 2 * axis)
    result = torch.where(place == places, x, 0.0)
    for axis in range(len(stride)):
        result = result.flatten(2 + axis, 3 + axis)
    return pad_to_size(result, size)
