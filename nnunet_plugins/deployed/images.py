"""Image files, read and written as nnU-Net does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import counted, enumeration

UNKNOWN_SPACING = 999.0
"""Distance, in pixels, of the slices of an image that is a single slice."""


class Image(NamedTuple):
    """The channels of a case."""

    data: np.ndarray
    """``(C, Z, Y, X)``, float32."""
    spacing: tuple[float, ...]
    """Distances of the voxels along Z, Y and X."""
    geometry: dict[str, Any]
    """Whatever else the file of the segmentation must have."""


class Format(NamedTuple):
    """Functions for a kind of file."""

    read: Callable[[Path], Image]
    write: Callable[[np.ndarray, Path, dict[str, Any]], None]
    """Write labels ``(Z, Y, X)`` with the geometry of an image."""


def read_picture(path: Path) -> Image:
    from skimage import io

    pixels = io.imread(path)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise UserError(f"It has the shape {pixels.shape}: expected a picture in grey, RGB or RGBA")
    channels = pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[:, None]
    return Image(channels.astype(np.float32), (UNKNOWN_SPACING, 1.0, 1.0), {})


def write_picture(labels: np.ndarray, path: Path, _: dict[str, Any]) -> None:
    from skimage import io

    io.imsave(path, labels[0], check_contrast=False)


def read_volume(path: Path) -> Image:
    import SimpleITK

    file = SimpleITK.ReadImage(str(path))
    voxels, sizes = SimpleITK.GetArrayFromImage(file), file.GetSpacing()
    spacing = tuple(abs(size) for size in sizes[::-1])
    if voxels.ndim == 2:
        voxels, spacing = voxels[None, None], (max(sizes) * UNKNOWN_SPACING, *spacing)
    elif voxels.ndim == 3:
        voxels = voxels[None]
    elif voxels.ndim == 4:
        spacing, sizes = spacing[1:], sizes[:3]
    else:
        raise UserError(f"It has {voxels.ndim} dimensions: expected an image or a volume")
    axes = len(sizes)
    direction = np.reshape(file.GetDirection(), (file.GetDimension(),) * 2)[:axes, :axes].flatten().tolist()
    geometry = {"Spacing": sizes, "Origin": file.GetOrigin()[:axes], "Direction": direction}
    return Image(voxels.astype(np.float32), spacing, geometry)


def write_volume(labels: np.ndarray, path: Path, geometry: dict[str, Any]) -> None:
    import SimpleITK

    file = SimpleITK.GetImageFromArray(labels[0] if len(geometry["Spacing"]) == 2 else labels)
    for name, value in geometry.items():
        getattr(file, f"Set{name}")(value)
    SimpleITK.WriteImage(file, str(path), True)


FORMATS = {"NaturalImage2DIO": Format(read_picture, write_picture), "SimpleITKIO": Format(read_volume, write_volume)}
"""Kinds of files by the names of nnU-Net's readers."""


def read_case(reader: str, paths: Sequence[Path], channels: Sequence[str], remedy: str = "") -> Image:
    """Read a case's files, one after the other, whose channels are those of the model.

    Args:
        reader: name of nnU-Net's.
        paths: the files.
        channels: names of the model's channels.
        remedy: what else can be done about other channels.

    Raises:
        UserError: a file cannot be read, or they do not fit together, or not the model.
    """
    images = [read_file(reader, path) for path in paths]
    first = images[0]
    for path, image in zip(paths, images, strict=True):
        if (image.data.shape[1:], image.spacing) != (first.data.shape[1:], first.spacing):
            raise UserError(
                f"{path} has shape {image.data.shape[1:]} and spacing {image.spacing}, but {paths[0].name} has "
                f"{first.data.shape[1:]} and {first.spacing}: expected the same of all channels of a case"
            )
    data = np.concatenate([image.data for image in images])
    if len(data) != len(channels):
        files = f"{enumeration(path.name for path in paths)} {'has' if len(paths) == 1 else 'have'}"
        expected = f"the model takes {len(channels)} ({', '.join(channels)})"
        raise UserError(f"{files} {counted(len(data), 'channel')}, but {expected}: give files with these{remedy}")
    return first._replace(data=data)


def read_file(reader: str, path: Path) -> Image:
    try:
        return FORMATS[reader].read(path)
    except Exception as error:  # whatever a damaged file makes the libraries raise
        reason = " ".join(str(error).split()[-30:]) or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): replace or remove it") from error
