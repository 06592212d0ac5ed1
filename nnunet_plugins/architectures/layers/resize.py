"""Linear interpolation of feature maps."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, C, *S)`` to ``(B, C, *size)``, bilinear in 2D and trilinear in 3D, in the precision of ``x``.

    CUDA's autocast interpolates in float32 and would leave the result there.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False).to(x.dtype)


def upsample(x: Tensor, factor: int) -> Tensor:
    """``(B, C, H, W)`` to ``(B, C, factor * H, factor * W)``."""
    return resize(x, [factor * length for length in x.shape[2:]])
