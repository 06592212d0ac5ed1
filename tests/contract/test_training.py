"""Proves for every trainer: nnU-Net trains and predicts with it, on images, volumes and in the cascade."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import cell_datasets
from support.cell_datasets import THICK_VOLUMES, VOLUMES, make_trainer
from support.table import VARIANTS_IN_CODE, VARIANTS_IN_NUMBERS, richest_dataset

from nnunet_plugins.losses.common import PluginLoss

pytestmark = pytest.mark.usefixtures("results", "no_progress_pictures")


def trained_for_a_step(name: str, dataset_id: int, *, checkpoint: bool = True):
    """The trainer after an epoch of one step and one of validation."""
    trainer = make_trainer(f"{name}_1epoch_1iterations", dataset_id)
    trainer._best_ema = math.inf  # one checkpoint will do
    trainer.disable_checkpointing = not checkpoint
    trainer.run_training()
    log = trainer.logger.get_checkpoint()
    assert len(log["train_losses"]) == len(log["val_losses"]) == 1
    assert np.isfinite(log["train_losses"] + log["val_losses"]).all()
    if any(isinstance(module, PluginLoss) for module in trainer.loss.modules()):
        assert "loss terms" in Path(trainer.log_file).read_text()
    return trainer


def predict_case0(trainer, images: Path, output: Path, **kwargs) -> None:
    """Predict one image with the trainer's model folder, as ``nnUNetv2_predict`` does, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, use_mirroring=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (trainer.fold,), "checkpoint_final.pth")
    image = next(images.glob("case0_0000.*"))
    predictor.predict_from_files_sequential([[str(image)]], [str(output)], **kwargs)


def check_training_and_prediction(name: str, dataset_id: int, planned: Path, tmp_path: Path) -> None:
    trainer = trained_for_a_step(name, dataset_id)
    images = planned / "nnUNet_raw" / cell_datasets.dataset_name(dataset_id) / "imagesTr"
    predict_case0(trainer, images, tmp_path / "case0")
    assert list(tmp_path.glob("case0.*"))


def test_main_trainer_trains_and_predicts_every_kind_of_dataset(main_trainer_and_dataset, planned, tmp_path):
    check_training_and_prediction(*main_trainer_and_dataset, planned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS_IN_CODE)
def test_variant_in_code_trains_and_predicts(name, planned, tmp_path):
    check_training_and_prediction(name, richest_dataset(name), planned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS_IN_NUMBERS)
def test_variant_in_numbers_trains(name):
    trained_for_a_step(name, richest_dataset(name), checkpoint=False)


@pytest.mark.parametrize("dataset_id", [VOLUMES, THICK_VOLUMES], ids=cell_datasets.NAMES.get)
def test_validates_volumes(main_trainer_name_3d, dataset_id):
    trainer = make_trainer(f"{main_trainer_name_3d}_1epoch_1iterations", dataset_id)
    trainer.disable_checkpointing = True
    trainer.run_training()
    trainer.perform_actual_validation()
    validation = Path(trainer.output_folder, "validation")
    summary = json.loads((validation / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(list(validation.glob("*.nii.gz"))) == 1


def test_cascade_learns_and_predicts_from_the_low_resolution(main_trainer_name_3d, planned, tmp_path):
    name = f"{main_trainer_name_3d}_1epoch_1iterations"
    lowres = make_trainer(name, VOLUMES, configuration="3d_lowres", fold="all")
    lowres.run_training()
    lowres.perform_actual_validation()  # writes what the cascade's data loader reads
    predicted = Path(lowres.output_folder_base, "predicted_next_stage", "3d_cascade_fullres")
    assert len(list(predicted.iterdir())) == 5

    cascade = make_trainer(name, VOLUMES, configuration="3d_cascade_fullres")
    cascade.run_training()
    assert cascade.num_input_channels == 1 + 2  # the image and one map for each foreground class
    cascade.perform_actual_validation()
    assert Path(cascade.output_folder, "validation", "summary.json").is_file()

    images = planned / "nnUNet_raw" / cell_datasets.dataset_name(VOLUMES) / "imagesTr"
    previous = str(Path(lowres.output_folder, "validation"))
    predict_case0(cascade, images, tmp_path / "case0", folder_with_segs_from_prev_stage=previous)
    assert (tmp_path / "case0.nii.gz").is_file()
