"""Proves: an exported model segments as nnU-Net does, in a process that can import neither nnU-Net nor torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.cell_datasets import LABELS, REGIONS_IGNORE, THICK_VOLUMES, VOLUME_FORMATS, VOLUMES
from support.predictions import agreement, images_of, predict_with_nnunet
from support.trained_models import write_model

from nnunet_plugins.export.command import export_model

pytestmark = pytest.mark.usefixtures("results", "narrow")

WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "nnunetv2", "batchgenerators"))

def refuse(event, arguments):
    outside = event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn"))
    if outside or (event == "open" and str(arguments[0]).startswith("/dev/shm")):
        raise SystemExit(f"{event} in a locked container")

sys.addaudithook(refuse)
from nnunet_plugins.cli import main
main(sys.argv[1:])
"""


def predict_exported(model: Path, images: Path, output: Path, code: int = 0) -> str:
    """Run the command where imports of torch and nnU-Net, sockets and other processes fail; return what it prints."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "-q", "predict-exported", model, "-i", images, "-o", output]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


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
