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


def pad_to_stride(x: Tensor, stride: int, minimum: int = 1) -> Tensor:
    """Zero-pad the end of every spatial axis of ``(B, C, *S)`` to a multiple of ``stride`` of at least ``minimum``."""
    return pad_to_size(x, [-(-max(length, minimum) // stride) * stride for length in x.shape[2:]])


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the end of every spatial axis off, down to ``size``; contiguous, as nnU-Net's inference needs."""
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x.contiguous()
