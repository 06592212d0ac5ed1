"""Rules that turn a mask's values into nnU-Net's labels, or refuse a mask with other values and show its histogram."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import counted, enumeration

LabelRule = Callable[[NDArray], NDArray[np.uint8]]
"""Function from a mask ``(H, W)`` or ``(D, H, W)`` to its labels; it raises UserError for unexpected values."""

PUBLISHED = "replace the file by the published one"
PUBLISHED_BINARY = f"{PUBLISHED}, or give --threshold 127 if only its edges are grey"
MAX_ENTRIES = 16
"""Largest number of values that are taken for classes, not for grey edges."""


@dataclass(frozen=True)
class LabelMap:
    """Rule that gives each of these values its label and refuses all others.

    Raises:
        ValueError: two values share a label (a converter must name classes that it merges into the background as
            ``dropped``), or the labels are not 0, 1, 2, ...
    """

    labels: Mapping[int, int]
    dropped: frozenset[int] = frozenset()
    """Published values that become background."""
    remedy: str = PUBLISHED

    def __post_init__(self) -> None:
        if sorted(self.labels.values()) != list(range(len(self.labels))):
            raise ValueError(f"a label map must be a bijection onto 0, 1, 2, ..., but it is {dict(self.labels)}")

    def __call__(self, mask: NDArray) -> NDArray[np.uint8]:
        values, counts = histogram(mask)
        known = dict(self.labels) | dict.fromkeys(self.dropped, 0)
        if not set(values.tolist()) <= known.keys():
            expected = f"only {enumeration(sorted(known))} are expected"
            raise unexpected_values(values, counts, expected, self.remedy, known)
        return look_up(mask, values, [known[value] for value in values.tolist()])


@dataclass(frozen=True)
class Binary:
    """Rule for masks of 0 and 255, or of 0 and 1."""

    remedy: str = PUBLISHED_BINARY

    def __call__(self, mask: NDArray) -> NDArray[np.uint8]:
        values, counts = histogram(mask)
        if not (set(values.tolist()) <= {0, 255} or set(values.tolist()) <= {0, 1}):
            raise unexpected_values(values, counts, "a binary mask has only 0 and 255, or 0 and 1", self.remedy)
        return (mask != 0).astype(np.uint8)


@dataclass(frozen=True)
class Threshold:
    """Rule that takes values above a threshold for foreground, for masks that lossy compression has blurred.

    A mask with too much grey is refused: ``max_grey`` is the largest share of pixels that may lie nearer to the middle
    of 0 to 255 than to its ends. So is one of black and other dark values, such as 0 and 1. With 1 nothing is
    refused, and the threshold alone decides.
    """

    threshold: float = 127
    max_grey: float = 0.05
    remedy: str = PUBLISHED_BINARY

    def __call__(self, mask: NDArray) -> NDArray[np.uint8]:
        values, counts = histogram(mask)
        grey = counts[(values >= 64) & (values < 192)].sum() / mask.size
        if self.max_grey < 1 and 0 in values and 0 < values.max() < 64:
            expected = "a binary mask, even a JPEG, is black or has pixels close to 255"
            raise unexpected_values(values, counts, expected, self.remedy)
        if grey > self.max_grey:
            expected = f"a binary mask, even a JPEG, has nearly all its pixels close to 0 or 255 ({grey:.0%} are not)"
            raise unexpected_values(values, counts, expected, self.remedy)
        return (mask > self.threshold).astype(np.uint8)


def instances(mask: NDArray) -> NDArray[np.uint8]:
    """Make one class of objects that are numbered from 1."""
    return (mask != 0).astype(np.uint8)


def histogram(mask: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Sorted values of a mask, and the number of pixels of each."""
    if mask.size and mask.dtype.kind in "bu" and mask.dtype.itemsize <= 2:
        planes = mask if mask.ndim > 2 else mask[None]  # one at a time: counting works on copies of 8 bytes a voxel
        counts = sum(np.bincount(plane.ravel(), minlength=1 << 8 * mask.dtype.itemsize) for plane in planes)
        values = np.flatnonzero(counts)
        return values, np.asarray(counts)[values]
    return np.unique(mask, return_counts=True)


def look_up(mask: NDArray, values: NDArray, labels: Iterable[int]) -> NDArray[np.uint8]:
    """Replace each of the sorted ``values``, which include all values of the mask, by its label."""
    labels = np.array(list(labels), np.uint8)
    if mask.dtype.kind in "bu" and mask.dtype.itemsize <= 2:
        table = np.zeros(1 << 8 * mask.dtype.itemsize, np.uint8)
        table[values] = labels
        return table[mask.view(np.uint8) if mask.dtype.kind == "b" else mask]
    return labels[np.searchsorted(values, mask)]


def unexpected_values(
    values: NDArray, counts: NDArray, expected: str, remedy: str, known: Collection[int] = ()
) -> UserError:
    """Error for values that are not expected, with their shares; ``{entries}`` in the remedy names them to fill in."""
    order = np.argsort(counts)[::-1][:8]
    shares = [f"{values[i]:g} ({counts[i] / counts.sum():.2%})" for i in sorted(order)]
    more = f" and {counted(len(values) - len(order), 'rarer one')}" if len(values) > len(order) else ""
    remedy = remedy.replace("{entries}", map_entries(values, known))
    return UserError(f"has the values {', '.join(shares)}{more}, but {expected}: {remedy}")


def map_entries(values: NDArray, known: Collection[int]) -> str:
    """Entries of ``--label-map`` for the values that are not known."""
    unknown = [value for value in values.tolist() if value not in known]
    if len(unknown) > MAX_ENTRIES or any(value % 1 for value in unknown):
        return "VALUE=NAME and so on"
    return " ".join(entries_to_name([str(int(value)) for value in unknown], None if known else "0"))


def entries_to_name(values: Sequence[str], background: str | None) -> list[str]:
    """Entries of ``--label-map`` as a shell takes them, with a name to be replaced for each value but the background's.

    Example:
        >>> entries_to_name(["0", "7"], "0"), entries_to_name(["#ff0000", "9"], None)
        (['0=background', '7=NAME'], ["'#ff0000=NAME1'", '9=NAME2'])
    """
    objects = [value for value in values if value != background]
    numbers = {value: "" if len(objects) == 1 else number for number, value in enumerate(objects, start=1)}
    entries = {v: f"{v}={'background' if v == background else f'NAME{numbers[v]}'}" for v in values}
    return [f"'{entry}'" if value.startswith("#") else entry for value, entry in entries.items()]
