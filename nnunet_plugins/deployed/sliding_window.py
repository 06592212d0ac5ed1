"""nnU-Net's sliding window: overlapping tiles, weighted by a Gaussian, mirrored, and the mean over the folds.

Sums are kept in half precision, as nnU-Net does.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

import numpy as np
from scipy import ndimage

from nnunet_plugins.deployed.model import Model
from nnunet_plugins.errors import UserError

Network = Callable[[np.ndarray], np.ndarray]
"""From images ``(1, C, *patch)`` to logits ``(1, K, *patch)``."""
Tile = tuple[slice | int, ...]

GAUSSIAN_SCALE, GAUSSIAN_PEAK = 1 / 8, 10
MOST_IN_MEMORY = 2**30
"""Bytes of logits from which on they lie in a temporary file instead."""


def predict_logits(
    networks: Sequence[Network], data: np.ndarray, model: Model, advance: Callable[[], object]
) -> np.ndarray:
    """Compute the mean logits ``(K, *S)`` of all folds for an image ``(C, *S)``.

    Args:
        networks: those of the folds.
        data: the image.
        model: the model's description.
        advance: called after each tile of each fold.
    """
    padded, inner = padded_to(data, model.patch_size)
    total = predict_fold(networks[0], padded, model, advance)
    for network in networks[1:]:
        total += predict_fold(network, padded, model, advance)
    if len(networks) > 1:
        total /= len(networks)
    return total[inner]


def predict_fold(network: Network, padded: np.ndarray, model: Model, advance: Callable[[], object]) -> np.ndarray:
    """Compute the logits of one network for an image that is no smaller than a patch.

    Raises:
        UserError: the sums overflow half precision.
    """
    sums = zeros((model.num_segmentation_heads, *padded.shape[1:]))
    weights = np.zeros(padded.shape[1:], np.float16)
    importance = gaussian(model.patch_size)
    for tile in tiles(padded.shape[1:], model.patch_size, model.tile_step_size):
        sums[tile] += predict_mirrored(network, padded[tile][None], model.mirror_axes)[0] * importance
        weights[tile[1:]] += importance
        advance()
    for of_class in sums:
        of_class /= weights
        if np.isinf(of_class).any():
            raise UserError("The network's logits exceed half precision: the model cannot be used for this image")
    return sums


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Make an array of zeros in half precision, in memory or, if it is large, in a temporary file.

    Raises:
        UserError: there is no room for the file.
    """
    size = 2 * math.prod(shape)
    if size <= MOST_IN_MEMORY:
        return np.zeros(shape, np.float16)
    try:
        with tempfile.TemporaryFile() as file:  # the array keeps the file
            reserve(file.fileno(), size)
            return np.memmap(file, np.float16, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()} has no room for {size / 2**30:.1f} GiB of logits ({error.strerror}): set TMPDIR "
            "to a folder that has"
        ) from error


def reserve(file: int, size: int) -> None:
    """Take the room of a file on the disk: writing where a disk is full would end the process without a word.

    Raises:
        OSError: there is too little.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.ftruncate(file, size)


def predict_mirrored(network: Network, image: np.ndarray, mirror_axes: Sequence[int]) -> np.ndarray:
    """Compute the mean of the logits for an image ``(1, C, *patch)`` and all its mirror images."""
    axes = [axis + 2 for axis in mirror_axes]
    mirrorings = [mirrored for n in range(1, len(axes) + 1) for mirrored in combinations(axes, n)]
    logits = network(np.ascontiguousarray(image))
    for mirrored in mirrorings:
        logits = logits + np.flip(network(np.ascontiguousarray(np.flip(image, mirrored))), mirrored)
    return logits / np.float32(1 + len(mirrorings))


def gaussian(patch_size: Sequence[int]) -> np.ndarray:
    """Make the weights of a tile's positions, highest at its centre and nowhere 0."""
    peak = np.zeros(patch_size)
    peak[tuple(length // 2 for length in patch_size)] = 1
    smooth = ndimage.gaussian_filter(peak, [length * GAUSSIAN_SCALE for length in patch_size], mode="constant")
    weights = (smooth / (smooth.max() / GAUSSIAN_PEAK)).astype(np.float32).astype(np.float16)
    return np.maximum(weights, weights[weights > 0].min())


def tiles(shape: Sequence[int], patch_size: Sequence[int], step: float) -> Iterator[Tile]:
    """Cover an image with tiles, at distances of at most a share of their size; of a volume, a 2D model every slice."""
    tiled = shape[len(shape) - len(patch_size) :]
    starts = [starts_along(length, size, step) for length, size in zip(tiled, patch_size, strict=True)]
    slices: list[list[int]] = [list(range(length)) for length in shape[: len(shape) - len(patch_size)]]
    for place in product(*slices, *starts):
        corner = place[len(slices) :]
        parts = (slice(start, start + size) for start, size in zip(corner, patch_size, strict=True))
        yield (slice(None), *place[: len(slices)], *parts)


def starts_along(length: int, size: int, step: float) -> list[int]:
    """Begin of the tiles along an axis.

    Example:
        >>> starts_along(110, 64, 0.5)
        [0, 23, 46]
    """
    number = int(np.ceil((length - size) / (size * step))) + 1
    distance = (length - size) / max(number - 1, 1)
    return [int(np.round(distance * index)) for index in range(number)]


def number_of_tiles(shape: Sequence[int], model: Model) -> int:
    """Count the tiles of an image of this shape."""
    size = model.patch_size
    padded = [*shape[: len(shape) - len(size)]]
    padded += [max(length, least) for length, least in zip(shape[len(shape) - len(size) :], size, strict=True)]
    return sum(1 for _ in tiles(padded, size, model.tile_step_size))


def padded_to(data: np.ndarray, patch_size: Sequence[int]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Pad an image with zeros on both sides to at least a patch, and tell where in it the image lies."""
    least = [0] * (data.ndim - len(patch_size)) + list(patch_size)
    missing = [max(size - length, 0) for length, size in zip(data.shape, least, strict=True)]
    before = [number // 2 for number in missing]
    margins = [(first, number - first) for first, number in zip(before, missing, strict=True)]
    inner = tuple(slice(first, first + length) for first, length in zip(before, data.shape, strict=True))
    return np.pad(data, margins), (slice(None), *inner[1:])
