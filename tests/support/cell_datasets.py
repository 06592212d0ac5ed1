"""Small generated datasets, planned and preprocessed by nnU-Net itself.

Images in each of its four label formats; isotropic volumes, in full and low resolution and with the cascade; volumes of
thick slices.
"""

import json
import multiprocessing
import multiprocessing.dummy
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import io
from skimage.draw import ellipse

from support.files import save_volume

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LABELS, REGIONS, IGNORE, REGIONS_IGNORE = 901, 902, 903, 904
FORMATS = {
    LABELS: {"background": 0, "cell": 1, "nucleus": 2},
    REGIONS: {"background": 0, "cell": [1, 2], "nucleus": [2]},
    IGNORE: {"background": 0, "cell": 1, "nucleus": 2, "ignore": 3},
    REGIONS_IGNORE: {"background": 0, "cell": [1, 2], "nucleus": [2], "ignore": 3},
}
IMAGE_SIZE = (48, 60)
MAX_FEATURES = 64  # of a stage of planned networks

VOLUMES, THICK_VOLUMES = 911, 912
VOLUME_FORMATS = {VOLUMES: FORMATS[LABELS], THICK_VOLUMES: FORMATS[REGIONS_IGNORE]}
VOLUME_SIZES = {VOLUMES: (16, 20, 16), THICK_VOLUMES: (8, 32, 32)}
SLICE_THICKNESS = {VOLUMES: 1.0, THICK_VOLUMES: 4.0}

NAMES = {
    LABELS: "labels",
    REGIONS: "regions",
    IGNORE: "ignore",
    REGIONS_IGNORE: "regions+ignore",
    VOLUMES: "isotropic volumes",
    THICK_VOLUMES: "volumes of thick slices with regions+ignore",
}


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


