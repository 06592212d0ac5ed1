"""Measurement of many pairs of files in several processes."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_plugins.benchmark.folders import named
from nnunet_plugins.benchmark.measurement import Labels, measure
from nnunet_plugins.benchmark.metrics import Scores
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import usable_cores
from nnunet_plugins.processes import in_processes

MAX_LABELS = 255
"""More different numbers are not those of labels but of grey values or distances."""
WORTH_PROCESSES = 20.0
"""Seconds of work for which starting processes, each of which imports nnU-Net, is worth its time."""
GEOMETRY_TOLERANCE = 1e-3
"""Relative or absolute difference that is a file format's rounding."""


class Task(NamedTuple):
    """A case to be measured."""

    case: str
    reference: Path
    prediction: Path
    reader: Any
    labels: Labels | None
    """None for all labels that its files have."""
    known: frozenset[int] | None
    """Numbers that may stand in the files; None if any may."""
    tolerance: float


class Measured(NamedTuple):
    """Scores of a case by label, or what keeps it from being measured."""

    case: str
    scores: dict[str, Scores] = {}
    true: frozenset[int] = frozenset()
    """Labels of the reference, without the background."""
    predicted: frozenset[int] = frozenset()
    fault: str | None = None
    """A sentence."""


def measured(tasks: Sequence[Task], processes: int | None) -> Iterator[Measured]:
    """Measure all cases in their order, and show how far it is.

    Args:
        tasks: one or more cases.
        processes: their number; None for as many as cores, or for one if that takes seconds.

    Raises:
        UserError: a process was killed.
    """
    with tqdm(total=len(tasks), desc="Cases", leave=False) as bar:
        start = time.monotonic()
        yield measured_case(tasks[0])
        bar.update()
        others = tasks[1:]
        if processes is None:
            processes = usable_cores() if (time.monotonic() - start) * len(others) > WORTH_PROCESSES else 1
        for case in in_processes(measured_case, others, processes):
            yield case
            bar.update()


def measured_case(task: Task) -> Measured:
    """Read and measure one case; its faults are told, not raised, so that all cases' faults can be."""
    try:
        (reference, properties), (prediction, others) = read(task, task.reference), read(task, task.prediction)
        require_same_geometry(task, reference, properties, prediction, others)
        true, predicted = labels_in(task, task.reference, reference), labels_in(task, task.prediction, prediction)
        labels = task.labels or Labels({str(value): value for value in sorted(true | predicted)})
        scores = dict(measure(reference, prediction, properties["spacing"], labels, task.tolerance))
    except ValueError as error:  # also a UserError
        return Measured(task.case, fault=str(error))
    return Measured(task.case, scores, true, predicted)


def read(task: Task, path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Label map ``(*S)`` of a file, and what its reader tells of it.

    Raises:
        UserError: the file cannot be read, or has several channels.
    """
    try:
        array, properties = task.reader.read_seg(str(path))
    except Exception as error:  # readers raise whatever their libraries do
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): replace it by an intact segmentation") from error
    if len(array) != 1:
        raise UserError(f"{path} has {len(array)} channels: expected one, with the number of a label for every pixel")
    return array[0], properties


def require_same_geometry(
    task: Task, reference: NDArray[Any], properties: dict[str, Any], prediction: NDArray[Any], others: dict[str, Any]
) -> None:
    """Compare sizes, and spacing, origin and direction as far as the format has them.

    Raises:
        UserError: they differ.
    """
    true, predicted = geometry(reference, properties), geometry(prediction, others)
    for aspect, values in true.items():
        theirs = predicted.get(aspect)
        if (
            theirs is None
            or theirs.shape != values.shape
            or not np.allclose(values, theirs, rtol=GEOMETRY_TOLERANCE, atol=GEOMETRY_TOLERANCE)
        ):
            raise UserError(
                f"{task.prediction} has the {aspect} {as_text(theirs)}, {task.reference} {as_text(values)}: give "
                "references in the prediction's geometry (labelsTs of 'convert --test-masks'), or predict in theirs"
            )


def geometry(array: NDArray[Any], properties: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Size, spacing and the place in space, as the file's reader tells them."""
    found = {"size": array.shape, "spacing": properties["spacing"]}
    found |= {name: value for name, value in properties.get("sitk_stuff", {}).items() if name != "spacing"}
    if "original_affine" in properties.get("nibabel_stuff", {}):
        found["affine"] = properties["nibabel_stuff"]["original_affine"]
    return {name: np.asarray(value, dtype=float) for name, value in found.items()}


def as_text(values: NDArray[Any] | None) -> str:
    return "none" if values is None else " x ".join(f"{value:.5g}" for value in values.ravel())


def labels_in(task: Task, path: Path, array: NDArray[Any]) -> frozenset[int]:
    """Numbers of the labels in a label map, without the background.

    Raises:
        UserError: it has numbers that are no labels, or none that are known.
    """
    values = np.unique(array)
    if len(values) > MAX_LABELS + 1 or not np.isfinite(values).all() or (values != np.round(values)).any():
        raise UserError(f"{path} has {len(values)} different values, e.g. {values[-1]:g}: expected numbers of labels")
    found = frozenset(int(value) for value in values) - {0}
    if task.known is not None and (unknown := sorted(found - task.known)):
        raise UserError(
            f"{path} has {named(unknown)}, and the labels of dataset.json are {named(sorted(task.known))}: give it the "
            "same numbers as the files that it is compared with"
        )
    return found
