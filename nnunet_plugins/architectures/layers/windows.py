"""Aggregation of overlapping windows, each with matrices of its own: eq. 11, 13 and 14 of ConDSeg.

Read literally, the K x K window of values around every position is unfolded, two K^2 x K^2 matrices are applied to
it, and the windows are folded again, that is, summed where they overlap. Here the two matrices are multiplied first,
and the sum over all windows that hold a position is one filter of (2K - 1) x (2K - 1) taps for it. Nothing is unfolded,
which takes a fraction of time and memory (``benchmarks/condseg_ops.py``).
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def aggregate_windows(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """``fold(outer @ (inner @ unfold(values)))``, zero-padded, for every head.

    Args:
        values: ``(B, heads, C, H, W)``.
        outer, inner: ``(B, heads, K^2, K^2, H, W)``, a matrix for the window around every position, K odd. The
            positions of a window are numbered row by row.

    Returns:
        ``(B, heads, C, H, W)``.
    """
    return WindowAggregation.apply(values, outer, inner)


class WindowAggregation(torch.autograd.Function):
    """Keeps the matrices and the taps for the backward pass, but neither unfolded values nor products of matrices."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        taps = taps_of_windows(torch.einsum("bhmkyx,bhknyx->bhmnyx", outer, inner))
        ctx.save_for_backward(values, outer, inner, taps)
        radius = taps.shape[2] // 2
        padded, result = F.pad(values, (radius,) * 4), torch.zeros_like(values)
        for tap, place in places_of_taps(taps):
            result.addcmul_(taps[tap].unsqueeze(2), padded[place])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, outer, inner, taps = ctx.saved_tensors
        radius = taps.shape[2] // 2
        padded = F.pad(values, (radius,) * 4)
        padded_gradient, taps_gradient = torch.zeros_like(padded), torch.empty_like(taps)
        for tap, place in places_of_taps(taps):
            padded_gradient[place].addcmul_(taps[tap].unsqueeze(2), gradient)
            taps_gradient[tap] = (padded[place] * gradient).sum(2)
        mixed_gradient = windows_of_taps(taps_gradient)
        return (
            F.pad(padded_gradient, (-radius,) * 4),
            torch.einsum("bhmnyx,bhknyx->bhmkyx", mixed_gradient, inner),
            torch.einsum("bhmkyx,bhmnyx->bhknyx", outer, mixed_gradient),
        )


Index = tuple[Any, ...]


def places_of_taps(taps: Tensor) -> Iterator[tuple[Index, Index]]:
    """Index of every tap, and of what it meets in the padded values."""
    _, _, rows, columns, height, width = taps.shape
    for row, column in product(range(rows), range(columns)):
        yield (slice(None), slice(None), row, column), (..., slice(row, row + height), slice(column, column + width))


def taps_of_windows(matrices: Tensor) -> Tensor:
    """The filter of every position: ``(B, heads, K^2, K^2, H, W)`` to ``(B, heads, 2K - 1, 2K - 1, H, W)``.

    The window around p gives its member m, at p + m, the values at p + n: for the position p + m that is tap n - m.
    """
    matrices, window = per_row_and_column(matrices)
    taps = matrices.new_zeros((*matrices.shape[:2], 2 * window - 1, 2 * window - 1, *matrices.shape[-2:]))
    for tap, member in members_of_windows(matrices):
        taps[tap] += matrices[member]
    return taps


def windows_of_taps(gradient: Tensor) -> Tensor:
    """Gradient of :func:`taps_of_windows`."""
    window = (gradient.shape[2] + 1) // 2
    matrices = gradient.new_zeros((*gradient.shape[:2], *[window] * 4, *gradient.shape[-2:]))
    for tap, member in members_of_windows(matrices):
        matrices[member] = gradient[tap]
    return matrices.flatten(4, 5).flatten(2, 3)


def per_row_and_column(matrices: Tensor) -> tuple[Tensor, int]:
    """``(B, heads, K^2, K^2, H, W)`` as ``(B, heads, K, K, K, K, H, W)``, and K."""
    window = math.isqrt(matrices.shape[2])
    return matrices.unflatten(3, (window, window)).unflatten(2, (window, window)), window


def members_of_windows(matrices: Tensor) -> Iterator[tuple[Index, Index]]:
    """For every member of a window: index of the taps that it feeds, and of its part of the matrices.

    The latter is ``(B, heads, K, K, K, K, H, W)``: row and column of the member, then of the values that it gets.
    """
    window, (height, width) = matrices.shape[2], matrices.shape[-2:]
    for row, column in product(range(window), repeat=2):
        center_rows, member_rows = overlap(height, row - window // 2)
        center_columns, member_columns = overlap(width, column - window // 2)
        block = [slice(window - 1 - index, 2 * window - 1 - index) for index in (row, column)]
        yield (
            (slice(None), slice(None), *block, member_rows, member_columns),
            (slice(None), slice(None), row, column, slice(None), slice(None), center_rows, center_columns),
        )


def overlap(length: int, step: int) -> tuple[slice, slice]:
    """The positions along an axis that have another one a step further, and those others."""
    number = max(length - abs(step), 0)
    first, other = max(-step, 0), max(step, 0)
    return slice(first, first + number), slice(other, other + number)
