"""Patches smaller than a plan's, with the stages that nnU-Net's own planner gives them."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import nnunetv2
import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import FINGERPRINT, PREPROCESSED, RAW, folders_elsewhere
from nnunet_plugins.planning.source import Source

MIN_STAGES = 3
"""Stages of the smallest network: with fewer it would be hardly a U-Net, and 8 pixels wide."""


class Patch(NamedTuple):
    """A patch and the stages of nnU-Net's network for it."""

    size: list[int]
    strides: list[list[int]]
    kernel_sizes: list[list[int]]


class EnoughPatches(Exception):
    """Ends nnU-Net's search at the smallest patch."""


def smaller_patches(source: Source, planner: ExperimentPlanner, name: str) -> list[Patch]:
    """Patches below that of a configuration, in the order in which nnU-Net's planner tries them.

    Args:
        source: the plans.
        planner: the planner that made them.
        name: the configuration.
    """
    configuration = source.configuration(name)
    seen: list[Patch] = []

    def remember(patch_size: Any, _channels: int, _classes: int, _network: str, kwargs: dict, _imports: Any) -> float:
        if len(kwargs["strides"]) < MIN_STAGES:
            raise EnoughPatches
        seen.append(Patch(integers(patch_size), integers(kwargs["strides"]), integers(kwargs["kernel_sizes"])))
        return float("inf")  # more than any memory, so that nnU-Net goes on to the next patch

    planner.static_estimate_VRAM_usage = remember
    spacing, shape = (np.array(configuration[key], float) for key in ("spacing", "median_image_size_in_voxels"))
    with suppress(EnoughPatches):
        planner.get_plans_for_configuration(spacing, shape, configuration["data_identifier"], 0.0, {})
    own = configuration["patch_size"]
    return [patch for patch in seen if patch.size != own and all(np.array(patch.size) <= np.array(own))]


def integers(values: Any) -> Any:
    """Numbers of nested arrays, tuples and lists, as nested lists of Python's integers."""
    return [integers(value) if np.ndim(value) else int(value) for value in values]


def with_patch(configuration: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """A configuration with a smaller patch; all that is said of stages which it keeps stays."""
    architecture = configuration["architecture"]
    before = architecture["arch_kwargs"]
    stages = min(before["n_stages"], len(patch.strides))
    shortened = {
        key: value[: stages - (key == "n_conv_per_stage_decoder")] if isinstance(value, list) else value
        for key, value in before.items()
    }
    stages_of_patch = {"strides": patch.strides[:stages], "kernel_sizes": patch.kernel_sizes[:stages]}
    kwargs = shortened | {"n_stages": stages} | stages_of_patch
    return configuration | {"patch_size": patch.size, "architecture": architecture | {"arch_kwargs": kwargs}}


def largest_allowed_batch(source: Source, planner: ExperimentPlanner, configuration: dict[str, Any]) -> int:
    """Largest batch that nnU-Net's planner would allow: a part of the dataset's voxels, and never fewer than two."""
    voxels = np.prod(configuration["patch_size"], dtype=float)
    if len(configuration["patch_size"]) == 3:
        image = np.prod(configuration["median_image_size_in_voxels"], dtype=float)
    else:
        image = median_voxels(planner)
    part = image * source.dataset_json["numTraining"] * planner.max_dataset_covered
    return max(round(part / voxels), planner.UNet_min_batch_size)


def median_voxels(planner: ExperimentPlanner) -> float:
    """Voxels of the median image after resampling, all its slices included."""
    fingerprint, spacing = planner.dataset_fingerprint, planner.determine_fullres_target_spacing()
    pairs = zip(fingerprint["spacings"], fingerprint["shapes_after_crop"], strict=True)
    return float(np.prod(np.median([compute_new_shape(shape, own, spacing) for own, shape in pairs], axis=0)))


# ---- nnU-Net's planner -----------------------------------------------------------------------------------------------


def planner_of(source: Source) -> ExperimentPlanner:
    """Make the planner that made the plans, without its looking for images.

    Raises:
        UserError: nnU-Net finds no such planner.
    """
    name = source.plans.get("experiment_planner_used")
    folder = os.path.join(nnunetv2.__path__[0], "experiment_planning")
    base = recursive_find_python_class(folder, name, current_module="nnunetv2.experiment_planning") if name else None
    if base is None:
        raise UserError(
            f"{source.plans_name} of {source.dataset} were made by the planner {name!r}, which this nnU-Net does not "
            f"have: plan the dataset with one of its own, e.g. nnUNetv2_plan_experiment -d {source.dataset_id}"
        )
    with folders_without_images(source):
        return base(source.dataset)


@contextmanager
def folders_without_images(source: Source) -> Iterator[None]:
    """Let nnU-Net find the dataset's descriptions, and no images, in temporary folders."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, source.dataset)
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps(source.dataset_json | {"dataset": {}}), encoding="utf-8")
        (folder / FINGERPRINT).write_text(json.dumps(source.fingerprint), encoding="utf-8")
        with folders_elsewhere(home, RAW, PREPROCESSED):
            yield
