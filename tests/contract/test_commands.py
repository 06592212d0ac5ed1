"""Proves: nnU-Net's command line, from planning to postprocessing, runs with a trainer of ours and of any length."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import cell_datasets
from support.cell_datasets import LABELS

pytestmark = pytest.mark.slow

TRAINER = "DLKUNetSTrainer_C64_1epoch_2iterations"
MODEL = f"{TRAINER}__nnUNetPlans__2d"


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Build the published networks, as the commands do in their own processes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(folder, monkeypatch)
        cell_datasets.write_raw_dataset(LABELS)
        cell_datasets.extract_fingerprint(LABELS)  # which the command would take half a minute for
        yield folder
    shutil.rmtree(folder)


def run(command: str, *arguments: object) -> str:
    """Run an nnU-Net command as a user does, and return its output."""
    program = Path(sys.executable).with_name(f"nnUNetv2_{command}")
    finished = subprocess.run(
        [program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout[-3000:]
    return finished.stdout


def test_the_whole_pipeline(root, monkeypatch):
    dataset = cell_datasets.dataset_name(LABELS)
    raw, model = root / "nnUNet_raw" / dataset, root / "nnUNet_results" / dataset / MODEL
    images = raw / "imagesTr"

    run("plan_and_preprocess", "-d", LABELS, "-c", "2d", "-np", 1, "--verify_dataset_integrity")
    run("train", LABELS, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--npz")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for fold in range(1, 5):  # as the command does, without its start of half a minute
        trainer = cell_datasets.make_trainer(TRAINER, LABELS, fold=fold)
        trainer.run_training()
        trainer.perform_actual_validation(save_probabilities=True)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    best = run("find_best_configuration", LABELS, "-c", "2d", "-tr", TRAINER, "-np", 1)
    assert f"-tr {TRAINER}" in best

    predict = (
        "predict",
        "-i",
        images,
        "-d",
        LABELS,
        "-c",
        "2d",
        "-tr",
        TRAINER,
        "-device",
        "cpu",
        "--save_probabilities",
    )
    run(*predict, "-o", root / "folds01", "-f", 0, 1, "-npp", 1, "-nps", 1)
    run(*predict, "-o", root / "folds234", "-f", 2, 3, 4, "-npp", 0, "-nps", 0, "--disable_tta")
    run("ensemble", "-i", root / "folds01", root / "folds234", "-o", root / "ensemble", "-np", 1)

    postprocessing = model / "crossval_results_folds_0_1_2_3_4" / "postprocessing.pkl"
    assert pickle.loads(postprocessing.read_bytes()) is not None
    run(
        *("apply_postprocessing", "-i", root / "ensemble", "-o", root / "final", "-np", 1),
        *("-pp_pkl_file", postprocessing, "-plans_json", model / "plans.json", "-dataset_json", raw / "dataset.json"),
    )
    run(
        *("evaluate_folder", raw / "labelsTr", root / "final", "-np", 1),
        *("-djfile", raw / "dataset.json", "-pfile", model / "plans.json"),
    )
    summary = json.loads((root / "final" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 10
    assert all(0 <= summary["mean"][label]["Dice"] <= 1 for label in ("1", "2"))

    environment = {key: value for key, value in os.environ.items() if not key.lower().startswith("nnunet_")}
    subprocess.run(
        [
            *(Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder"), "-i", images),
            *("-o", root / "anywhere", "-m", model, "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"),
        ],
        env=environment,
        check=True,
    )
    assert len(list((root / "anywhere").glob("*.png"))) == 10
