"""Proves for every main trainer: its finished model validates a fold, starts another training, is shared and predicts.

All tests of a trainer use one and the same training.
"""

import functools
import json
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
from support.cell_datasets import LABELS, REGIONS, make_trainer
from support.table import MAIN_TRAINERS

pytestmark = pytest.mark.usefixtures("results")


def test_validates_the_whole_fold(trained, main_trainer_name):
    model = trained(main_trainer_name)
    assert model.name == f"{main_trainer_name}_1epoch_2iterations__nnUNetPlans__2d"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == f"{main_trainer_name}_1epoch_2iterations"
    validation = model / "fold_0" / "validation"
    summary = json.loads((validation / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(list(validation.glob("*.png"))) == 2
    assert all(0 <= summary["mean"][label]["Dice"] <= 1 for label in ("1", "2"))


def test_training_starts_from_a_model_of_another_number_of_classes(trained, main_trainer_name):
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


TESTS = Path(__file__).parents[1]
PREDICT = """
import json, sys
from pathlib import Path
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

if __name__ == "__main__":
    tests, images, output, *models = sys.argv[1:]
    sys.path.append(tests)
    from support.narrow import narrow_networks

    narrow_networks()
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
        [sys.executable, folder / "predict.py", TESTS, images, folder / "out", *shared_models.values()],
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
