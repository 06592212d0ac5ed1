"""TIFF of any depth and number of channels, in strips, tiles or planes, with one page or several."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.pictures import refuse_empty, told_if_damaged
from nnunet_plugins.dataset_conversion.readers.images import (
    DAMAGED,
    one_channel,
    read_image,
    read_mask_image,
    refuse_turned,
    without_alpha,
)
from nnunet_plugins.dataset_conversion.readers.pages import Pages
from nnunet_plugins.errors import UserError

WHITE_IS_ZERO, BLACK_IS_ZERO, COLOURS, PALETTE = range(4)
"""Meanings of TIFF's values that are read here; Pillow converts the others."""
ALPHA = (1, 2)


def read_tiff(path: Path, is_mask: bool) -> Pages:
    """Read all pages of a file as black on white, grey values, colours or channels, without alpha.

    Raises:
        UserError: the file is damaged, or its pages differ in size.
    """
    import tifffile

    refuse_empty(path)
    with told_if_damaged(path, DAMAGED), tifffile.TiffFile(path) as file:
        series = only_series(path, file)
        page: Any = series.keyframe
        if (tag := page.tags.get("Orientation")) is not None:
            refuse_turned(path, tag.value)
        if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, COLOURS, PALETTE):
            return Pages(read_mask_image(path) if is_mask else read_image(path), several=False)
        refuse_missing_bytes(file, series)
        array, several = in_order(path, series.asarray(maxworkers=1), series.axes)
        return Pages(plain_values(path, array, page, is_mask), several, voxel_size(file, page))


def count_tiff_pages(path: Path) -> int:
    """Number of pages of a file, of its header; 1 if it is damaged, which reading will say."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = only_series(path, file)
            return next(
                (n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "CSYX" and n > 1), 1
            )
    except Exception:  # decoders raise anything for a damaged file
        return 1


def only_series(path: Path, file: Any) -> Any:
    """Find the pages of one size that a file has, besides copies of smaller size.

    Raises:
        UserError: there are pages of several sizes.
    """
    found = [series for series in file.series if not series.keyframe.is_reduced]
    if len(found) != 1:
        sizes = sorted({f"{s.keyframe.imagewidth}x{s.keyframe.imagelength}" for s in found})
        raise UserError(
            f"{path} holds images of different kinds or sizes ({', '.join(sizes)}), but pages of one size are expected:"
            " save a file for each"
        )
    return found[0]


def refuse_missing_bytes(file: Any, series: Any) -> None:
    """Check that the file does not end before its pixels do, which would be read as zeros.

    Raises:
        EOFError: it does.
    """
    needed = max(
        (
            offset + count
            for page in series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ),
        default=0,
    )
    if needed > file.filehandle.size:
        raise EOFError(f"it ends after {file.filehandle.size} of {needed} bytes")


def in_order(path: Path, array: NDArray, axes: str) -> tuple[NDArray, bool]:
    """Bring axes into the order pages, rows, columns, channels, and say whether there are several pages.

    Raises:
        UserError: there are further axes.
    """
    lengths = dict(zip(axes, array.shape, strict=True)) if len(set(axes)) == len(axes) else {}
    long = [axis for axis in axes if axis in "YX" or lengths.get(axis, 2) > 1]
    channels, pages = ([axis for axis in long if axis in kind] for kind in ("CS", set(axes) - set("CSYX")))
    if len(channels) > 1 or len(pages) > 1 or not lengths:
        sizes = " x ".join(f"{axis} {n}" for axis, n in zip(axes, array.shape, strict=True))
        raise UserError(f"{path} has the axes {sizes}, but pages and channels are expected at most: save several files")
    order = [axes.index(axis) for axis in (*pages, "Y", "X", *channels)]
    others = [index for index in range(array.ndim) if index not in order]
    return array.transpose(*order, *others).reshape([array.shape[index] for index in order]), bool(pages)


def plain_values(path: Path, array: NDArray, page: Any, is_mask: bool) -> NDArray:
    """Give values the meaning that larger is brighter; drop alpha, and the colours of masks that are grey."""
    array = np.asarray(array, array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path} has values of the kind {array.dtype}, but integers or fractions are expected")
    if page.photometric == WHITE_IS_ZERO:
        if array.dtype.kind not in "bu":
            raise UserError(
                f"{path} has {array.dtype} values of which 0 is white, which is ambiguous: save it with 0 black"
            )
        array = ~array if array.dtype.kind == "b" else array.dtype.type(2**page.bitspersample - 1) - array
    if array.dtype.kind == "b":
        array = array * np.uint8(255)
    if page.photometric == PALETTE and page.colormap is not None:
        array = palette_values(array, page.colormap, is_mask)
    if len(page.extrasamples) == 1 and page.extrasamples[0] in ALPHA:
        array = without_alpha(array, path, is_mask)
    return one_channel(array, path) if is_mask and page.photometric == COLOURS and array.shape[-1] == 3 else array


def palette_values(numbers: NDArray, palette: NDArray, is_mask: bool) -> NDArray:
    """Look up greys ``(H, W)`` or colours ``(H, W, 3)``; in masks, the numbers of colours stay."""
    colours = (palette if palette.max() < 256 else palette >> 8).astype(np.uint8).T
    used = colours[np.unique(numbers), 0]
    if (colours == colours[:, :1]).all() and len(np.unique(used)) == len(used):
        return colours[numbers, 0]
    return numbers if is_mask else colours[numbers]


def voxel_size(file: Any, page: Any) -> tuple[float, float, float]:
    """Distances of columns, rows and pages, if ImageJ has written them; otherwise 1.

    ImageJ leaves out a distance of pages of 1, so that a unit alone tells of a stack's voxels.
    """
    about = file.imagej_metadata or {}
    is_measured = str(about.get("unit") or "pixel").lower() not in ("pixel", "pixels")
    distance = about.get("spacing") or (1.0 if is_measured and about.get("slices", 1) > 1 else None)
    if not distance or not all(page.resolution):
        return 1.0, 1.0, 1.0
    return 1 / page.resolution[0], 1 / page.resolution[1], abs(float(distance))
