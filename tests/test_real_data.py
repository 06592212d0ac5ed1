"""Proves: DCFFSNetTrainer learns real nuclei: a 60-image subset of DSB2018, one short fold, validated and predicted."""

import json
import shutil
from pathlib import Path

import cell_datasets
import pytest
import torch

DATASET = "Dataset501_DSB2018"
NUM_IMAGES = 60


def write_dsb2018(source: Path, raw: Path) -> Path:
    folder = raw / DATASET
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    images = sorted((source / "images").glob("*.png"))
    for image in images[:: len(images) // NUM_IMAGES][:NUM_IMAGES]:
        shutil.copy(image, folder / "imagesTr" / f"{image.stem}_0000.png")
        shutil.copy(source / "masks" / image.name, folder / "labelsTr" / image.name)
    dataset_json = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": NUM_IMAGES,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


@pytest.mark.slow
def test_short_fold_on_real_nuclei(shared_data, tmp_path, monkeypatch):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    source = shared_data("dsb2018")
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    raw = write_dsb2018(source, tmp_path / "nnUNet_raw")
    extract_fingerprints([501], num_processes=2)
    plan_experiments([501])
    preprocess([501], configurations=("2d",), num_processes=(2,))
    plans = tmp_path / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    smaller = json.loads(plans.read_text())
    smaller["configurations"]["2d"] |= {"patch_size": [128, 128], "batch_size": 4}  # what two cores can train
    plans.write_text(json.dumps(smaller))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "0")

    trainer = get_trainer_from_args("501", "2d", 0, "DCFFSNetTrainer_2epochs_25iterations", device=torch.device("cpu"))
    trainer.run_training()
    trainer.perform_actual_validation()
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == NUM_IMAGES // 5
    assert summary["foreground_mean"]["Dice"] > 0.5  # an untrained network scores below 0.3

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    image = next(raw.glob("imagesTr/*.png"))
    predictor.predict_from_files_sequential([[str(image)]], [str(tmp_path / "prediction")])
    assert (tmp_path / "prediction.png").is_file()
