"""Masks in which colours stand for classes, as true colours or in a palette."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.labels import entries_to_name
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import PICTURE_ENDINGS, read_mask, read_picture
from nnunet_plugins.dataset_conversion.readers.pages import Reading
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import counted, enumeration

TOLERANCE = 64
"""Largest distance, in any channel, at which a pixel of a JPEG has a named colour beyond doubt."""
MAX_FAR = 0.05
"""Largest share of a JPEG's pixels that may lie farther from all named colours, as they do at edges."""
BLACK = 0
Reader = Callable[[tuple[Path, ...], tuple[int, ...]], Picture]


# ---- true colours ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColourMap:
    """Rule that gives each of these colours its label, and refuses all others but a JPEG's neighbours."""

    labels: Mapping[int, int]
    """Label of each colour ``0xRRGGBB``."""
    remedy: str

    def __call__(self, mask: NDArray) -> NDArray[np.uint8]:
        codes = colour_codes(mask)
        labels, known = np.zeros(codes.shape, np.uint8), np.zeros(codes.shape, np.bool_)
        for colour, label in self.labels.items():
            here = codes == colour
            labels[here], known = label, known | here
        if not known.all():
            values, counts = np.unique(codes, return_counts=True)
            expected = f"only {enumeration(map(colour_name, self.labels))} are expected"
            raise UserError(unexpected_colours(values, counts, expected, self.remedy, self.labels))
        return labels


def read_colours(
    paths: tuple[Path, ...], shape: tuple[int, ...], colours: Iterable[int], reading: Reading = None
) -> Picture:
    """Read a mask's colours, ``(H, W, 3)`` or of a stack; a JPEG's pixels get the nearest ones of those that are named.

    Raises:
        UserError: the mask is no colour image, or a JPEG of other colours.
    """
    (path,) = paths
    refuse_transparency(path)
    picture = read_picture(path, reading)
    has_channels = picture.array.ndim > len(picture.shape)
    if picture.geometry is not None and not has_channels:
        raise UserError(f"{path} has no colours: give numbers in --label-map, e.g. 0=background 1=organ")
    array = picture.array if has_channels else np.repeat(picture.array[..., None], 3, -1)
    if array.dtype != np.uint8:
        raise UserError(f"{path} has values of {array.dtype}, but colours of a mask have 8 bits: save it with 8 bits")
    return picture._replace(array=nearest_colours(array, list(colours), path) if is_lossy(path) else array)


def refuse_transparency(path: Path) -> None:
    extrema: tuple[Any, ...] = ()
    with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:  # the reader has the right sentence
        extrema = image.getchannel("A").getextrema() if "A" in image.getbands() else ()
    if len(set(extrema)) > 1:
        raise UserError(f"{path} is transparent in parts: save the mask without transparency")


