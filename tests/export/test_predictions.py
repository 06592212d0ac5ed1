"""Proves: an exported model segments as nnU-Net does, in a process that cannot import nnU-Net or torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cell_datasets import LABELS, REGIONS_IGNORE, THICK_VOLUMES, VOLUME_FORMATS, VOLUMES, dataset_name
from support.trained_models import write_model

from nnunet_plugins.deployed.images import FORMATS
from nnunet_plugins.export.command import export_model

pytestmark = pytest.mark.usefixtures("results", "narrow")

WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "nnunetv2", "batchgenerators"))
from nnunet_plugins.cli import main
main(sys.argv[1:])
"""


def predict_exported(model: Path, images: Path, output: Path, code: int = 0) -> str:
    """Run the command where the import of torch and nnU-Net fails, and return what it prints."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "-q", "predict-exported", model, "-i", images, "-o", output]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


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
    assert names == sorted(path.name for path in ours.iterdir())
    same, all_of_them = 0, 0
    for name in names:
        a, b = (FORMATS[reader].read(folder / name) for folder in (ours, theirs))
        assert a.spacing == b.spacing and a.geometry == b.geometry
        assert len(np.unique(b.data)) > 1
        same, all_of_them = same + int((a.data == b.data).sum()), all_of_them + a.data.size
    return same / all_of_them


CASES = [
    pytest.param("nnUNetTrainer", LABELS, {}, id="pictures"),
    pytest.param("nnUNetTrainer", THICK_VOLUMES, {}, id="regions of thick slices"),
    pytest.param("nnUNetTrainer", REGIONS_IGNORE, {}, id="regions", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainer", VOLUMES, {"folds": (0, 1)}, id="volumes", marks=pytest.mark.slow),
    pytest.param(
        "nnUNetTrainer",
        VOLUMES,
        {
            "plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]},
            "configuration": {"spacing": [0.9, 1.4, 1.2], "normalization_schemes": ["CTNormalization"]},
        },
        id="volumes of another spacing",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("trainer_name", "dataset_id", "options"), CASES)
def test_exported_model_segments_as_nnunet(trainer_name, dataset_id, options, tmp_path):
    model = write_model(trainer_name, dataset_id, **options)
    export_model(model, tmp_path / "exported", "onnx", (), "checkpoint_final.pth")
    predict_exported(tmp_path / "exported", images_of(dataset_id), tmp_path / "ours")
    predict_with_nnunet(model, images_of(dataset_id), tmp_path / "theirs", options.get("folds", (0,)))
    volumes = dataset_id in VOLUME_FORMATS
    reader, ending = ("SimpleITKIO", ".nii.gz") if volumes else ("NaturalImage2DIO", ".png")
    assert agreement(tmp_path / "ours", tmp_path / "theirs", reader, ending) >= 0.999
