"""Labels of a case out of its masks: one file, parts of one mask, or a file for each class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.pictures import Picture, grid_difference, in_place_of
from nnunet_plugins.errors import UserError

Shared = dict[tuple[int, int], int]
"""Number of pixels that each two labels have in common; of a label with itself, all that it has."""


def read_labels(
    dataset: Dataset, case: Case, image: Picture, trust_image_geometry: bool
) -> tuple[NDArray[np.uint8], Shared]:
    """Read the labels of a case, and how its classes overlap if they may, which is so if they become regions.

    Raises:
        UserError: a mask does not fit its image, has unexpected values, or overlaps another one.
    """
    if not case.label:
        return np.zeros(image.shape, np.uint8), {}
    if not case.classes:
        return read_file(dataset, case, case.label, image, trust_image_geometry), {}
    labels = np.zeros(image.shape, np.uint8)
    classes: dict[int, NDArray[np.bool_]] = {}
    for path, label in zip(case.label, case.classes, strict=True):
        part = read_file(dataset, case, (path,), image, trust_image_geometry)
        if len(case.label) == 1 and not label:
            return part, {}
        inside = part > 0
        if label:
            part = inside * np.uint8(label)
        if dataset.regions and label:
            classes[label] = classes[label] | inside if label in classes else inside
        else:
            refuse_overlap(dataset, case, path, labels, part)
        inside &= labels != dataset.labels.get("ignore", -1)
        np.copyto(labels, part, where=inside)  # the classes come in their order: the innermost last
    return labels, {(i, j): int(np.count_nonzero(classes[i] & classes[j])) for i in classes for j in classes if i <= j}


def read_file(
    dataset: Dataset, case: Case, paths: tuple[Path, ...], image: Picture, trust_image_geometry: bool
) -> NDArray[np.uint8]:
    mask = in_place_of(dataset.read_label(paths, image.shape), image)
    check_match(image, mask, case.images[0], paths[0], trust_image_geometry, "mask")
    return to_labels(dataset, mask, paths[0])


def refuse_overlap(dataset: Dataset, case: Case, path: Path, labels: NDArray, part: NDArray) -> None:
    ignored = dataset.labels.get("ignore", -1)  # which lies on all else
    both = (labels > 0) & (part > 0) & (labels != part) & (part != ignored) & (labels != ignored)
    if count := np.count_nonzero(both):
        names = {value: name for name, value in dataset.labels.items()}
        first, second = (names[int(array[both][0])] for array in (labels, part))
        raise UserError(
            f"{path} overlaps another mask of {case.name} in {count} pixels, such as of {first} and {second}: mend the "
            "masks, or give --regions if each class that is named later lies inside those that it overlaps"
        )


def nested_regions(labels: Mapping[str, int], shared: Sequence[Shared]) -> dict[str, tuple[int, ...]]:
    """Regions of classes of which some lie inside others: the label of a class, and those of the classes inside it.

    Raises:
        UserError: classes overlap, but the later one does not lie inside the earlier one.
    """
    total: Counter[tuple[int, int]] = sum(map(Counter, shared), Counter())
    names = {value: name for name, value in labels.items() if value and name != "ignore"}
    regions = {}
    for i, name in names.items():
        inside = [j for j in names if j > i and total[i, j]]
        for j in inside:
            if total[i, j] < total[j, j]:
                raise UserError(
                    f"{names[j]} lies inside {name} in {total[i, j]} of {total[j, j]} pixels only, and nnU-Net can "
                    "predict no classes that overlap in part: name the outer class first, or make a dataset of each"
                )
        regions[name] = (i, *inside)
    return regions


def check_match(
    image: Picture, other: Picture, image_path: Path, path: Path, trust_image_geometry: bool, what: str
) -> None:
    if image.shape != other.shape:
        ours, theirs = ("x".join(map(str, picture.shape[::-1])) for picture in (image, other))
        raise UserError(
            f"{path} is {theirs}, but its image {image_path} is {ours}: they do not belong together, or one was resized"
        )
    if not trust_image_geometry and (difference := grid_difference(image, other)):
        raise UserError(
            f"{path} lies elsewhere than its image {image_path}: it has {difference}; mend its header, or give "
            f"--trust-image-geometry if only the {what}'s header is wrong"
        )


def to_labels(dataset: Dataset, mask: Picture, path: Path) -> NDArray[np.uint8]:
    array = mask.array
    if array.dtype.kind == "f" and (np.rint(array) == array).all() and np.abs(array).max(initial=0) < 2**31:
        array = array.astype(np.int32)
    if array.dtype.kind in "iu" and array.min(initial=0) >= 0 and array.max(initial=0) < 2**16:
        array = array.astype(np.uint16)
    try:
        return dataset.to_labels(array)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
