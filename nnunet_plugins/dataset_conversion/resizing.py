"""Resizing to a paper's size: images by area where they shrink and cubic where they grow, labels by nearest.

Pixels are areas, and the outlines of an image and of its resized copy coincide: pixel i of n lies at (i + 0.5) / n of
the length, in images, labels and volumes alike.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.pictures import Geometry, Picture

Size = tuple[int, int]
"""Height and width; of a volume, those of its slices ``(H, W)`` in ``(D, H, W)``."""


def resize_picture(picture: Picture, size: Size) -> Picture:
    """Resize an image, or each slice of a volume, which keeps its place in space; values keep their type."""
    old_size = in_plane(picture.shape)
    if old_size == size:
        return picture
    if picture.array.ndim > len(picture.shape):
        channels = [resize_picture(picture._replace(array=plane), size) for plane in np.moveaxis(picture.array, -1, 0)]
        return Picture(np.stack([channel.array for channel in channels], -1), channels[0].geometry)
    if picture.geometry is None:
        return Picture(resize_plane(picture.array, size))
    resized = np.stack([resize_plane(plane, size) for plane in picture.array])
    return Picture(resized, resized_geometry(picture.geometry, old_size, size))


def in_plane(shape: tuple[int, ...]) -> Size:
    """Height and width of an image ``(H, W)`` or a volume ``(D, H, W)``."""
    return shape[-2], shape[-1]


def resize_plane(plane: NDArray, size: Size) -> NDArray:
    """Resize ``(H, W)``, each axis by the mean over areas if it shrinks and by cubic interpolation if it grows."""
    from skimage.transform import resize_local_mean

    values = plane.astype(np.float32 if plane.dtype.itemsize < 4 else np.float64)
    smaller = min(size[0], plane.shape[0]), min(size[1], plane.shape[1])
    if smaller != plane.shape:
        values = resize_local_mean(values, smaller, preserve_range=True)
    if smaller != size:
        values = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))
    if np.issubdtype(plane.dtype, np.integer):
        values = np.rint(values)
    return values.clip(plane.min(), plane.max()).astype(plane.dtype)  # cubic interpolation overshoots at edges


def resized_geometry(geometry: Geometry, old: Size, new: Size) -> Geometry:
    """Place of a volume whose slices were resized: the outlines stay, so the centre of the first voxel moves."""
    scale = np.array([old[1] / new[1], old[0] / new[0], 1.0])
    shift = (scale - 1) / 2 * geometry.spacing
    origin = geometry.origin + np.reshape(geometry.direction, (3, 3)) @ shift
    return geometry._replace(
        spacing=tuple((scale * geometry.spacing).tolist()),
        origin=tuple(origin.tolist()),
    )


# ---- labels ----------------------------------------------------------------------------------------------------------


def resize_labels(labels: NDArray, size: Size) -> NDArray:
    """Take the nearest pixels of ``(H, W)`` or of each slice of ``(D, H, W)``; of two as near, the later one."""
    rows, columns = (nearest(old, new) for old, new in zip(in_plane(labels.shape), size, strict=True))
    return labels[..., rows[:, None], columns]


def nearest(old: int, new: int) -> NDArray[np.int64]:
    """Pixel of ``old`` in which the centre of each of ``new`` pixels lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def vanished_objects(labels: NDArray[np.uint8], size: Size) -> dict[int, int]:
    """Count the objects that have no pixel left after :func:`resize_labels`, for each label that has any.

    An object is a connected component of one label, with diagonal neighbours, in a volume across slices.
    """
    import cc3d

    objects = cc3d.connected_components(labels, connectivity=8 if labels.ndim == 2 else 26)
    label_of = np.zeros(int(objects.max(initial=0)) + 1, np.uint8)
    label_of[objects] = labels
    label_of[resize_labels(objects, size)] = 0  # those that are still there
    values, counts = np.unique(label_of[label_of > 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
