"""All metrics of a case, label by label: the benchmark's validation and ``nnunet-plugins evaluate`` measure with it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.benchmark.metrics import Scores, score

Value = int | tuple[int, ...]
"""A label, or a region of several."""


class Labels(NamedTuple):
    """The labels or regions of a dataset without its background, by their names, and the label to be ignored."""

    values: Mapping[str, Value]
    ignored: int | None = None


def labels_of(description: Mapping[str, Any]) -> Labels:
    """Labels or regions of a ``dataset.json``, as nnU-Net's own evaluation takes them."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    values = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {as_tuple(value): name for name, value in description["labels"].items()}
    ignored = manager.ignore_label if manager.has_ignore_label else None
    return Labels({names[as_tuple(value)]: value for value in values}, ignored)


def as_tuple(value: Any) -> tuple[int, ...]:
    """A label, or a region of several, as ``dataset.json`` or nnU-Net writes it."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def measure(
    reference: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float], labels: Labels, tolerance: float
) -> Iterator[tuple[str, Scores]]:
    """Yield the name and the scores of each label.

    Args:
        reference: label map ``(*S)``.
        prediction: label map ``(*S)``.
        spacing: length of a voxel along each axis.
        labels: to be measured.
        tolerance: of NSD, in the spacing's unit.
    """
    ignored = reference == labels.ignored if labels.ignored is not None else None
    for name, value in labels.values.items():
        masks = [np.isin(array, as_tuple(value)) for array in (reference, prediction)]
        yield name, score(masks[0], masks[1], spacing, tolerance, ignored)


def known_values(description: Mapping[str, Any]) -> frozenset[int]:
    """All numbers that the label maps of a dataset may have, the background's and the ignored one included."""
    return frozenset(number for value in description["labels"].values() for number in as_tuple(value)) | {0}
