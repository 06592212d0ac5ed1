"""Images of PNG, JPEG, BMP and GIF, and masks of the same formats, with every value that the file has."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from nnunet_plugins.dataset_conversion.pictures import last_line, refuse_empty
from nnunet_plugins.errors import UserError


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
