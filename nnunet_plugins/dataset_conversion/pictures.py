"""Images and volumes in memory, their places in space, and the files that nnU-Net reads."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.nifti import check_nifti
from nnunet_plugins.errors import UserError

SAME_GRID = 0.1
"""Largest distance between the corners of two equal grids, in voxels; file formats round positions."""


class Geometry(NamedTuple):
    """Place of a volume in space, in SimpleITK's words and order (x, y, z), in millimetres."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix ``(3, 4)`` from indices (x, y, z) to a position."""
        return np.column_stack([np.reshape(self.direction, (3, 3)) * self.spacing, self.origin])

    def corners(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Positions ``(8, 3)`` of the corner voxels of a volume ``(D, H, W)``."""
        indices = np.stack(np.meshgrid(*([0, length - 1] for length in shape[::-1]), indexing="ij"), -1).reshape(-1, 3)
        return self.origin + indices * self.spacing @ np.reshape(self.direction, (3, 3)).T


class Picture(NamedTuple):
    """An image ``(H, W)`` or ``(H, W, C)`` without geometry, or a volume ``(D, H, W)`` or ``(D, H, W, C)`` with it."""

    array: NDArray
    geometry: Geometry | None = None
    is_part: bool = False
    """Whether a mask may cover a part of its image, as those formats do that leave out empty slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without channels."""
        return self.array.shape[: 2 if self.geometry is None else 3]

    @property
    def num_channels(self) -> int:
        return math.prod(self.array.shape[len(self.shape) :])


UNKNOWN_PLACE = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def flat_volume(array: NDArray) -> Picture:
    """Volume of one slice and unknown spacing, for images ``(H, W)`` or ``(H, W, C)`` that PNG cannot hold."""
    return Picture(array[None], UNKNOWN_PLACE)


def slice_first(picture: Picture) -> Picture:
    """Bring the axis of a volume that has one slice to the front; only the spacing remains of its place in space."""
    assert picture.geometry is not None
    axis = picture.shape.index(1)
    order = [axis, *(other for other in range(3) if other != axis)]
    spacing = tuple(picture.geometry.spacing[2 - old] for old in reversed(order))
    array = np.ascontiguousarray(np.moveaxis(picture.array, axis, 0))
    return Picture(array, UNKNOWN_PLACE._replace(spacing=spacing))


def in_place_of(mask: Picture, image: Picture) -> Picture:
    """Bring a mask of one slice, or of a part of the image, into the form of its image."""
    if mask.is_part and image.geometry is not None:
        return completed(mask, image)
    if image.geometry is None and mask.geometry is not None and 1 in mask.shape:
        return Picture(mask.array.squeeze(mask.shape.index(1)))
    if image.geometry is not None and mask.geometry is None and 1 in image.shape:
        return Picture(np.expand_dims(mask.array, image.shape.index(1)), image.geometry)
    return mask


def write_image(array: NDArray, path: Path) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` as PNG."""
    Image.fromarray(array).save(path, format="PNG")


def write_volume(picture: Picture, path: Path, flat: bool = False) -> None:
    """Write ``(D, H, W)``, or the first slice of it as a file with two axes."""
    assert picture.geometry is not None
    volume = sitk.GetImageFromArray(picture.array[0] if flat else picture.array)
    volume.SetSpacing(picture.geometry.spacing[: 2 if flat else 3])
    if not flat:
        volume.SetOrigin(picture.geometry.origin)
        volume.SetDirection(picture.geometry.direction)
    try:
        sitk.WriteImage(volume, str(path))
        check_nifti(path)
    except (EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise OSError(last_line(error)) from error


def completed(mask: Picture, image: Picture) -> Picture:
    """Add what a mask leaves out of its image, as background; a mask that does not lie on its voxels stays as it is."""
    assert mask.geometry is not None and image.geometry is not None
    to_index = np.linalg.inv(image.geometry.affine[:, :3])
    scale = to_index @ mask.geometry.affine[:, :3]
    offset = to_index @ (mask.geometry.affine[:, 3] - image.geometry.affine[:, 3])
    steps = np.sign(np.diag(scale))
    lengths = np.array(mask.shape[::-1])
    last = (scale @ np.diag(lengths - 1)).sum(1) + offset  # of the last voxel
    exact = np.rint(offset) + steps * (lengths - 1)
    if max(np.abs(offset - np.rint(offset)).max(), np.abs(last - exact).max()) > SAME_GRID:
        return mask
    indices = [np.rint(o) + s * np.arange(n) for o, s, n in zip(offset, steps, lengths, strict=True)][::-1]
    if any(i.min() < 0 or i.max() >= n for i, n in zip(indices, image.shape, strict=True)):
        return mask
    array = np.zeros(image.shape, mask.array.dtype)
    array[np.ix_(*(index.astype(int) for index in indices))] = mask.array
    return Picture(array, image.geometry)


def grid_difference(image: Picture, mask: Picture) -> str:
    """Describe how two volumes' grids differ; empty if they agree to a tenth of a voxel."""
    if image.geometry is None or mask.geometry is None:
        return ""
    offset = np.linalg.norm(image.geometry.corners(image.shape) - mask.geometry.corners(image.shape), axis=1).max()
    if offset <= SAME_GRID * min(image.geometry.spacing):
        return ""
    differing = [
        f"{word} {rounded(ours)} and not {rounded(theirs)}"
        for word, ours, theirs in zip(Geometry._fields, mask.geometry, image.geometry, strict=True)
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    ]
    return ", ".join(differing) or f"corners that lie {offset:.3g} mm apart"


def rounded(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"


def refuse_empty(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check it and its permissions") from error
    if not first:
        raise UserError(f"{path} is empty (0 bytes): download it again")


def count_not_finite(array: NDArray) -> int:
    return int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind in "fc" else 0


def refuse_not_finite(path: Path, number: int, of: int, what: str) -> None:
    """Refuse a file in which some pixels or voxels are no numbers.

    Raises:
        UserError: there are any.
    """
    if number:
        raise UserError(
            f"{path} has {number} of {of} {what} that are not a number (NaN) or infinite: replace them by a value, "
            "in images that of air or of the background"
        )


@contextmanager
def told_if_damaged(path: Path, what: str) -> Iterator[None]:
    """Turn any error of a library that reads a file into a sentence; decoders raise anything for a damaged one.

    Raises:
        UserError: the file cannot be read, because it is ``what``; or that which was raised already.
    """
    try:
        yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large for Pillow, with which nnU-Net reads it too ({last_line(error)}): cut it into tiles"
        ) from error
    except Exception as error:
        raise UserError(f"{path} cannot be read ({last_line(error)}): {what}") from error


def last_line(error: Exception) -> str:
    """Last line of a library's message, or the error's type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
