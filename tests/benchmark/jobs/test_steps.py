"""Proves: every step goes on from what is there, refuses what will not do, and writes its receipt last."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from skimage import io
from support import cell_datasets, tiny_suite
from support.cell_datasets import LABELS, VOLUMES

from nnunet_plugins.benchmark.jobs import steps
from nnunet_plugins.benchmark.jobs.locks import is_locked
from nnunet_plugins.benchmark.jobs.receipts import (
    discard_stale_receipts,
    folder_digest,
    is_planned,
    is_preprocessed,
    labels_digest,
    preprocessed_data_are_stale,
    read_receipt,
    state_of,
)
from nnunet_plugins.benchmark.report.collection import collect
from nnunet_plugins.benchmark.runs import Run, runs, stop_file
from nnunet_plugins.benchmark.suite import Data, Resources, Suite, read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, write_json

DATASET = cell_datasets.dataset_name(LABELS)
SUITE = Suite("tiny", ("A",), "A", 2, (Data(LABELS),), folds=(0, 1), resources=Resources("cpu", cpus=1))
NUM_CASES = 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """nnU-Net's folders with a dataset that the steps themselves have planned and preprocessed."""
    root = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        cell_datasets.write_raw_dataset(LABELS, NUM_CASES)
        cell_datasets.extract_fingerprint(LABELS)
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # as trainings may have it
        steps.plan(SUITE, runs(SUITE)[0])
        steps.preprocess(SUITE, runs(SUITE)[0])
        yield root


