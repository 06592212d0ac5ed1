"""Proves: our trainers learn real images, which are converted, planned, trained, validated, predicted and scored.

DCFFSNetTrainer learns the nuclei of DSB2018; DLKUNetSTrainer, with 16 channels for 96, the hippocampus in 2D and 3D.
All tests are skipped where the checkout has no real data beside it.
"""

import csv
import json
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from support import cell_datasets
from support.real_data import convert, plan_and_preprocess, validate

NUCLEI, HIPPOCAMPUS = "Dataset501_DSB2018", "Dataset504_Hippocampus"
HIPPOCAMPUS_OPTIONS = ("--label-map", "0=background", "1=anterior", "2=posterior", "--channels", "MRI")


def predict_and_score(trainer, raw: Path, root: Path, case: str) -> float:
    """Read, preprocess and predict a case anew, and return its Dice."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    images = [str(image) for image in raw.glob(f"imagesTr/{case}_*")]
    predictions = root / "predictions"
    predictions.mkdir()
    predictor.predict_from_files_sequential([images], [str(predictions / case)])
    plans = Path(trainer.output_folder_base) / "plans.json"
    compute_metrics_on_folder2(
        str(raw / "labelsTr"), str(predictions), str(raw / "dataset.json"), str(plans), chill=True
    )
    return json.loads((predictions / "summary.json").read_text())["foreground_mean"]["Dice"]


def make_trainer(name: str, configuration: str, trainer_name: str, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "0")
    trainer = cell_datasets.make_trainer(trainer_name, int(name[7:10]), configuration=configuration)
    trainer.initialize()
    return trainer


def train_short_fold(trainer, raw: Path, root: Path) -> float:
    """Train a fold and return the mean Dice of its validation; a new prediction must score as it did there."""
    trainer.run_training()
    trained = validate(trainer)
    fold = json.loads((raw / "splits_final.json").read_text())[0]
    cases = [Path(case["reference_file"]).name.split(".", 1)[0] for case in trained["metric_per_case"]]
    assert sorted(cases) == fold["val"]

    first = trained["metric_per_case"][0]
    case = Path(first["reference_file"]).name.split(".", 1)[0]
    dice = [metrics["Dice"] for metrics in first["metrics"].values()]
    score = predict_and_score(trainer, raw, root, case)
    assert score == pytest.approx(sum(dice) / len(dice), abs=0.01)
    return trained["foreground_mean"]["Dice"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("dsb2018", (), marks=pytest.mark.slow),
        pytest.param("kvasir_seg", (), marks=pytest.mark.slow),
        ("kidney_stone_ct", ("--near-duplicates",)),
        ("msd_hippocampus", HIPPOCAMPUS_OPTIONS),
    ],
)
def test_real_folders_are_converted_and_checked_by_nnunet(name, options, shared_data, tmp_path, monkeypatch):
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    source = shared_data(name)
    raw = convert(source, tmp_path, "Dataset505_Real", *options)
    with (raw / "conversion_report.csv").open(newline="") as file:
        reported = {row["case"]: float(row["foreground_fraction"]) for row in csv.DictReader(file)}
    masks = sorted((source / "masks").iterdir())
    foreground = {mask.name.split(".")[0]: (sitk.GetArrayFromImage(sitk.ReadImage(mask)) > 0).mean() for mask in masks}
    assert reported == pytest.approx(foreground, abs=1e-6)
    folds = json.loads((tmp_path / "nnUNet_preprocessed" / "Dataset505_Real" / "splits_final.json").read_text())
    assert len(folds) == 5
    if name == "kidney_stone_ct":  # its groups are found, not read
        with (source / "groups.csv").open(newline="") as file:
            groups = {row["stem"]: row["dup_group"] for row in csv.DictReader(file)}
        for fold in folds:
            train, val = ({groups[case] for case in fold[part]} for part in ("train", "val"))
            assert train.isdisjoint(val)


@pytest.mark.slow
def test_dcffsnet_learns_nuclei(shared_data, tmp_path, monkeypatch):
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    source = shared_data("dsb2018")
    raw = convert(source, tmp_path, NUCLEI, "--groups", str(source / "groups.csv"), num_cases=10)
    plan_and_preprocess(tmp_path, NUCLEI, "2d", patch_size=[128, 128], batch_size=2)
    trainer = make_trainer(NUCLEI, "2d", "DCFFSNetTrainer_2epochs_15iterations", monkeypatch)
    assert train_short_fold(trainer, raw, tmp_path) > 0.5  # an untrained network scores below 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configuration", "smaller"),
    [("2d", {"batch_size": 8}), ("3d_fullres", {"patch_size": [16, 32, 16], "batch_size": 2})],
    ids=["2d", "3d_fullres"],
)
def test_dlkunet_learns_the_hippocampus(configuration, smaller, shared_data, tmp_path, monkeypatch):
    from nnunet_plugins.trainers import find_trainer

    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    raw = convert(shared_data("msd_hippocampus"), tmp_path, HIPPOCAMPUS, *HIPPOCAMPUS_OPTIONS, num_cases=10)
    plan_and_preprocess(tmp_path, HIPPOCAMPUS, configuration, **smaller)
    name = "DLKUNetSTrainer_1epoch_100iterations"
    monkeypatch.setattr(find_trainer(name), "network_kwargs", {"variant": "S", "base_channels": 16})
    trainer = make_trainer(HIPPOCAMPUS, configuration, name, monkeypatch)
    untrained = validate(trainer)["foreground_mean"]["Dice"]
    assert train_short_fold(trainer, raw, tmp_path) > untrained + 0.15
