"""Files that hold one image or several pages of the same size, which are slices of a volume or images of their own."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.pictures import (
    UNKNOWN_PLACE,
    Picture,
    count_not_finite,
    flat_volume,
    refuse_not_finite,
)
from nnunet_plugins.errors import UserError

Reading = Literal["volume", "images"] | None
"""Meaning of a file's pages, from ``--pages``; None: the user has not said."""


class Pages(NamedTuple):
    """Content of a file."""

    array: NDArray
    """Image ``(H, W)`` or ``(H, W, C)``; pages ``(P, H, W)`` or ``(P, H, W, C)``."""
    several: bool
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Distances along x, y and z; 1 if the file does not say."""


def page_path(path: Path, number: int) -> Path:
    """Name a page, from 1, as if it were a file beside its file: ``stack.tif#3``."""
    return path.with_name(f"{path.name}#{number}")


def split_page(path: Path) -> tuple[Path, int | None]:
    """File of a page and the page's number; None for a file."""
    match = re.fullmatch(r"(.+\.\w+)#([0-9]+)", path.name)
    return (path.with_name(match[1]), int(match[2])) if match else (path, None)


def as_picture(content: Pages, path: Path, reading: Reading) -> Picture:
    """Take the page that the path names, or the whole file.

    Raises:
        UserError: the file has several pages, and nobody has said what they are; or it has values that are no numbers.
    """
    _, number = split_page(path)
    array = content.array
    if content.several and number is None and reading != "volume":
        raise UserError(
            f"{path} has {len(array)} pages, which may be slices of one volume or images of their own: give --pages "
            "volume or --pages images; channels belong on the last axis"
        )
    if content.several and number is not None:
        array = array[number - 1]
    refuse_not_finite(path, count_not_finite(array), array.size, "values")
    if content.several and number is None:
        return Picture(array, UNKNOWN_PLACE._replace(spacing=content.spacing))
    return Picture(array) if array.dtype in (np.uint8, np.uint16) else flat_volume(array)


def as_mask(content: Pages, path: Path, reading: Reading) -> Picture:
    """Take the mask of the page that the path names, or of the whole file, with its values."""
    picture = as_picture(content, path, reading)
    if picture.geometry is not None and len(picture.array) == 1:
        return Picture(picture.array[0])
    return picture
