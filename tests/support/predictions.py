"""Predictions of nnU-Net, and how far others agree with them."""

import os
from pathlib import Path

import numpy as np
import torch

from nnunet_plugins.deployed.images import FORMATS
from support.cell_datasets import dataset_name


def images_of(dataset_id: int) -> Path:
    return Path(os.environ["nnUNet_raw"], dataset_name(dataset_id), "imagesTr")


def predict_with_nnunet(model: Path, images: Path, output: Path, folds: tuple[int, ...]) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    output.mkdir()
    predictor.predict_from_files_sequential(str(images), str(output))


def agreement(ours: Path, theirs: Path, reader: str, ending: str) -> float:
    """Share of voxels with the same label, over all files of two folders."""
    names = sorted(path.name for path in theirs.glob(f"*{ending}"))
    assert {*names, "dataset.json"} == {path.name for path in ours.iterdir()}
    same, all_of_them, labels = 0, 0, set()
    for name in names:
        a, b = (FORMATS[reader].read(folder / name) for folder in (ours, theirs))
        assert a.spacing == b.spacing and a.geometry == b.geometry
        labels |= set(np.unique(b.data))
        same, all_of_them = same + int((a.data == b.data).sum()), all_of_them + a.data.size
    assert len(labels) > 1
    return same / all_of_them
