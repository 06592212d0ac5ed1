"""Small generated datasets, planned and preprocessed by nnU-Net itself, in each of its four label formats."""

import json
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import io
from skimage.draw import ellipse

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LABELS, REGIONS, IGNORE, REGIONS_IGNORE = 901, 902, 903, 904
FORMATS = {
    LABELS: {"background": 0, "cell": 1, "nucleus": 2},
    REGIONS: {"background": 0, "cell": [1, 2], "nucleus": [2]},
    IGNORE: {"background": 0, "cell": 1, "nucleus": 2, "ignore": 3},
    REGIONS_IGNORE: {"background": 0, "cell": [1, 2], "nucleus": [2], "ignore": 3},
}
FORMAT_NAMES = {LABELS: "labels", REGIONS: "regions", IGNORE: "ignore", REGIONS_IGNORE: "regions+ignore"}
IMAGE_SIZE = (48, 60)


def dataset_name(dataset_id: int) -> str:
    return f"Dataset{dataset_id}_Cells"


def cell_image(rng: np.random.Generator, ignore: bool) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image of two cells with nuclei, and its label map; an unannotated band if ``ignore``."""
    labels = np.zeros(IMAGE_SIZE, np.uint8)
    for _ in range(2):
        row, column = rng.integers(12, IMAGE_SIZE[0] - 12), rng.integers(12, IMAGE_SIZE[1] - 12)
        labels[ellipse(row, column, 10, 9, IMAGE_SIZE)] = 1
        labels[ellipse(row, column, 4, 5, IMAGE_SIZE)] = 2
    image = np.array([[30, 20, 60], [150, 80, 120], [90, 40, 190]])[labels] + rng.normal(0, 12, (*IMAGE_SIZE, 3))
    if ignore:
        labels[:, -12:] = 3
    return image.clip(0, 255).astype(np.uint8), labels


def write_raw_dataset(dataset_id: int, num_cases: int = 10) -> Path:
    folder = Path(os.environ["nnUNet_raw"], dataset_name(dataset_id))
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = FORMATS[dataset_id]
    for case in range(num_cases):
        image, label_map = cell_image(rng, "ignore" in labels)
        io.imsave(folder / "imagesTr" / f"case{case}_0000.png", image, check_contrast=False)
        io.imsave(folder / "labelsTr" / f"case{case}.png", label_map, check_contrast=False)
    dataset_json = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": labels,
        "numTraining": num_cases,
        "file_ending": ".png",
        "regions_class_order": [1, 2],
    }
    if not any(isinstance(label, list) for label in labels.values()):
        del dataset_json["regions_class_order"]
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def plan_and_preprocess(dataset_ids: list[int]) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints(dataset_ids, num_processes=1)
    plan_experiments(dataset_ids)
    preprocess(dataset_ids, configurations=("2d",), num_processes=(1,))


def use_nnunet_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in NNUNET_FOLDERS:
        monkeypatch.setenv(variable, str(root / variable))
        (root / variable).mkdir(exist_ok=True)


def load_plans(dataset_id: int) -> dict:
    return load_preprocessed_json(dataset_id, "nnUNetPlans.json")


def load_dataset_json(dataset_id: int) -> dict:
    return load_preprocessed_json(dataset_id, "dataset.json")


def load_preprocessed_json(dataset_id: int, name: str) -> dict:
    return json.loads(Path(os.environ["nnUNet_preprocessed"], dataset_name(dataset_id), name).read_text())


def plans_for_patch(dataset_id: int, patch_size: tuple[int, ...]) -> dict:
    """The dataset's 2d plans with another patch size and the stages that nnU-Net's planner would give it."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    plans = deepcopy(load_plans(dataset_id))
    configuration = plans["configurations"]["2d"]
    _, strides, kernel_sizes, patch_size, _ = get_pool_and_conv_props([1.0] * len(patch_size), patch_size, 4, 999999)
    n_stages = len(strides)
    configuration["patch_size"] = [int(size) for size in patch_size]
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": n_stages,
        "features_per_stage": [min(32 * 2**stage, 512) for stage in range(n_stages)],
        "kernel_sizes": [list(k) for k in kernel_sizes],
        "strides": [list(s) for s in strides],
        "n_conv_per_stage": [2] * n_stages,
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
    }
    return plans


def make_trainer(name: str, dataset_id: int, *, fold: int = 0, continue_training: bool = False):
    """A trainer as ``nnUNetv2_train`` makes it: found by name, with the dataset's plans, on the CPU."""
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(
        str(dataset_id), "2d", fold, name, continue_training=continue_training, device=torch.device("cpu")
    )


def initialized_trainer(name: str, dataset_id: int):
    """A trainer with network and loss."""
    trainer = make_trainer(name, dataset_id)
    trainer.initialize()
    return trainer
