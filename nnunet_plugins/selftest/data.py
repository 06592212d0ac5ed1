"""The self-test's dataset: drawn here, planned and preprocessed by nnU-Net, in a process of its own."""

import sys
from pathlib import Path
from typing import Any

from nnunet_plugins.files import read_json, write_json
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, nnunet_folder
from nnunet_plugins.synthetic import write_dataset

DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID}_SyntheticNuclei"
CONFIGURATION = "2d"
NUM_TRAIN, NUM_TEST = 10, 1
SAMPLED_VOXELS = 100_000
"""Intensities from which nnU-Net takes its statistics; to draw the 100 million of nnU-Net takes half a minute."""


def main() -> None:
    """Prepare the dataset of ``sys.argv``: edge of the images and patches, batch."""
    patch, batch = map(int, sys.argv[1:])
    prepare(patch, batch)


def prepare(patch: int, batch: int) -> None:
    """Write the dataset into nnU-Net's folders, ready for training."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    write_dataset(nnunet_folder(RAW) / DATASET, num_train=NUM_TRAIN, num_test=NUM_TEST, size=patch)
    fingerprint = DatasetFingerprintExtractor(DATASET_ID, num_processes=1)
    fingerprint.num_foreground_voxels_for_intensitystats = SAMPLED_VOXELS
    fingerprint.run()
    plan_experiments([DATASET_ID])
    file = plans_file(nnunet_folder(PREPROCESSED))
    plans = read_json(file)
    plans["configurations"][CONFIGURATION]["batch_size"] = batch
    write_json(file, plans)
    preprocess([DATASET_ID], configurations=[CONFIGURATION], num_processes=(1,))


def plans_file(preprocessed: Path) -> Path:
    return preprocessed / DATASET / "nnUNetPlans.json"


def planned(preprocessed: Path) -> dict[str, Any]:
    """The configuration in the plans."""
    return read_json(plans_file(preprocessed))["configurations"][CONFIGURATION]
