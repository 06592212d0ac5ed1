"""Lossless reading of published images, volumes and masks, and writing of files that nnU-Net reads."""

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from nnunet_plugins.errors import UserError

VOLUME_ENDINGS = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
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


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def read_picture(path: Path) -> Picture:
    """Read an image or a volume, as the file's ending says.

    Raises:
        UserError: the file is empty or damaged, or nnU-Net cannot train on its content.
    """
    return read_volume(path) if is_volume(path) else Picture(read_image(path, image_array))


def read_mask(paths: tuple[Path, ...], shape: tuple[int, ...]) -> Picture:
    """Read a segmentation ``(H, W)`` or ``(D, H, W)`` with the values that the file has."""
    (path,) = paths
    return read_volume(path) if is_volume(path) else Picture(read_image(path, mask_array))


# ---- images ----------------------------------------------------------------------------------------------------------


def read_image(path: Path, to_array: Callable[[Image.Image], NDArray]) -> NDArray:
    refuse_empty(path)
    try:
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{path} has {frames} frames, but one image is expected: save volumes as NIfTI")
            deep = has_deep_colours(image)  # before Pillow looks for EXIF, for which it loads the pixels
            if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) > 1:
                raise UserError(
                    f"{path} is to be shown turned (EXIF orientation {orientation}), which nnU-Net ignores: save it "
                    "upright, or remove this tag if its mask fits as it is"
                )
            if deep:  # Pillow would keep 8 bits
                array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., :3]
                return one_channel(array, path) if to_array is mask_array else array
            return to_array(image)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything for a damaged file
        raise UserError(
            f"{path} cannot be read ({last_line(error)}): it is damaged or no image; download it again"
        ) from error


def has_deep_colours(image: ImageFile.ImageFile) -> bool:
    """Whether a colour image has more than 8 bits a channel."""
    return image.mode not in ("I;16", "I;16B", "I;16L", "I", "F") and any(";16" in str(tile[3]) for tile in image.tile)


def image_array(image: Image.Image) -> NDArray:
    """Pixels ``(H, W)`` or ``(H, W, 3)`` of an image, without alpha."""
    match image.mode:
        case "1" | "LA" | "La":
            image = image.convert("L")
        case "P" | "PA":
            grey = has_grey_palette(image)
            image = image.convert("RGBA").convert("RGB")  # Pillow would blend transparency otherwise
            return np.asarray(image)[..., 0] if grey else np.asarray(image)
        case "RGBA" | "RGBa" | "RGBX":
            return np.asarray(image)[..., :3]
        case "F":
            raise UserError(f"{image_name(image)} has floating-point values, which PNG cannot hold: save it as NIfTI")
        case "L" | "RGB" | "I;16" | "I;16B" | "I;16L" | "I":
            pass
        case _:
            image = image.convert("RGB")
    return np.asarray(image)


def mask_array(image: Image.Image) -> NDArray:
    """Pixels ``(H, W)`` of a mask: grey values, or numbers of colours in a palette."""
    if image.mode in ("P", "PA") and not has_grey_palette(image):
        return np.asarray(image if image.mode == "P" else image.getchannel(0))
    if image.mode in ("LA", "La", "RGBA", "RGBa") and len(set(image.getchannel("A").getextrema())) > 1:
        raise UserError(f"{image_name(image)} is transparent in parts: save the mask without transparency")
    array = image_array(image)
    if array.ndim == 3:
        array = one_channel(array, image_name(image))
    return array


def one_channel(array: NDArray, name: object) -> NDArray:
    """Reduce a colour image ``(H, W, 3)`` of three equal channels to one channel.

    Raises:
        UserError: the channels differ.
    """
    if (array[..., :1] != array[..., 1:]).any():
        raise UserError(f"{name} is coloured, but grey values are expected: save it with one channel")
    return array[..., 0]


def has_grey_palette(image: Image.Image) -> bool:
    """Whether the palette has only greys, and no two colours that the image uses are the same grey."""
    numbers = image if image.mode == "P" else image.getchannel(0)
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = palette[np.flatnonzero(numbers.histogram()[: len(palette)]), 0]
    return bool((palette == palette[:, :1]).all()) and len(set(used.tolist())) == len(used)


def image_name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "the image"))


def write_image(array: NDArray, path: Path) -> None:
    """Write ``(H, W)`` or ``(H, W, 3)`` as PNG."""
    Image.fromarray(array).save(path, format="PNG")


# ---- volumes ---------------------------------------------------------------------------------------------------------


def read_volume(path: Path) -> Picture:
    refuse_empty(path)
    try:
        refuse_cut_off(path)
        volume = sitk.ReadImage(str(path))
    except (OSError, EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise UserError(
            f"{path} cannot be read ({last_line(error)}): it is damaged or incomplete; download it again"
        ) from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() > 1:
        channels = volume.GetNumberOfComponentsPerPixel()
        raise UserError(
            f"{path} has {volume.GetDimension()} dimensions and {channels} channel(s), but a volume with one is "
            "expected: save a file for each channel"
        )
    array = sitk.GetArrayFromImage(volume)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{path} has voxels that are not a number (NaN) or infinite: replace them by the value of air")
    return Picture(array, Geometry(volume.GetSpacing(), volume.GetOrigin(), volume.GetDirection()))


def data_files(path: Path) -> list[Path]:
    """List the file with the voxels that a MetaImage header points to, if they are not in the header's file."""
    if path.suffix.lower() != ".mhd":
        return []
    entries = (line.partition("=") for line in path.read_text(errors="replace").splitlines())
    names = [value.strip() for key, _, value in entries if key.strip() == "ElementDataFile"]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]


def write_volume(picture: Picture, path: Path) -> None:
    assert picture.geometry is not None
    volume = sitk.GetImageFromArray(picture.array)
    volume.SetSpacing(picture.geometry.spacing)
    volume.SetOrigin(picture.geometry.origin)
    volume.SetDirection(picture.geometry.direction)
    try:
        sitk.WriteImage(volume, str(path))
        refuse_cut_off(path)
    except (EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise OSError(last_line(error)) from error


def refuse_cut_off(path: Path) -> None:
    """Check that a NIfTI file has all its voxels, since SimpleITK reads and writes incomplete files without an error.

    Raises:
        OSError, EOFError, zlib.error, ImageFileError: not all voxels are there.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    image: Any = nibabel.load(path)  # reads the header
    expected = image.dataobj.offset + math.prod(image.dataobj.shape) * image.dataobj.dtype.itemsize
    length = 0
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while chunk := file.read(1 << 20):  # to the checksum at the end
            length += len(chunk)
    if length < expected:
        raise EOFError(f"it ends after {length} of {expected} bytes")


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


def last_line(error: Exception) -> str:
    """Last line of a library's message, or the error's type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
