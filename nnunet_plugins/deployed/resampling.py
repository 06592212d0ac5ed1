"""Resampling of images and logits, as nnU-Net's default function computes it."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature

import numpy as np
from scipy import ndimage
from skimage.transform import resize

ANISOTROPY = 3
"""Ratio of the largest spacing to the smallest above which the thick axis is resampled by itself."""
Resampling = Callable[..., np.ndarray]


def new_shape(shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Shape that an image has at another spacing."""
    return tuple(round(old / new * n) for old, new, n in zip(spacing, new_spacing, shape, strict=True))


def resample(
    data: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = ANISOTROPY,
) -> np.ndarray:
    """Resample a map ``(Z, Y, X)`` to a shape, with splines of an order, and of ``order_z`` along a thick axis.

    The names of the options are nnU-Net's, from its plans; ``is_seg`` is always false for images and logits.
    """
    assert not is_seg
    if data.shape == tuple(shape):
        return data
    axis = thick_axis(spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    source = data.astype(float)
    if axis is None:
        return resized(source, shape, order).astype(data.dtype)
    slices = np.moveaxis(source, axis, 0)
    in_plane = [n for index, n in enumerate(shape) if index != axis]
    stacked = np.stack([resized(image, in_plane, order) for image in slices])
    return np.moveaxis(resampled_axis(stacked, shape[axis], order_z), 0, axis).astype(data.dtype)


OPTIONS = {name for name, option in signature(resample).parameters.items() if option.kind is Parameter.KEYWORD_ONLY}


def resized(image: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    return resize(image, tuple(shape), order, mode="edge", anti_aliasing=False)


def resampled_axis(data: np.ndarray, length: int, order: int) -> np.ndarray:
    """Resample the first axis alone; order 0 takes the nearest slice."""
    scale = data.shape[0] / length
    if data.shape[0] == length:
        return data
    if order == 0:
        places = (scale * (np.arange(length) + 0.5) - 0.5).clip(0, data.shape[0] - 1)
        return data[np.floor(places + 0.5).astype(int)]
    shape, scales, offsets = (length, *data.shape[1:]), (scale, 1, 1), (0.5 * scale - 0.5, 0, 0)
    return ndimage.affine_transform(data, scales, offsets, shape, order=order, mode="nearest")


def thick_axis(
    spacing: Sequence[float], new_spacing: Sequence[float], forced: bool | None, threshold: float
) -> int | None:
    """Axis that is resampled by itself, or ``None``: the one thick axis of the first spacing that is anisotropic."""
    if forced is False:
        return None
    anisotropic = [s for s in (spacing, new_spacing) if forced or max(s) / min(s) > threshold]
    if not anisotropic:
        return None
    axes = [axis for axis, size in enumerate(anisotropic[0]) if max(anisotropic[0]) / size == 1]
    return axes[0] if len(axes) == 1 else None


def unchanged(data: np.ndarray, *_: object) -> np.ndarray:
    """Leave the map as it is, whatever its spacing."""
    return data


FUNCTIONS: dict[str, Resampling] = {"resample_data_or_seg_to_shape": resample, "no_resampling_hack": unchanged}
"""Functions by their names in nnU-Net's plans."""