@pytest.fixture
def run(prepared, tmp_path, monkeypatch) -> Run:
    """The first training, in folders that the test may change."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    return runs(SUITE)[0]


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plan_and_preprocess_leave_their_receipts(run):
    assert read_receipt(run.plan_receipt) == {"sha256": digest(run.preprocessed / "nnUNetPlans.json")}
    assert read_receipt(run.preprocessing_receipt) == {"configurations": ["2d"]}


def test_folds_are_those_that_nnunet_draws(run):
    path = run.preprocessed / steps.SPLITS
    ours = read_receipt(path)
    path.unlink()
    cell_datasets.make_trainer("nnUNetTrainer", LABELS).do_split()
    assert read_receipt(path) == ours


def test_plans_and_folds_that_are_there_stay(run):
    splits = [{"train": ["case0"], "val": ["case1"]}, {"train": ["case1"], "val": ["case0"]}]
    (run.preprocessed / steps.SPLITS).write_text(json.dumps(splits))
    change(run.preprocessed / "nnUNetPlans.json", mine=True)
    run.plan_receipt.unlink()
    steps.plan(SUITE, run)
    assert read_receipt(run.preprocessed / "nnUNetPlans.json")["mine"]
    assert read_receipt(run.preprocessed / steps.SPLITS) == splits
    assert run.plan_receipt.exists()


def refused(step, suite: Suite, sentence: str, receipt: str) -> None:
    """The step ends with the sentence, and without the receipt."""
    run = runs(suite)[0]
    path = getattr(run, receipt)
    path.unlink(missing_ok=True)
    with pytest.raises(UserError, match=sentence):
        step(suite, run)
    assert not path.exists()


def test_plans_of_another_planner_must_be_there(run):
    suite = replace(SUITE, datasets=(Data(LABELS, plans="nnUNetResEncUNetMPlans"),))
    refused(steps.plan, suite, "nnUNetResEncUNetMPlans.json is not there: make it with nnUNetv2_plan_exp", "planned")


def test_a_configuration_that_is_not_planned_is_refused(run):
    suite = replace(SUITE, datasets=(Data(LABELS, ("2d", "3d_lowres")),))
    refused(steps.plan, suite, "has no configuration 3d_lowres: choose from 2d", "planned")


def test_a_fold_out_of_range_is_refused(run):
    refused(steps.plan, replace(SUITE, folds=(0, 5)), "has 5 folds, numbered from 0, .* asks for fold 5", "planned")


def test_too_few_cases_for_folds_are_refused(run):
    (run.preprocessed / steps.SPLITS).unlink()
    for case in (0, 1):
        for part in ("imagesTr", "labelsTr"):
            next(Path(os.environ["nnUNet_raw"], DATASET, part).glob(f"case{case}[_.]*")).unlink()
    change(Path(os.environ["nnUNet_raw"], DATASET, "dataset.json"), numTraining=NUM_CASES - 2)
    refused(steps.plan, SUITE, "has 4 training cases, too few for nnU-Net's five folds: write .*splits", "planned")


# ---- preprocess ------------------------------------------------------------------------------------------------------


def test_complete_preprocessing_is_not_done_again(run):
    folder = run.preprocessed / "nnUNetPlans_2d"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run.preprocessing_receipt.unlink()
    steps.preprocess(SUITE, run)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert run.preprocessing_receipt.exists()


def test_preprocessing_that_was_killed_is_done_again(run):
    folder = run.preprocessed / "nnUNetPlans_2d"
    names = {path.name for path in folder.iterdir()}
    (folder / "case3.pkl").unlink()
    (folder / "case3.b2nd").write_bytes(b"")
    steps.preprocess(SUITE, run)
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "case3.b2nd").stat().st_size > 0


def test_data_made_of_other_labels_or_with_another_spacing_are_made_again(run):
    made_of = read_receipt(run.source_note)
    folder = run.preprocessed / "nnUNetPlans_2d"

    def is_made_again() -> bool:
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pkl")}
        stale = not is_preprocessed(run)
        steps.preprocess(SUITE, run)
        again = {path: path.stat().st_mtime_ns for path in folder.glob("*.pkl")} != before
        assert stale == again
        assert is_preprocessed(run)
        return again

    assert not is_made_again()
    label = Path(os.environ["nnUNet_raw"], DATASET, "labelsTr", "case0.png")
    os.utime(label)  # the same again
    folder_digest.cache_clear()
    assert not is_made_again()
    erase(label)
    assert is_made_again()
    assert read_receipt(run.source_note) == made_of | {"labels": labels_digest(run)}
    assert not io.imread(run.preprocessed / "gt_segmentations" / "case0.png").any()

    plans = read_receipt(run.plans_file)
    plans["configurations"]["2d"]["patch_size"] = [32, 32]  # is for the training alone
    write_plans(run, plans)
    assert not is_made_again()
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    write_plans(run, plans)
    assert is_made_again()


def erase(label: Path) -> None:
    io.imsave(label, np.zeros_like(io.imread(label)), check_contrast=False)
    folder_digest.cache_clear()  # as in another process


def write_plans(run: Run, plans: dict) -> None:
    """Edit the plans and let them be checked."""
    write_json(run.plans_file, plans)
    assert not is_planned(run) and not is_preprocessed(run)
    steps.plan(SUITE, run)


def test_folds_that_were_removed_are_drawn_again(run):
    splits = read_receipt(run.preprocessed / steps.SPLITS)
    (run.preprocessed / steps.SPLITS).unlink()
    assert not is_planned(run) and not is_preprocessed(run)
    discard_stale_receipts(survey(SUITE).states)
    assert not run.plan_receipt.exists() and not run.preprocessing_receipt.exists()
    steps.plan(SUITE, run)
    assert read_receipt(run.preprocessed / steps.SPLITS) == splits


def test_a_configuration_that_is_no_longer_planned_is_refused(run):
    suite = replace(SUITE, datasets=(Data(LABELS, ("3d_fullres",)),))
    refused(steps.preprocess, suite, "has no configuration 3d_fullres: choose from 2d", "preprocessing_receipt")


def test_data_that_were_made_by_hand_are_believed(run):
    run.source_note.unlink()
    assert not preprocessed_data_are_stale(run)
    steps.preprocess(SUITE, run)
    assert run.source_note.exists()


def test_a_low_resolution_gets_the_data_of_the_stage_after_it_too(tmp_path, monkeypatch):
    """nnU-Net's validation predicts for that stage, and fails without its data."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    cell_datasets.write_raw_dataset(VOLUMES)
    cell_datasets.extract_fingerprint(VOLUMES)
    suite = replace(SUITE, datasets=(Data(VOLUMES, ("3d_fullres",)),))
    steps.plan(suite, runs(suite)[0])
    cell_datasets.add_cascade(VOLUMES)
    suite = replace(SUITE, datasets=(Data(VOLUMES, ("3d_lowres",)),))
    run = runs(suite)[0]
    steps.plan(suite, run)
    steps.preprocess(suite, run)
    for name in ("3d_lowres", "3d_fullres"):
        assert (run.preprocessed / f"nnUNetPlans_{name}" / "case0.pkl").exists()


