"""Near-duplicates: images so alike, such as neighbouring slices, that they must not lie on both sides of a fold."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.pictures import Picture

Key = TypeVar("Key")
THUMBNAIL_SIZE = 32
MIN_CORRELATION = 0.95
"""Correlation from which two thumbnails are near-duplicates. On 190 slices of kidney CT it gives exactly the groups
that their owners marked."""


def thumbnail(picture: Picture) -> NDArray[np.float32]:
    """Small grey copy ``(32, 32)`` with mean 0 and length 1: the product of two thumbnails is their correlation."""
    array = picture.array
    rows = 0 if picture.geometry is None or array.ndim == 2 else 1
    grey = array.mean(tuple({*range(array.ndim)} - {rows, rows + 1}))
    image = Image.fromarray(np.asarray(grey, np.float32))
    small = np.asarray(image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX))
    small = small - small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-12)


def near_duplicate_groups(
    thumbnails: Mapping[Key, NDArray[np.float32]], min_correlation: float = MIN_CORRELATION
) -> dict[Key, int]:
    """Number of each image's group; images that a chain of near-duplicates connects share a group.

    Args:
        thumbnails: from :func:`thumbnail`, one for each image.
        min_correlation: correlation from which two images are near-duplicates.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not thumbnails:
        return {}
    vectors = np.stack([thumbnail.ravel() for thumbnail in thumbnails.values()])
    pairs: list[NDArray[np.int64]] = []
    for start in range(0, len(vectors), 1024):
        close = np.argwhere(vectors[start : start + 1024] @ vectors.T >= min_correlation)
        pairs.append(close + np.array([start, 0]))
    rows, columns = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(vectors),) * 2)
    return dict(zip(thumbnails, connected_components(graph, directed=False)[1].tolist(), strict=True))
