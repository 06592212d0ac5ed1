"""Images of PNG, JPEG, BMP and GIF, and masks of the same formats, with every value that Pillow reads.

Pillow stretches values of fewer than 8 bits, and of 12, to 8 and 16 bits, as does scikit-image, nnU-Net's reader.
"""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nnunet_plugins.dataset_conversion.pictures import refuse_empty, told_if_damaged
from nnunet_plugins.errors import UserError

DAMAGED = "it is damaged or no image; download it again"


def read_image(path: Path) -> NDArray:
    """Read pixels ``(H, W)`` or ``(H, W, 3)``, without alpha."""
    return decode(path, image_array)


def read_mask_image(path: Path) -> NDArray:
    """Read a mask ``(H, W)``: grey values, or numbers of colours in a palette."""
    return decode(path, mask_array)


def decode(path: Path, to_array: Callable[[Image.Image], NDArray]) -> NDArray:
    refuse_empty(path)
    with told_if_damaged(path, DAMAGED):
        packed = path.suffix.lower() == ".gz"
        with cast(BinaryIO, gzip.open(path)) if packed else path.open("rb") as file, Image.open(file) as image:
            image.filename = str(path)
            deep = has_deep_channels(image)  # before Pillow looks for EXIF, for which it loads the pixels
            refuse_frames_and_turns(image)
            if not deep:
                return to_array(image)
            array = deep_array(path, image.format)
        array = without_alpha(array, path, is_mask=to_array is mask_array)
        return one_channel(array, path) if to_array is mask_array and array.ndim == 3 else array


def refuse_frames_and_turns(image: Image.Image) -> None:
    """Check that a file holds one upright image.

    Raises:
        UserError: it does not.
    """
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise UserError(f"{image_name(image)} has {frames} frames, but one image is expected: save a file for each")
    refuse_turned(Path(image_name(image)), image.getexif().get(ExifTags.Base.Orientation, 1))


def refuse_turned(path: Path, orientation: int) -> None:
    if orientation > 1:
        raise UserError(
            f"{path} is to be shown turned (EXIF orientation {orientation}), which nnU-Net ignores: save it upright, "
            "or remove this tag if its mask fits as it is"
        )


def has_deep_channels(image: Image.Image) -> bool:
    """Whether an image with several channels has more than 8 bits in each, of which Pillow would keep 8."""
    modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    if image.format == "PPM" and image.mode == "RGB":
        return any(int(number) > 255 for mode in modes for number in re.findall(r"[0-9]+", mode))
    return image.mode not in ("I;16", "I;16B", "I;16L", "I", "F") and any(";16" in mode for mode in modes)


def deep_array(path: Path, file_format: str | None) -> NDArray:
    """Pixels ``(H, W, C)`` of an image with 16 bits a channel; the last of two or four is alpha."""
    import imagecodecs

    if file_format != "PNG":
        raise UserError(f"{path} has 16 bits a colour, which are read of PNG and TIFF only: save it as one of them")
    return imagecodecs.png_decode(path.read_bytes())


def without_alpha(array: NDArray, path: Path, is_mask: bool) -> NDArray:
    """Drop the last of two or four channels ``(H, W, C)``, alpha; the last of two leaves ``(H, W)``.

    Raises:
        UserError: a mask is transparent in parts.
    """
    if array.shape[-1] not in (2, 4):
        return array
    alpha = array[..., -1]
    if is_mask and alpha.min(initial=alpha.flat[0]) != alpha.max(initial=alpha.flat[0]):
        raise UserError(f"{path} is transparent in parts: save the mask without transparency")
    return array[..., 0] if array.shape[-1] == 2 else array[..., :3]


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