def test_cases_of_the_folds_that_do_not_exist_are_named(run):
    splits = read_receipt(run.preprocessed / steps.SPLITS)
    splits[4]["val"].append("case99")
    (run.preprocessed / steps.SPLITS).write_text(json.dumps(splits))
    refused(steps.preprocess, SUITE, "names 1 cases, such as case99, that", "preprocessing_receipt")


# ---- train -----------------------------------------------------------------------------------------------------------


def write_finished_fold(run: Run) -> None:
    """What nnU-Net leaves of a finished training that has segmented everything as in the reference."""
    (run.folder / "validation").mkdir(parents=True)
    logging = {name: [0.5, float("nan")] for name in steps.CURVES}
    logging |= {"epoch_start_timestamps": [10.0, 12.0], "epoch_end_timestamps": [11.5, 14.0]}
    torch.save({"logging": logging}, run.folder / "checkpoint_final.pth")
    cases = []
    for case, reference in steps.references(run, "validation").items():
        prediction = run.folder / "validation" / reference.name
        shutil.copyfile(reference, prediction)
        present = set(np.unique(io.imread(reference)))
        metrics = {str(label): {"Dice": 1.0 if label in present else float("nan")} for label in (1, 2)}
        cases.append({"prediction_file": str(prediction), "reference_file": str(reference), "metrics": metrics})
        assert case in reference.name
    (run.folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))


def test_a_finished_fold_only_gets_its_receipt(run, monkeypatch):
    write_finished_fold(run)
    monkeypatch.setattr(steps, "train_and_predict", lambda *_: pytest.fail("it was trained again"))
    steps.train(SUITE, run)
    receipt = read_receipt(run.training_receipt)
    assert receipt["epoch_seconds"] == [1.5, 2.0]
    assert receipt["curves"]["val_losses"] == [0.5, None]
    validation = {f"validation/{case}.png" for case in read_receipt(run.preprocessed / steps.SPLITS)[0]["val"]}
    assert set(receipt["sha256"]) == {"checkpoint_final.pth", *validation}
    assert all(digest(run.folder / name) == sha for name, sha in receipt["sha256"].items())


def first_prediction(run: Run) -> Path:
    return next(iter(steps.predictions(run, "validation").values()))


@pytest.mark.parametrize(
    "missing",
    [
        lambda run: run.folder / "checkpoint_final.pth",
        lambda run: run.folder / "validation" / "summary.json",
        first_prediction,
    ],
)
def test_a_fold_that_lacks_something_is_trained(run, monkeypatch, missing):
    write_finished_fold(run)
    path = missing(run)
    content = path.read_bytes()
    path.unlink()
    trained = []

    def train_and_predict(suite, run):
        trained.append(run)
        assert not run.training_receipt.exists()
        path.write_bytes(content)
        steps.note_measured(run, validation_seconds=1.0)

    monkeypatch.setattr(steps, "train_and_predict", train_and_predict)
    steps.train(SUITE, run)
    assert trained == [run]
    assert read_receipt(run.training_receipt)["measured"] == {"validation_seconds": 1.0}


def test_costs_outlive_the_receipt(run, monkeypatch):
    def train_and_predict(suite, run):
        steps.note_measured(run, peak_bytes_allocated=5)
        write_finished_fold(run)
        steps.note_measured(run, validation_seconds=1.0)

    monkeypatch.setattr(steps, "train_and_predict", train_and_predict)
    steps.train(SUITE, run)
    run.training_receipt.unlink()  # as Snakemake does with a receipt whose job was not done when its driver was killed
    steps.train(SUITE, run)
    assert read_receipt(run.training_receipt)["measured"] == {"peak_bytes_allocated": 5, "validation_seconds": 1.0}


