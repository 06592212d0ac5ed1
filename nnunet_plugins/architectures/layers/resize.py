"""Linear interpolation of feature maps."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate ``(B, C, *S)`` to ``(B, C, *size)``, bilinearly in 2D and trilinearly in 3D.

    The result has the precision of ``x``, although CUDA's autocast interpolates in float32.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False).to(x.dtype)


def upsample(x: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Interpolate ``(B, C, *S)`` to a whole multiple of its size, the same or another one along every axis."""
    factors = (factor,) * (x.ndim - 2) if isinstance(factor, int) else factor
    return resize(x, [step * length for step, length in zip(factors, x.shape[2:], strict=True)])