def is_lossy(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def nearest_colours(array: NDArray[np.uint8], colours: list[int], path: Path) -> NDArray[np.uint8]:
    named = split_codes(np.array(colours))
    codes, inverse, counts = np.unique(colour_codes(array), return_inverse=True, return_counts=True)
    offsets = split_codes(codes)[:, None].astype(np.int32) - named.astype(np.int32)
    nearest = (offsets**2).sum(-1).argmin(1)
    far = np.abs(offsets[np.arange(len(codes)), nearest]).max(-1) > TOLERANCE
    if (share := counts[far].sum() / counts.sum()) > MAX_FAR:
        strange = colour_name(int(codes[far][counts[far].argmax()]))
        raise UserError(
            f"{path} has {share:.1%} of its pixels farther than {TOLERANCE} from all colours of --label-map, such as "
            f"{strange}: name the missing colour, or save the mask as PNG"
        )
    return named[nearest[inverse]].reshape(array.shape)


def colour_codes(array: NDArray) -> NDArray[np.int32]:
    """Each colour ``(..., 3)`` as one number ``0xRRGGBB``."""
    red, green, blue = np.moveaxis(array.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def split_codes(codes: NDArray) -> NDArray[np.uint8]:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8)


def colour_name(code: int) -> str:
    return f"#{code:06x}"


def unexpected_colours(values: NDArray, counts: NDArray, expected: str, remedy: str, known: Iterable[int] = ()) -> str:
    """Sentence on colours that are not expected, with their shares and entries of ``--label-map`` for them."""
    order = sorted(np.argsort(counts)[::-1][:8])
    names = [colour_name(int(values[i])) for i in order]
    shares = [f"{name} ({counts[i] / counts.sum():.2%})" for name, i in zip(names, order, strict=True)]
    more = f" and {counted(len(values) - len(order), 'rarer one')}" if len(values) > len(order) else ""
    background = "#000000" if "#000000" in names else names[0]
    unknown = [name for name in names if int(name[1:], 16) not in set(known)]
    entries = entries_to_name(unknown, None if known else background)
    return (
        f"has the colours {', '.join(shares)}{more}, but {expected}: {remedy.replace('{entries}', ' '.join(entries))}"
    )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def read_values(
    paths: tuple[Path, ...],
    shape: tuple[int, ...],
    *,
    read: Reader = read_mask,
    binary: bool = False,
    numbered: bool = False,
) -> Picture:
    """Read a mask's values; a mask of two classes in a palette is read by its colours.

    Args:
        paths: the mask's file.
        shape: the image's size.
        read: reads grey values, and the numbers of colours in a palette.
        binary: whether the mask should have two classes.
        numbered: whether the object of these two may be many, with numbers of their own.

    Raises:
        UserError: the mask is coloured, or the colours of a palette and their numbers say different things.
    """
    (path,) = paths
    if path.name.lower().endswith(PICTURE_ENDINGS):
        palette = read_palette(path) if binary else None
        if palette is not None:
            return two_classes(path, read(paths, shape).array, palette, numbered)
        try:
            return read(paths, shape)
        except UserError:
            refuse_colours(path)
            raise
    return read(paths, shape)


def read_palette(path: Path) -> NDArray[np.int32] | None:
    """Colours of a palette as numbers ``0xRRGGBB``; None if there is no palette, or only greys."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "PA"):
                return None
            colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    except (OSError, SyntaxError, ValueError):
        return None  # the reader has the right sentence
    return None if (colours == colours[:, :1]).all() else colour_codes(colours)


def two_classes(path: Path, numbers: NDArray, palette: NDArray[np.int32], numbered: bool = False) -> Picture:
    """Read a palette's mask of two classes, of which black is the background, whatever its number.

    Further colours are ``numbered`` objects, if black has the number 0 or does not occur.

    Raises:
        UserError: there are other colours, so that none of them need be the background.
    """
    used, counts = np.unique(numbers, return_counts=True)
    colours = palette[used]
    if BLACK in colours and len(used) <= 2:
        return Picture((palette[numbers] != BLACK).astype(np.uint8))
    if numbered and (BLACK not in colours or palette[0] == BLACK):
        return Picture(numbers)
    named = [f"{number} {colour_name(int(colour))}" for number, colour in zip(used, colours, strict=True)]
    shares = [f"{name} ({count / counts.sum():.2%})" for name, count in zip(named, counts, strict=True)]
    by_colour, by_number = [colour_name(int(colour)) for colour in colours[:8]], [str(number) for number in used[:8]]
    raise UserError(
        f"{path} has the colours {', '.join(shares[:8])} in a palette, not black and one other: name them, by number "
        f"(--label-map {' '.join(entries_to_name(by_number, by_number[0]))}) or by colour "
        f"(--label-map {' '.join(entries_to_name(by_colour, by_colour[0]))})"
    )


def refuse_colours(path: Path) -> None:
    """Check that a mask that cannot be read as numbers has no colours.

    Raises:
        UserError: it has, and this sentence helps more.
    """
    array = read_picture(path).array
    if array.ndim == 3 and array.dtype == np.uint8 and (array[..., :1] != array[..., 1:]).any():
        values, counts = np.unique(colour_codes(array), return_counts=True)
        remedy = "name the colours, as in --label-map {entries}"
        raise UserError(f"{path} {unexpected_colours(values, counts, 'grey values are expected', remedy)}")
