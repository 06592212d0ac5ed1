"""Aggregation of overlapping windows, each with matrices of its own: eq. 11, 13 and 14 of ConDSeg.

The paper unfolds the K x K window of values around every position, multiplies it by two K^2 x K^2 matrices, and folds
the windows again, that is, sums them where they overlap. Here the two matrices are multiplied first, and the sum over
all windows that contain a position becomes one filter of (2K - 1) x (2K - 1) taps. Nothing is unfolded, which takes a
fraction of time and memory (``speed/condseg_ops.py``). In volumes, our extension, windows are cubes, and M is K^3.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Place = tuple[int, ...]
"""Index along every spatial axis."""


def aggregate_windows(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Compute ``fold(outer @ (inner @ unfold(values)))``, zero-padded, for every head.

    Hundreds of operations take compilers and exporters minutes. Where a network is compiled, they are one operator,
    into which the compiler does not look; where it is exported, the windows are unfolded, of all heads at once.

    Args:
        values: ``(B, heads, C, *S)``.
        outer: ``(B, heads, M, M, *S)``, a matrix for the window around every position with its M = K^2 (in volumes K^3)
            positions, K odd. They are numbered in the order of memory, row by row.
        inner: matrices of the same shape, which are applied first.

    Returns:
        ``(B, heads, C, *S)``.
    """
    if is_exporting():
        return unfold_and_fold(values, outer, inner)
    if torch.compiler.is_compiling():
        return opaque_aggregation(values, outer, inner)
    return WindowAggregation.apply(values, outer, inner)


def is_exporting() -> bool:
    """Whether ``torch.export`` is at work, which torch tells from version 2.7 on."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def unfold_and_fold(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Aggregate as the equation is written, in few operations."""
    size, window = values.shape[3:], window_of(outer)
    members, reach = list(places(window, len(size))), window // 2
    padded = pad(values, reach, len(size))
    unfolded = torch.stack([part(padded, place, size) for place in members], 3)  # (B, heads, C, M, *S)
    matrices = torch.einsum("bhmk...,bhkn...->bhmn...", outer, inner)
    mixed = pad(torch.einsum("bhmn...,bhcn...->bhcm...", matrices, unfolded), reach, len(size))
    shares = zip(members, mixed.unbind(3), strict=True)
    return torch.stack([part(share, mirrored(place, window), size) for place, share in shares]).sum(0)


def window_of(matrices: Tensor) -> int:
    """Edge of the windows that have matrices ``(B, heads, M, M, *S)``."""
    return round(matrices.shape[2] ** (1 / (matrices.ndim - 4)))


class WindowAggregation(torch.autograd.Function):
    """Aggregation that keeps values and matrices for the backward pass, but nothing that it makes of them.

    The heads take turns, so that what exists for a moment only belongs to one of them.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        ctx.save_for_backward(values, outer, inner)
        return aggregate_heads(values, outer, inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradients_of_heads(gradient, *ctx.saved_tensors)


# ---- for torch.compile -----------------------------------------------------------------------------------------------


@torch.library.custom_op("nnunet_plugins::aggregate_windows", mutates_args=())
def opaque_aggregation(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    return aggregate_heads(values, outer, inner).contiguous()


@opaque_aggregation.register_fake
def _(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    return values.new_empty(values.shape)


@torch.library.custom_op("nnunet_plugins::aggregate_windows_backward", mutates_args=())
def opaque_gradients(gradient: Tensor, values: Tensor, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    of_values, of_outer, of_inner = gradients_of_heads(gradient, values, outer, inner)
    return of_values.contiguous(), of_outer.contiguous(), of_inner.contiguous()


@opaque_gradients.register_fake
def _(gradient: Tensor, values: Tensor, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return values.new_empty(values.shape), outer.new_empty(outer.shape), inner.new_empty(inner.shape)


opaque_aggregation.register_autograd(
    lambda ctx, gradient: opaque_gradients(gradient, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


# ---- values and gradients --------------------------------------------------------------------------------------------


def aggregate_heads(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Aggregate the values of each head."""
    return torch.cat([aggregate_head(*head) for head in heads_of(values, outer, inner)], 1)


def gradients_of_heads(gradient: Tensor, values: Tensor, outer: Tensor, inner: Tensor) -> tuple[Tensor, ...]:
    """Compute the gradients with respect to values, outer and inner matrices of all heads."""
    gradients = [gradients_of_head(*head) for head in heads_of(gradient, values, outer, inner)]
    return tuple(torch.cat(heads, 1) for heads in zip(*gradients, strict=True))


