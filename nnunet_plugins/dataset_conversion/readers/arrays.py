"""Arrays of numpy and HDF5: images, slices or volumes, alone or with their labels in the same file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.pictures import refuse_empty, told_if_damaged
from nnunet_plugins.dataset_conversion.readers.pages import Pages
from nnunet_plugins.errors import UserError

ARRAY_ENDINGS = (".npy.h5", ".npy", ".npz", ".h5", ".hdf5")
IMAGE_KEYS, MASK_KEYS = ("image",), ("label", "mask")
"""Names of arrays in one file, as TransUNet's preprocessed Synapse is shared."""
MAX_CHANNELS = 4
"""Longest last axis of three that is read as channels."""


def is_array(path: Path) -> bool:
    return path.name.lower().endswith(ARRAY_ENDINGS)


def read_array(path: Path, is_mask: bool) -> Pages:
    """Read ``(H, W)``, ``(H, W, C)`` with up to four channels, or pages ``(P, H, W)`` or ``(P, H, W, C)``.

    Raises:
        UserError: the file is damaged, or has no such array.
    """
    refuse_empty(path)
    with told_if_damaged(path, "it is damaged or holds no plain numbers; save it again"):
        array = load(path, is_mask)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path} has values of the kind {array.dtype}, but integers or fractions are expected")
    kinds: dict[Any, Any] = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}
    native: Any = array.dtype.newbyteorder("=")
    return in_order(path, array.astype(kinds.get(native, native)))


def load(path: Path, is_mask: bool) -> NDArray:
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[chosen_key(path, arrays, is_mask)]
    import h5py

    with h5py.File(path, "r") as file:
        arrays = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        return np.asarray(arrays[chosen_key(path, arrays, is_mask)])


def chosen_key(path: Path, arrays: Mapping[str, Any], is_mask: bool) -> str:
    """Find the image or the mask among a file's arrays.

    Raises:
        UserError: it is not clear which array it is.
    """
    if len(arrays) == 1:
        return next(iter(arrays))
    keys = MASK_KEYS if is_mask else IMAGE_KEYS
    for key in keys:
        if key in arrays:
            return key
    names = ", ".join(map(repr, arrays)) or "none"
    raise UserError(
        f"{path} has the arrays {names}, but one array, or one that is named {' or '.join(map(repr, keys))}, is "
        f"expected for {'masks' if is_mask else 'images'}: rename it"
    )


def in_order(path: Path, array: NDArray) -> Pages:
    shape = array.shape
    if len(shape) > 2:
        array = array.reshape([n for axis, n in enumerate(shape) if n > 1 or axis in (len(shape) - 2, len(shape) - 1)])
    coloured = array.ndim > 2 and array.shape[-1] <= MAX_CHANNELS < min(array.shape[-3:-1])
    num_axes = array.ndim - coloured
    if num_axes not in (2, 3):
        raise UserError(
            f"{path} has the shape {shape}, but (rows, columns), (pages, rows, columns), or these with at most "
            f"{MAX_CHANNELS} channels as last axis are expected: save it so, or as NIfTI"
        )
    return Pages(array[..., 0] if coloured and array.shape[-1] == 1 else array, several=num_axes == 3)
