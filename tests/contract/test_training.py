"""Proves for every trainer: nnU-Net's own training and inference run with it, on images, volumes and in the cascade.

For the main trainers (``tests/table.py``) also: validation of a fold, resuming, weights of another dataset, and sharing
a model.
"""

import functools
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, REGIONS, THICK_VOLUMES, VOLUMES, make_trainer
from support.table import MAIN_TRAINERS

from nnunet_plugins.losses.common import PluginLoss

pytestmark = pytest.mark.usefixtures("results")


def test_trains_and_predicts_every_kind_of_dataset(trainer_and_dataset, planned, tmp_path):
    name, dataset_id = trainer_and_dataset
    trainer = make_trainer(f"{name}_1epoch_1iterations", dataset_id)
    trainer._best_ema = math.inf  # one checkpoint will do
    trainer.run_training()
    log = trainer.logger.get_checkpoint()
    assert len(log["train_losses"]) == len(log["val_losses"]) == 1
    assert np.isfinite(log["train_losses"] + log["val_losses"]).all()
    if isinstance(trainer.loss, PluginLoss):
        assert "loss terms: " in Path(trainer.log_file).read_text()

    raw = planned / "nnUNet_raw" / cell_datasets.dataset_name(dataset_id) / "imagesTr"
    predict_case0(trainer, raw, tmp_path / "case0")
    assert list(tmp_path.glob("case0.*"))


def predict_case0(trainer, images: Path, output: Path, **kwargs) -> None:
    """Predict one image with the trainer's model folder, as ``nnUNetv2_predict`` does, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, use_mirroring=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (trainer.fold,), "checkpoint_final.pth")
    image = next(images.glob("case0_0000.*"))
    predictor.predict_from_files_sequential([[str(image)]], [str(output)], **kwargs)


def test_validates_the_whole_fold(trained, main_trainer_name):
    model = trained(main_trainer_name)
    assert model.name == f"{main_trainer_name}_1epoch_2iterations__nnUNetPlans__2d"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == f"{main_trainer_name}_1epoch_2iterations"
    validation = model / "fold_0" / "validation"
    summary = json.loads((validation / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(list(validation.glob("*.png"))) == 2
    assert all(0 <= summary["mean"][label]["Dice"] <= 1 for label in ("1", "2"))


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


class Killed(Exception):
    """Stands for the end of the process."""


def test_resumed_training_equals_an_uninterrupted_one(loading_trainer_name, tmp_path, monkeypatch):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    name = f"{loading_trainer_name}_2epochs_2iterations"
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "5")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "whole"))
    whole = make_trainer(name, LABELS)
    whole.disable_checkpointing = True
    whole.run_training()

    monkeypatch.setenv("nnUNet_results", str(tmp_path / "resumed"))
    interrupted = make_trainer(name, LABELS)
    interrupted.save_every = 1
    monkeypatch.setattr(interrupted, "on_epoch_start", raise_in_epoch_1(interrupted))
    with pytest.raises(Killed):
        interrupted.run_training()

    for variable in ("NNUNET_PLUGINS_WEIGHTS", "NNUNET_PLUGINS_STAGE1"):
        monkeypatch.delenv(variable)  # what the checkpoint replaces must not be loaded again
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resumed = make_trainer(name, LABELS, continue_training=True)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 1
    resumed.disable_checkpointing = True
    resumed.run_training()

    resumed_weights = resumed.network.state_dict()
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed_weights[key]), key
    logged = [trainer.logger.get_checkpoint() for trainer in (whole, resumed)]
    for key in ("lrs", "train_losses", "val_losses", "ema_fg_dice"):
        assert logged[0][key] == logged[1][key]


def raise_in_epoch_1(trainer):
    on_epoch_start = trainer.on_epoch_start

    def hook() -> None:
        if trainer.current_epoch == 1:
            raise Killed
        on_epoch_start()

    return hook


def test_weights_of_another_dataset_are_a_start_whatever_its_number_of_classes(trained, main_trainer_name):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    checkpoint = trained(main_trainer_name) / "fold_0" / "checkpoint_final.pth"
    trainer = make_trainer(main_trainer_name, REGIONS)  # two heads instead of three
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(checkpoint))
    source = torch.load(checkpoint, weights_only=False)["network_weights"]
    target = trainer.network.state_dict()
    fresh = [key for key in target if ".seg_layers." in key]
    assert fresh
    assert all(torch.equal(target[key], source[key]) for key in target if key not in fresh)


PREDICT = """
import json, sys
from pathlib import Path
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

if __name__ == "__main__":
    images, output, *models = sys.argv[1:]
    for model in models:
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
        target = Path(output, Path(model).name)
        target.mkdir(parents=True)
        predictor.predict_from_files_sequential(images, str(target))
"""


@pytest.fixture(scope="module")
def shared_models(trained, tmp_path_factory) -> dict[str, Path]:
    """Every main trainer's model, exported to a zip and imported into an empty results folder."""
    from nnunetv2.model_sharing.model_export import export_pretrained_model
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    folder = tmp_path_factory.mktemp("shared")
    (folder / "results").mkdir()
    models = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Random weights do not become smaller.
        monkeypatch.setattr(zipfile, "ZipFile", functools.partial(zipfile.ZipFile, compresslevel=0))
        for name in MAIN_TRAINERS:
            model, archive = trained(name), str(folder / f"{name}.zip")
            monkeypatch.setenv("nnUNet_results", str(model.parents[1]))
            trainer = model.name.split("__")[0]
            export_pretrained_model(LABELS, archive, configurations=("2d",), trainer=trainer, folds=(0,))
            monkeypatch.setenv("nnUNet_results", str(folder / "results"))
            install_model_from_zip_file(archive)
            models[name] = folder / "results" / model.parent.name / model.name
    return models


@pytest.fixture(scope="module")
def fresh_process_predictions(planned, trained, shared_models, tmp_path_factory) -> Path:
    """Predictions for the fold by all models in a new process without any variable of nnU-Net or of ours."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "predict.py").write_text(PREDICT)
    raw, images = planned / "nnUNet_raw" / cell_datasets.dataset_name(LABELS) / "imagesTr", folder / "images"
    images.mkdir()
    for validated in (trained(MAIN_TRAINERS[0]) / "fold_0" / "validation").glob("*.png"):
        shutil.copy(raw / f"{validated.stem}_0000.png", images)
    environment = {key: value for key, value in os.environ.items() if not key.lower().startswith("nnunet_")}
    subprocess.run(
        [sys.executable, folder / "predict.py", images, folder / "out", *shared_models.values()],
        env=environment,
        check=True,
    )
    return folder / "out"


def test_model_predicts_in_a_fresh_process(fresh_process_predictions, trained, main_trainer_name):
    from skimage import io

    model = trained(main_trainer_name)
    predictions, validated = fresh_process_predictions / model.name, model / "fold_0" / "validation"
    names = [path.name for path in validated.glob("*.png")]
    assert len(names) == 2
    assert sorted(names) == sorted(path.name for path in predictions.glob("*.png"))
    for name in names:  # the same weights, so the same segmentation
        assert np.array_equal(io.imread(predictions / name), io.imread(validated / name))
