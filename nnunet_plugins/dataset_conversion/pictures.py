"""Images and volumes in memory, their places in space, and the files that nnU-Net reads."""

import zlib
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

    def corners(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Positions ``(8, 3)`` of the corner voxels of a volume ``(D, H, W)``."""
        indices = np.stack(np.meshgrid(*([0, length - 1] for length in shape[::-1]), indexing="ij"), -1).reshape(-1, 3)
        return self.origin + indices * self.spacing @ np.reshape(self.direction, (3, 3)).T


class Picture(NamedTuple):
    """An image ``(H, W)`` or ``(H, W, C)`` without geometry, or a volume ``(D, H, W)`` with geometry."""

    array: NDArray
    geometry: Geometry | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without channels."""
        return self.array.shape[: 2 if self.geometry is None else 3]


def write_image(array: NDArray, path: Path) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` as PNG."""
    Image.fromarray(array).save(path, format="PNG")


def write_volume(picture: Picture, path: Path) -> None:
    assert picture.geometry is not None
    volume = sitk.GetImageFromArray(picture.array)
    volume.SetSpacing(picture.geometry.spacing)
    volume.SetOrigin(picture.geometry.origin)
    volume.SetDirection(picture.geometry.direction)
    try:
        sitk.WriteImage(volume, str(path))
        check_nifti(path)
    except (EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise OSError(last_line(error)) from error


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


def last_line(error: Exception) -> str:
    """Last line of a library's message, or the error's type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
