"""Aggregation of overlapping windows, each with matrices of its own: eq. 11, 13 and 14 of ConDSeg.

The paper unfolds the K x K window of values around every position, multiplies it by two K^2 x K^2 matrices, and folds
the windows again, that is, sums them where they overlap. Here the two matrices are multiplied first, and the sum over
all windows that contain a position becomes one filter of (2K - 1) x (2K - 1) taps. Nothing is unfolded, which takes a
fraction of time and memory (``speed/condseg_ops.py``).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def aggregate_windows(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Compute ``fold(outer @ (inner @ unfold(values)))``, zero-padded, for every head.

    Without gradients, when nothing is kept, all heads are computed at once, in half the time. In a network that is
    exported the windows are unfolded, for hundreds of operations take the exporter minutes.

    Args:
        values: ``(B, heads, C, H, W)``.
        outer: ``(B, heads, K^2, K^2, H, W)``, a matrix for the window around every position, K odd. The positions of
            a window are numbered row by row.
        inner: matrices of the same shape, which are applied first.

    Returns:
        ``(B, heads, C, H, W)``.
    """
    if is_exporting():
        return unfold_and_fold(values, outer, inner)
    if not torch.is_grad_enabled():
        return aggregate_head(values, outer, inner)
    return WindowAggregation.apply(values, outer, inner)


def is_exporting() -> bool:
    """Whether ``torch.export`` is at work, which torch tells from version 2.7 on."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def unfold_and_fold(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Aggregate as the equation is written, in few operations."""
    maps, size, window = values.flatten(0, 1), values.shape[-2:], math.isqrt(outer.shape[2])
    columns = F.unfold(maps, window, padding=window // 2)  # (B heads, C K^2, H W)
    matrices = torch.einsum("bmkp,bknp->bmnp", outer.flatten(0, 1).flatten(3), inner.flatten(0, 1).flatten(3))
    mixed = torch.einsum("bmnp,bcnp->bcmp", matrices, columns.unflatten(1, (maps.shape[1], window**2)))
    return F.fold(mixed.flatten(1, 2), size, window, padding=window // 2).unflatten(0, values.shape[:2])


class WindowAggregation(torch.autograd.Function):
    """Aggregation that keeps values and matrices for the backward pass, but nothing that it makes of them.

    The heads take turns, so that what exists for a moment only belongs to one of them. Nothing is written to a part of
    a tensor: ``torch.compile`` would take several times as long, and make slower kernels.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        ctx.save_for_backward(values, outer, inner)
        return torch.cat([aggregate_head(*head) for head in heads_of(values, outer, inner)], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        gradients = [gradients_of_head(*head) for head in heads_of(gradient, *ctx.saved_tensors)]
        return tuple(torch.cat(heads, 1) for heads in zip(*gradients, strict=True))


def heads_of(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Split tensors ``(B, heads, ...)`` into those of each head, ``(B, 1, ...)``."""
    return zip(*(x.split(1, 1) for x in tensors), strict=True)


def aggregate_head(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Aggregate the values of one or more heads."""
    taps = taps_of_windows(outer, inner)
    size, reach = values.shape[-2:], taps.shape[2] // 2
    padded, result = pad(values, reach), torch.zeros_like(values)
    for row, column in square(taps.shape[2]):
        result.addcmul_(taps[:, :, row, column, None], part(padded, row, column, size))
    return result


def gradients_of_head(gradient: Tensor, values: Tensor, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients with respect to values, outer and inner matrices of one head."""
    taps = taps_of_windows(outer, inner)
    size, edge = values.shape[-2:], taps.shape[2]
    padded, padded_gradient, padded_taps = (pad(x, edge // 2) for x in (values, gradient, taps))
    values_gradient, taps_gradient = torch.zeros_like(values), []
    for row, column in square(edge):
        opposite = (edge - 1 - row, edge - 1 - column)  # from here, the position whose tap looked here
        taps_there = part(padded_taps[:, :, row, column, None], *opposite, size)
        values_gradient.addcmul_(taps_there, part(padded_gradient, *opposite, size))
        taps_gradient.append((part(padded, row, column, size) * gradient).sum(2))
    mixed_gradient = windows_of_taps(torch.stack(taps_gradient, 2).unflatten(2, (edge, edge)))
    return (
        values_gradient,
        torch.einsum("bhmnyx,bhknyx->bhmkyx", mixed_gradient, inner),
        torch.einsum("bhmkyx,bhmnyx->bhknyx", outer, mixed_gradient),
    )


def square(edge: int) -> Iterable[tuple[int, ...]]:
    """List the rows and columns of a square, row by row."""
    return product(range(edge), repeat=2)


def pad(x: Tensor, margin: int) -> Tensor:
    """Zero-pad both ends of the last two axes."""
    return F.pad(x, (margin,) * 4)


def part(x: Tensor, row: int, column: int, size: Sequence[int]) -> Tensor:
    """Cut the part of a padded map that begins at a row and column."""
    return x[..., row : row + size[0], column : column + size[1]]


def taps_of_windows(outer: Tensor, inner: Tensor) -> Tensor:
    """Multiply the windows' matrices ``(B, heads, K^2, K^2, H, W)`` and sum the products to filters.

    The filters are ``(B, heads, 2K - 1, 2K - 1, H, W)``. The window around p contributes values at p + n to its member
    m at p + m, for which they belong to tap n - m.
    """
    matrices = torch.einsum("bhmkyx,bhknyx->bhmnyx", outer, inner)
    size, window = matrices.shape[-2:], math.isqrt(matrices.shape[2])
    padded = pad(matrices, window // 2).unflatten(3, (window, window)).unflatten(2, (window, window))
    taps = matrices.new_zeros((*matrices.shape[:2], 2 * window - 1, 2 * window - 1, *size))
    for row, column in square(window):
        # (B, heads, K, K, H, W), at the place of the member instead of the window's centre
        member = part(padded[:, :, row, column], window - 1 - row, window - 1 - column, size)
        taps += F.pad(member, (0, 0, 0, 0, window - 1 - column, column, window - 1 - row, row))
    return taps


def windows_of_taps(gradient: Tensor) -> Tensor:
    """Turn a gradient with respect to the taps into one with respect to the windows' matrices."""
    size, window = gradient.shape[-2:], (gradient.shape[2] + 1) // 2
    padded, members = pad(gradient, window // 2), []
    for row, column in square(window):
        rows, columns = (slice(window - 1 - index, 2 * window - 1 - index) for index in (row, column))
        members.append(part(padded[:, :, rows, columns], row, column, size).flatten(2, 3))
    return torch.stack(members, 2)
