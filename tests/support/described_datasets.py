"""Datasets of any size that are only described, and planned by nnU-Net itself: planning reads no image."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments


class Described(NamedTuple):
    """A dataset of equal images."""

    id: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: int = 1
    cases: int = 400


IMAGES = Described(921, (1, 512, 512), (999.0, 1.0, 1.0))
VOLUMES = Described(922, (140, 140, 140), cases=60)
LARGE_VOLUMES = Described(923, (280, 280, 280), cases=60)
"""Volumes of which nnU-Net also plans a low resolution and a cascade."""


def describe(dataset: Described, planner: str = "ExperimentPlanner") -> Path:
    """Write what nnU-Net needs for its plans, let it make them, and return their folder."""
    name = f"Dataset{dataset.id}_Described"
    raw, preprocessed = (Path(os.environ[folder], name) for folder in ("nnUNet_raw", "nnUNet_preprocessed"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(dataset_json(dataset)))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint(dataset)))
    with contextlib.redirect_stdout(io.StringIO()):
        plan_experiments([dataset.id], planner)
    return preprocessed


def dataset_json(dataset: Described) -> dict[str, Any]:
    return {
        "channel_names": {str(channel): "CT" for channel in range(dataset.channels)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": dataset.cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }


def fingerprint(dataset: Described) -> dict[str, Any]:
    intensities = {"max": 1.0, "mean": 0.0, "median": 0.0, "min": -1.0, "percentile_00_5": -1.0}
    intensities |= {"percentile_99_5": 1.0, "std": 1.0}
    return {
        "spacings": [dataset.spacing] * dataset.cases,
        "shapes_after_crop": [dataset.shape] * dataset.cases,
        "foreground_intensity_properties_per_channel": {str(c): intensities for c in range(dataset.channels)},
        "median_relative_size_after_cropping": 1.0,
    }