def heads_of(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Split tensors ``(B, heads, ...)`` into those of each head, ``(B, 1, ...)``."""
    return zip(*(x.split(1, 1) for x in tensors), strict=True)


def aggregate_head(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Aggregate the values of one or more heads."""
    taps = taps_of_windows(outer, inner)
    size, edge = values.shape[3:], taps.shape[2]
    padded, result = pad(values, edge // 2, len(size)), torch.zeros_like(values)
    for place in places(edge, len(size)):
        result.addcmul_(taps[:, :, *place, None], part(padded, place, size))
    return result


def gradients_of_head(gradient: Tensor, values: Tensor, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients with respect to values, outer and inner matrices of one head."""
    taps = taps_of_windows(outer, inner)
    size, edge = values.shape[3:], taps.shape[2]
    padded, padded_gradient, padded_taps = (pad(x, edge // 2, len(size)) for x in (values, gradient, taps))
    values_gradient, taps_gradient = torch.zeros_like(values), []
    for place in places(edge, len(size)):
        opposite = mirrored(place, edge)  # from here, the position whose tap looked here
        taps_there = part(padded_taps[:, :, *place, None], opposite, size)
        values_gradient.addcmul_(taps_there, part(padded_gradient, opposite, size))
        taps_gradient.append((part(padded, place, size) * gradient).sum(2))
    mixed_gradient = windows_of_taps(torch.stack(taps_gradient, 2).unflatten(2, (edge,) * len(size)))
    return (
        values_gradient,
        torch.einsum("bhmn...,bhkn...->bhmk...", mixed_gradient, inner),
        torch.einsum("bhmk...,bhmn...->bhkn...", outer, mixed_gradient),
    )


def places(edge: int, dimensions: int) -> Iterable[Place]:
    """List the positions in a square or cube, row by row."""
    return product(range(edge), repeat=dimensions)


def mirrored(place: Place, edge: int) -> Place:
    """Turn a position in a square or cube about its centre."""
    return tuple(edge - 1 - index for index in place)


def pad(x: Tensor, margin: int, dimensions: int) -> Tensor:
    """Zero-pad both ends of the last axes."""
    return F.pad(x, (margin,) * (2 * dimensions))


def part(x: Tensor, place: Place, size: Sequence[int]) -> Tensor:
    """Cut the part of a padded map that begins at a place."""
    for axis, (index, length) in enumerate(zip(place, size, strict=True), start=x.ndim - len(size)):
        x = x.narrow(axis, index, length)
    return x


def taps_of_windows(outer: Tensor, inner: Tensor) -> Tensor:
    """Multiply the windows' matrices ``(B, heads, M, M, *S)`` and sum the products to filters.

    The filters are ``(B, heads, 2K - 1, 2K - 1, H, W)``, and in volumes have a third edge. The window around p
    contributes values at p + n to its member m at p + m, for which they belong to tap n - m.
    """
    matrices = torch.einsum("bhmk...,bhkn...->bhmn...", outer, inner)
    size = matrices.shape[4:]
    dimensions = len(size)
    window = window_of(matrices)
    edges = (window,) * dimensions
    padded = pad(matrices, window // 2, dimensions).unflatten(3, edges).unflatten(2, edges)
    taps = matrices.new_zeros((*matrices.shape[:2], *(2 * edge - 1 for edge in edges), *size))
    for place in places(window, dimensions):
        # (B, heads, K, K, H, W), at the place of the member instead of the window's centre
        member = part(padded[:, :, *place], mirrored(place, window), size)
        margins = [margin for index in reversed(place) for margin in (window - 1 - index, index)]
        taps += F.pad(member, (*[0] * (2 * dimensions), *margins))
    return taps


def windows_of_taps(gradient: Tensor) -> Tensor:
    """Turn a gradient with respect to the taps into one with respect to the windows' matrices."""
    dimensions = (gradient.ndim - 2) // 2
    size, window = gradient.shape[-dimensions:], (gradient.shape[2] + 1) // 2
    padded, members = pad(gradient, window // 2, dimensions), []
    for place in places(window, dimensions):
        taps = [slice(window - 1 - index, 2 * window - 1 - index) for index in place]
        members.append(part(padded[:, :, *taps], place, size).flatten(2, 1 + dimensions))
    return torch.stack(members, 2)