def test_a_training_that_fails_or_leaves_nothing_has_no_receipt(run, monkeypatch):
    def out_of_memory(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(steps, "train_and_predict", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        steps.train(SUITE, run)
    monkeypatch.setattr(steps, "train_and_predict", lambda *_: None)
    with pytest.raises(
        UserError, match=r"checkpoint_final.pth is not there after the training of Dataset901_Cells 2d A_2"
    ):
        steps.train(SUITE, run)
    assert not run.training_receipt.exists()
    assert not is_locked(run.folder / ".bench.lock")


def test_repetitions_train_in_their_own_folder_with_another_seed(run, monkeypatch):
    repeated = runs(replace(SUITE, repeats=2))[-2]
    assert repeated.repeat == 2
    root, folder = os.environ["nnUNet_results"], repeated.folder
    monkeypatch.setenv(steps.SEED_VARIABLE, "41")

    def train_and_predict(suite, run):
        assert os.environ["nnUNet_results"] == str(Path(root, "repeat_2"))
        assert os.environ[steps.SEED_VARIABLE] == "42"
        assert run.folder == folder
        write_finished_fold(run)

    monkeypatch.setattr(steps, "train_and_predict", train_and_predict)
    steps.train(SUITE, repeated)
    assert (folder / "bench_train.json").exists()
    assert not Path(root, "repeat_2", "repeat_2").exists()


def test_a_model_of_other_plans_is_refused(run):
    plans = read_receipt(run.preprocessed / "nnUNetPlans.json")
    write_json(run.model / "plans.json", plans | {"continue_training": True})
    steps.refuse_other_plans(run)
    plans["configurations"]["2d"]["batch_size"] += 1
    write_json(run.model / "plans.json", plans)
    with pytest.raises(UserError, match="was trained with other plans than the dataset has now: move that folder away"):
        steps.train(SUITE, run)
    assert not run.training_receipt.exists()


@pytest.mark.parametrize("change", ["split", "labels"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_fold_of_other_cases_or_labels_is_refused(run, monkeypatch, change, by_hand):
    write_finished_fold(run)
    if not by_hand:
        steps.train(SUITE, run)
        assert state_of(run).trained
    if change == "split":
        splits = read_receipt(run.preprocessed / steps.SPLITS)
        splits[0]["val"].append(splits[0]["train"].pop())
        write_json(run.preprocessed / steps.SPLITS, splits)
    else:
        erase(Path(os.environ["nnUNet_raw"], DATASET, "labelsTr", "case0.png"))
    if by_hand and change == "labels":
        steps.train(SUITE, run)  # nobody knows what it was trained with
        return
    assert not state_of(run).trained
    monkeypatch.setattr(steps, "train_and_predict", lambda *_: pytest.fail("it was trained"))
    run.training_receipt.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"was trained with other cases than splits_final.json gives it now, or with"):
        steps.train(SUITE, run)
    assert not run.training_receipt.exists()


@pytest.mark.parametrize("missing", ["imagesTs", "labelsTs"])
def test_a_test_set_that_is_not_whole_is_refused_before_training(run, monkeypatch, missing):
    write_test_set(["case0"])
    shutil.rmtree(Path(os.environ["nnUNet_raw"], DATASET, missing))
    monkeypatch.setattr(steps, "train_and_predict", lambda *_: pytest.fail("it was trained"))
    suite = replace(SUITE, datasets=(Data(LABELS, test=True),))
    with pytest.raises(UserError, match=r"has no (image|segmentations).*: add (it|them), or leave out 'test' for data"):
        steps.train(suite, runs(suite)[0])


def test_a_test_set_that_another_suite_has_predicted_stays_in_the_receipts(run):
    write_test_set(["case0", "case1"])
    write_finished_fold(run)
    with_test = runs(replace(SUITE, datasets=(Data(LABELS, test=True),)))[0]
    shutil.copytree(Path(os.environ["nnUNet_raw"], DATASET, "labelsTs"), run.folder / "test")
    steps.train(SUITE, run)
    steps.validate(SUITE, run)
    assert state_of(run).done and state_of(with_test).done

    first, second = sorted((run.folder / "test").iterdir())
    second.write_bytes(first.read_bytes())  # nnU-Net has no summary of it
    assert not state_of(run).trained and not state_of(with_test).done
    discard_stale_receipts(survey(SUITE).states)
    assert not run.training_receipt.exists() and not second.exists()
    steps.train(SUITE, run)
    steps.validate(SUITE, run)
    assert state_of(run).done and not state_of(with_test).done


def test_metrics_without_those_of_a_wanted_test_set_are_not_all(run):
    write_test_set(["case0"])
    write_finished_fold(run)
    steps.train(SUITE, run)
    steps.validate(SUITE, run)
    shutil.copytree(Path(os.environ["nnUNet_raw"], DATASET, "labelsTs"), run.folder / "test")
    suite = replace(SUITE, datasets=(Data(LABELS, test=True),))
    run = runs(suite)[0]
    steps.train(suite, run)
    assert state_of(run).trained and not state_of(run).done
    steps.validate(suite, run)
    assert state_of(run).done


def test_predictions_of_another_model_are_not_taken_for_its_own(run, monkeypatch):
    """Killed between the last epoch and the validation, a new training must not find those of an older one."""
    write_finished_fold(run)
    (run.folder / "checkpoint_final.pth").unlink()

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.run_training", killed)
    suite = replace(SUITE, trainers=("nnUNetTrainer",), reference="nnUNetTrainer")
    stock = runs(suite)[0]
    shutil.copytree(run.folder, stock.folder)
    with pytest.raises(KeyboardInterrupt):
        steps.train(suite, stock)
    assert not (stock.folder / "validation").exists()


def test_checkpoints_that_were_being_written_are_set_aside(tmp_path, capsys):
    for name in steps.CHECKPOINTS:
        torch.save({"network_weights": torch.arange(1000), "name": name}, tmp_path / name)
    latest = tmp_path / "checkpoint_latest.pth"
    whole = latest.read_bytes()
    for half in (whole[: len(whole) // 2], b"", whole[:-1]):
        latest.write_bytes(half)
        steps.set_aside_unreadable_checkpoints(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "checkpoint_best.pth",
            "checkpoint_final.pth",
            "checkpoint_latest.pth.unreadable",
        ]
        assert "checkpoint_latest.pth is half written" in capsys.readouterr().out
    steps.set_aside_unreadable_checkpoints(tmp_path / "new")
    assert (tmp_path / "checkpoint_latest.pth.unreadable").read_bytes() == whole[:-1]


FIRST_ATTEMPT_IS_KILLED = """
import os, signal, sys, time
from pathlib import Path
started = Path(sys.argv[1])
if not started.exists():
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    started.write_text(str(worker))
    os.kill(os.getpid(), signal.SIGKILL)
from nnunet_plugins.benchmark.jobs.steps import end_orphans
end_orphans(sys.argv[1])
print("went on")
"""


def test_workers_of_a_killed_training_are_ended(tmp_path):
    script, started, other = tmp_path / "train.py", tmp_path / "started", tmp_path / "other"
    script.write_text(FIRST_ATTEMPT_IS_KILLED)
    command = [sys.executable, "-P", script]
    try:
        for marker in (started, other):
            assert subprocess.run([*command, marker]).returncode == -signal.SIGKILL
        worker, worker_of_other = (psutil.Process(int(marker.read_text())) for marker in (started, other))
        assert worker.is_running()
        second = subprocess.run([*command, started], capture_output=True, text=True)
        assert (second.returncode, second.stdout) == (0, "went on\n")
        assert tiny_suite.have_ended([worker], timeout=5)
        assert tiny_suite.is_alive(worker_of_other)
    finally:
        for marker in (started, other):
            if marker.exists() and psutil.pid_exists(int(marker.read_text())):
                os.kill(int(marker.read_text()), signal.SIGKILL)


def test_no_step_begins_while_its_driver_stops(run, tmp_path):
    suite_file = tiny_suite.write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}")
    suite = read_suite(suite_file)
    run = runs(suite)[0]
    stop_file(suite).parent.mkdir(parents=True)
    stop_file(suite).touch()
    with pytest.raises(SystemExit) as stopped:
        steps.main(["train", str(suite_file), str(run.training_receipt)])
    assert stopped.value.code == 1
    assert not run.folder.exists()


def test_a_test_set_that_is_the_validation_set_has_its_scores_also_in_a_repetition(run, tmp_path):
    write_test_set(read_receipt(run.preprocessed / steps.SPLITS)[0]["val"])
    suite_file = tiny_suite.write_suite(
        tmp_path / "tiny.toml", ("nnUNetTrainer",), f"{{ id = {LABELS}, test = true }}", epochs=1, repeats=2
    )
    suite = read_suite(suite_file)
    run = next(run for run in runs(suite) if run.repeat == 2)
    do_step("train", suite_file, run.training_receipt)
    assert state_of(run).trained
    predicted = {case: digest(path) for case, path in steps.predictions(run, "test").items()}
    assert predicted == {case: digest(path) for case, path in steps.predictions(run, "validation").items()}

    next(iter(steps.predictions(run, "test").values())).unlink()
    assert not state_of(run).trained
    do_step("train", suite_file, run.training_receipt)
    assert tiny_suite.epochs(run) == [[0]]  # only predicted again
    assert {case: digest(path) for case, path in steps.predictions(run, "test").items()} == predicted

    do_step("validate", suite_file, run.validation_receipt)
    cases = collect(survey(suite)).cases
    parts = [cases[cases.part == part].drop(columns="part").reset_index(drop=True) for part in ("validation", "test")]
    assert len(parts[0]) == len(predicted) * 2
    assert set(parts[0].repeat) == {2}
    pd.testing.assert_frame_equal(*parts)


def write_test_set(cases: list[str]) -> None:
    """Copies of training cases."""
    raw = Path(os.environ["nnUNet_raw"], DATASET)
    for source, target in (("imagesTr", "imagesTs"), ("labelsTr", "labelsTs")):
        (raw / target).mkdir()
        for case in cases:
            for path in (raw / source).glob(f"{case}[_.]*"):
                shutil.copyfile(path, raw / target / path.name)


def do_step(step: str, suite_file: Path, receipt: Path) -> None:
    subprocess.run([sys.executable, "-m", "nnunet_plugins.benchmark.jobs.steps", step, suite_file, receipt], check=True)


# ---- validate --------------------------------------------------------------------------------------------------------


def test_metrics_of_all_cases_and_labels_are_in_the_receipt(run):
    write_finished_fold(run)
    steps.validate(SUITE, run)
    receipt = read_receipt(run.validation_receipt)
    assert receipt["tolerance"] == 1.0
    validation = read_receipt(run.preprocessed / steps.SPLITS)[0]["val"]
    assert [(row["case"], row["label"]) for row in receipt["cases"]] == [
        (case, label) for case in validation for label in ("cell", "nucleus")
    ]
    assert all(row["Dice"] in (1.0, None) for row in receipt["cases"])


def test_predictions_that_are_not_those_of_nnunets_summary_are_refused(run):
    write_finished_fold(run)
    prediction = first_prediction(run)
    io.imsave(prediction, np.zeros_like(io.imread(prediction)), check_contrast=False)
    with pytest.raises(
        UserError, match=r"summary.json gives case\d \(cell\) a Dice of 1.0, and its prediction has 0.0"
    ):
        steps.validate(SUITE, run)
    assert not run.validation_receipt.exists()


# ---- the log ---------------------------------------------------------------------------------------------------------


LOGGED = """
import os, signal, subprocess, sys
from pathlib import Path
from nnunet_plugins.benchmark.jobs.steps import logged
with logged(Path(sys.argv[1]), "train fold 0"):
    print("an epoch")
    exec(sys.argv[2])
"""


def logged(path: Path, code: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", LOGGED, path, code], capture_output=True, text=True, env=environment)


def test_the_log_has_what_children_print_and_the_terminal_nothing(tmp_path):
    path = tmp_path / "new" / "a.log"
    finished = logged(path, "subprocess.run(['echo', 'a child']); print('a warning', file=sys.stderr)")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert {"an epoch", "a child", "a warning"} <= set(path.read_text().splitlines())


def test_a_failure_is_one_sentence_on_the_terminal_and_a_traceback_in_the_log(tmp_path):
    path = tmp_path / "a.log"
    for _ in range(2):
        finished = logged(path, "raise RuntimeError('no\\n memory')")
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr == f"train fold 0 failed: no memory. See {path}\n"
    assert path.read_text().count("Traceback") == 2


def test_an_interrupted_step_has_not_failed(tmp_path):
    path = tmp_path / "a.log"
    finished = logged(path, "raise KeyboardInterrupt")
    assert (finished.returncode, finished.stdout, finished.stderr) == (128 + signal.SIGINT, "", "")
    assert path.read_text().endswith("Interrupted\n") and "Traceback" not in path.read_text()


def test_the_log_of_a_killed_step_has_what_it_printed(tmp_path):
    path = tmp_path / "a.log"
    assert logged(path, "os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    assert "an epoch" in path.read_text()


SAME_COMMAND = """
import sys
from nnunet_plugins.benchmark.jobs.steps import end_orphans
if sys.stdin.readline() == "end\\n":
    end_orphans("a receipt")
sys.stdin.read()
"""


def test_a_process_that_is_not_for_a_fold_alone_ends_no_others():
    """All workers of a parallel test run have the same command."""
    command = [sys.executable, "-c", SAME_COMMAND]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as other:
        subprocess.run(command, input="end\n", text=True, check=True)
        assert other.poll() is None
        other.communicate("")
        assert other.returncode == 0
