"""Padding of images to a network's stride, and cropping of its logits."""

from collections.abc import Sequence
from math import prod

from torch import Tensor
from torch.nn import functional as F


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Product of successive strides along each axis."""
    return tuple(prod(steps) for steps in zip(*strides, strict=True))


def pad_to_size(x: Tensor, size: Sequence[int]) -> Tensor:
    """Zero-pad the end of every spatial axis of ``(B, C, *S)`` to ``size``; longer axes stay as they are."""
    padding: list[int] = []
    for length, wanted in zip(reversed(x.shape[2:]), reversed(size), strict=True):
        padding += [0, max(wanted - length, 0)]
    return F.pad(x, padding) if any(padding) else x


def pad_to_stride(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Zero-pad the end of every spatial axis of ``(B, C, *S)`` to a multiple of ``stride``, and to two at least.

    A single position at the coarsest scale would leave batch normalisation one value, and a shift nothing.
    """
    strides = (stride,) * (x.ndim - 2) if isinstance(stride, int) else stride
    lengths = zip(x.shape[2:], strides, strict=True)
    return pad_to_size(x, [max(2, -(-length // step)) * step for length, step in lengths])


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the end of every spatial axis off, down to ``size``; contiguous, as nnU-Net's inference needs."""
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x.contiguous()
