"""Padding to a network's stride and cropping back."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def pad_to_stride(x: Tensor, stride: int, minimum: int = 1) -> Tensor:
    """Zero-pad the end of every spatial axis of ``(B, C, *S)`` to a multiple of ``stride`` of at least ``minimum``."""
    padding: list[int] = []
    for size in reversed(x.shape[2:]):
        padding += [0, -(-max(size, minimum) // stride) * stride - size]
    return F.pad(x, padding) if any(padding) else x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the padding of :func:`pad_to_stride` off again; the result is contiguous, as nnU-Net's inference needs."""
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x.contiguous()
