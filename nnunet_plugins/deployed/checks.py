"""Checks of a model's description: a damaged or hostile ``model.json`` is refused in one sentence."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_plugins.deployed.normalization import STATISTICS
from nnunet_plugins.deployed.resampling import OPTIONS
from nnunet_plugins.errors import UserError

if TYPE_CHECKING:
    from nnunet_plugins.deployed.model import Model

Check = Callable[[Any, "Model"], bool]


def is_list_of(kind: type | tuple[type, ...], value: Any, length: int | None = None) -> bool:
    """Whether a value is a list of one kind, of this length if one is given; booleans are no numbers."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        return False
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_file_here(network: Any) -> bool:
    """Whether an entry names a file of the model's own folder, and its hash."""
    if not isinstance(network, dict):
        return False
    name, sha256 = network.get("file"), network.get("sha256")
    return isinstance(name, str) and isinstance(sha256, str) and Path(name).name == name


def is_normalization(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("scheme"), str):
        return False
    numbers = value.get("intensities", dict.fromkeys(STATISTICS, 0) if value["scheme"] != "CTNormalization" else {})
    return (
        isinstance(value.get("use_mask"), bool)
        and isinstance(numbers, dict)
        and numbers.keys() == set(STATISTICS)
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers.values())
    )


def is_resampling(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("function"), str)
        and isinstance(kwargs := value.get("kwargs"), dict)
        and kwargs.keys() <= OPTIONS
        and not kwargs.get("is_seg")
    )


CHECKS: dict[str, tuple[str, Check]] = {
    "networks": (
        "files in the model's folder with their SHA-256",
        lambda value, _: is_list_of(dict, value) and bool(value) and all(map(is_file_here, value)),
    ),
    "patch_size": (
        "two or three numbers of voxels",
        lambda value, _: is_list_of(int, value) and len(value) in (2, 3) and min(value) > 0,
    ),
    "spacing": (
        "a positive length for each axis of the patch",
        lambda value, model: (
            is_list_of((int, float), value, len(model.patch_size))
            and all(math.isfinite(length) and length > 0 for length in value)
        ),
    ),
    "transpose_forward": ("an order of the axes 0, 1, 2", lambda value, _: is_order(value)),
    "transpose_backward": ("an order of the axes 0, 1, 2", lambda value, _: is_order(value)),
    "labels": ("names with labels", lambda value, _: isinstance(value, dict) and bool(value)),
    "channels": ("names", lambda value, _: is_list_of(str, value) and bool(value)),
    "normalization": (
        "a scheme with its numbers for each channel",
        lambda value, model: is_list_of(dict, value, len(model.channels)) and all(map(is_normalization, value)),
    ),
    "resampling": (
        "functions for data and probabilities with options of nnU-Net's",
        lambda value, _: (
            isinstance(value, dict)
            and value.keys() == {"data", "probabilities"}
            and all(map(is_resampling, value.values()))
        ),
    ),
    "num_segmentation_heads": ("a number of maps", lambda value, _: is_count(value)),
    "regions_class_order": (
        "a label for each map, or null",
        lambda value, model: value is None or is_list_of(int, value, model.num_segmentation_heads),
    ),
    "bytes_of_labels": ("1 or 2", lambda value, _: is_count(value) and value in (1, 2)),
    "mirror_axes": (
        "different axes of the patch",
        lambda value, model: (
            is_list_of(int, value) and set(value) <= set(range(len(model.patch_size))) and is_set(value)
        ),
    ),
    "tile_step_size": (
        "a share of the patch from one voxel to all of it",
        lambda value, model: isinstance(value, int | float) and 1 / min(model.patch_size) <= value <= 1,
    ),
    "postprocessing": (
        "lists of labels",
        lambda value, _: isinstance(value, list) and all(is_list_of(int, labels) and labels for labels in value),
    ),
    "file_ending": ("an ending such as '.nii.gz'", lambda value, _: isinstance(value, str) and value[:1] == "."),
    "image_reader_writer": ("a name", lambda value, _: isinstance(value, str)),
    "resized_to": ("height and width, or null", lambda value, _: value is None or is_list_of(int, value, 2)),
    "dataset": ("a name", lambda value, _: isinstance(value, str)),
}
"""Expectation of each entry that inference reads, and test of its value, which may rely on the entries before."""


def is_order(value: Any) -> bool:
    return is_list_of(int, value) and sorted(value) == [0, 1, 2]


def is_set(value: list) -> bool:
    return len(set(value)) == len(value)


def check(model: "Model", path: Path) -> None:
    """Refuse a description that inference cannot follow.

    Raises:
        UserError: with the first entry that is wrong, and what is expected.
    """
    for name, (expected, is_right) in CHECKS.items():
        value = getattr(model, name)
        if not is_right(value, model):
            raise UserError(f"{path} has {name} = {str(value)[:80]}: expected {expected}; export the model again")