def cell_volume(rng: np.random.Generator, dataset_id: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume of one cell with nucleus, and its label map; an unannotated band if the dataset has such."""
    size, thickness = VOLUME_SIZES[dataset_id], SLICE_THICKNESS[dataset_id]
    center = [rng.integers(length // 3, length - length // 3) for length in size]
    offsets = np.ogrid[tuple(slice(-c, length - c) for c, length in zip(center, size, strict=True))]
    distance = np.sqrt((thickness * offsets[0]) ** 2 + offsets[1] ** 2 + offsets[2] ** 2)
    labels = (distance < 7).astype(np.uint8) + (distance < 4)
    image = np.array([20, 90, 150])[labels] + rng.normal(0, 12, size)
    if "ignore" in VOLUME_FORMATS[dataset_id]:
        labels[:, :, -6:] = 3
    return image.astype(np.float32), labels


def write_raw_dataset(dataset_id: int, num_cases: int | None = None) -> Path:
    folder = Path(os.environ["nnUNet_raw"], dataset_name(dataset_id))
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    volumes = dataset_id in VOLUME_FORMATS
    labels = (FORMATS | VOLUME_FORMATS)[dataset_id]
    num_cases = num_cases or (5 if volumes else 10)
    for case in range(num_cases):
        if volumes:
            image, label_map = cell_volume(rng, dataset_id)
            spacing = (1.0, 1.0, SLICE_THICKNESS[dataset_id])
            save_volume(folder / "imagesTr" / f"case{case}_0000.nii.gz", image, spacing, origin=(0.0, 0.0, 0.0))
            save_volume(folder / "labelsTr" / f"case{case}.nii.gz", label_map, spacing, origin=(0.0, 0.0, 0.0))
        else:
            image, label_map = cell_image(rng, "ignore" in labels)
            io.imsave(folder / "imagesTr" / f"case{case}_0000.png", image, check_contrast=False)
            io.imsave(folder / "labelsTr" / f"case{case}.png", label_map, check_contrast=False)
    dataset_json = {
        "channel_names": {"0": "fluorescence"} if volumes else {"0": "R", "1": "G", "2": "B"},
        "labels": labels,
        "numTraining": num_cases,
        "file_ending": ".nii.gz" if volumes else ".png",
        "regions_class_order": [1, 2],
    }
    if not any(isinstance(label, list) for label in labels.values()):
        del dataset_json["regions_class_order"]
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def extract_fingerprint(dataset_id: int) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    extractor = DatasetFingerprintExtractor(dataset_id, num_processes=1)
    extractor.num_foreground_voxels_for_intensitystats = 1e5  # drawing nnU-Net's 1e8 takes half a minute
    extractor.run()


def plan_and_preprocess(dataset_ids: list[int]) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    with pytest.MonkeyPatch.context() as monkeypatch:  # threads: a dozen processes take seconds to start
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: multiprocessing.dummy)
        for dataset_id in dataset_ids:
            extract_fingerprint(dataset_id)
        plan_experiments(dataset_ids)
        for dataset_id in dataset_ids:
            narrow_plans(dataset_id)
            configurations = ["3d_fullres"] if dataset_id in VOLUME_FORMATS else ["2d"]
            if dataset_id == VOLUMES:
                add_cascade(dataset_id)
                configurations.append("3d_lowres")
            preprocess([dataset_id], configurations=configurations, num_processes=(1,) * len(configurations))


def plans_file(dataset_id: int) -> Path:
    return Path(os.environ["nnUNet_preprocessed"], dataset_name(dataset_id), "nnUNetPlans.json")


def narrow_plans(dataset_id: int) -> None:
    """Plan few features: networks of tens of millions of weights would prove no more."""
    plans = json.loads(plans_file(dataset_id).read_text())
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            network = configuration["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [min(features, MAX_FEATURES) for features in network["features_per_stage"]]
    plans_file(dataset_id).write_text(json.dumps(plans))


def add_cascade(dataset_id: int) -> None:
    """Plan a low resolution and the cascade, which nnU-Net does for large volumes only."""
    path = plans_file(dataset_id)
    plans = json.loads(path.read_text())
    fullres = plans["configurations"]["3d_fullres"]
    plans["configurations"] |= {
        "3d_lowres": {
            "inherits_from": "3d_fullres",
            "data_identifier": "nnUNetPlans_3d_lowres",
            "spacing": [1.25 * spacing for spacing in fullres["spacing"]],
            "median_image_size_in_voxels": [size / 1.25 for size in fullres["median_image_size_in_voxels"]],
            "next_stage": "3d_cascade_fullres",
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    path.write_text(json.dumps(plans))


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


def configuration_of(dataset_id: int) -> str:
    """The configuration that the dataset's images call for."""
    return "3d_fullres" if dataset_id in VOLUME_FORMATS else "2d"


def plans_for_patch(patch_size: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> dict:
    """Plans with another patch size, and the stages that nnU-Net's planner would give it."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    dataset_id = LABELS if len(patch_size) == 2 else VOLUMES
    plans = deepcopy(load_plans(dataset_id))
    configuration = plans["configurations"][configuration_of(dataset_id)]
    spacing = spacing or (1.0,) * len(patch_size)
    _, strides, kernel_sizes, patch_size, _ = get_pool_and_conv_props(spacing, patch_size, 4, 999999)
    n_stages = len(strides)
    configuration["patch_size"] = [int(size) for size in patch_size]
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": n_stages,
        "features_per_stage": [min(32 * 2**stage, MAX_FEATURES) for stage in range(n_stages)],
        "kernel_sizes": [list(k) for k in kernel_sizes],
        "strides": [list(s) for s in strides],
        "n_conv_per_stage": [2] * n_stages,
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
    }
    return plans


def make_trainer(
    name: str,
    dataset_id: int,
    *,
    configuration: str | None = None,
    fold: int | str = 0,
    continue_training: bool = False,
):
    """A trainer as ``nnUNetv2_train`` makes it: found by name, with the dataset's plans, on the CPU."""
    from nnunetv2.run.run_training import get_trainer_from_args

    configuration = configuration or configuration_of(dataset_id)
    return get_trainer_from_args(
        str(dataset_id), configuration, fold, name, continue_training=continue_training, device=torch.device("cpu")
    )


def initialized_trainer(name: str, dataset_id: int):
    """A trainer with network and loss."""
    trainer = make_trainer(name, dataset_id)
    trainer.initialize()
    return trainer
