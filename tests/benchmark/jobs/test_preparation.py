"""Proves that planning and preprocessing keep what is there, redo what is stale, and refuse what cannot work."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from skimage import io
from support import cell_datasets
from support.cell_datasets import LABELS, VOLUMES
from support.finished_fold import erase
from support.tiny_suite import NUM_CASES, ONE_TRAINER

from nnunet_plugins.benchmark.jobs.preparation import plan, preprocess
from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.sources import folder_digest, labels_digest, preprocessed_data_are_stale
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts, is_planned, is_preprocessed
from nnunet_plugins.benchmark.runs import Run, planned_configuration, read_plans, read_splits, runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, write_json


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_plan_and_preprocess_leave_their_receipts(run):
    assert read_receipt(run.plan_receipt) == {"sha256": digest(run.plans_file)}
    assert read_receipt(run.preprocessing_receipt) == {"configurations": ["2d"]}


def test_folds_are_those_that_nnunet_draws(run):
    path = run.splits_file
    ours = json.loads(path.read_text())
    path.unlink()
    cell_datasets.make_trainer("nnUNetTrainer", LABELS).do_split()
    assert json.loads(path.read_text()) == ours


def test_plans_and_folds_that_are_there_stay(run):
    splits = [{"train": ["case0"], "val": ["case1"]}, {"train": ["case1"], "val": ["case0"]}]
    run.splits_file.write_text(json.dumps(splits))
    change(run.plans_file, mine=True)
    run.plan_receipt.unlink()
    plan(ONE_TRAINER, run)
    assert read_plans(run)["mine"]
    assert read_splits(run) == splits
    assert run.plan_receipt.exists()


def refused(step, suite: Suite, sentence: str, receipt: str) -> None:
    """Assert that a step ends with a sentence and without its receipt."""
    run = runs(suite)[0]
    path = getattr(run, receipt)
    path.unlink(missing_ok=True)
    with pytest.raises(UserError, match=sentence):
        step(suite, run)
    assert not path.exists()


def test_plans_of_another_planner_must_be_there(run):
    suite = replace(ONE_TRAINER, datasets=(Data(LABELS, plans="MyPlans"),))
    refused(plan, suite, "MyPlans.json is not there: make it with nnUNetv2_plan_exp", "plan_receipt")


def test_a_configuration_that_is_not_planned_is_refused(run):
    suite = replace(ONE_TRAINER, datasets=(Data(LABELS, ("2d", "3d_lowres")),))
    refused(plan, suite, "has no configuration 3d_lowres: choose from 2d", "plan_receipt")


def test_a_fold_out_of_range_is_refused(run):
    refused(
        plan, replace(ONE_TRAINER, folds=(0, 5)), "has 5 folds, numbered from 0, .* asks for fold 5", "plan_receipt"
    )


def test_too_few_cases_for_folds_are_refused(run):
    run.splits_file.unlink()
    for case in (0, 1):
        for part in ("imagesTr", "labelsTr"):
            next(Path(os.environ["nnUNet_raw"], run.dataset, part).glob(f"case{case}[_.]*")).unlink()
    change(Path(os.environ["nnUNet_raw"], run.dataset, "dataset.json"), numTraining=NUM_CASES - 2)
    refused(plan, ONE_TRAINER, "has 4 training cases, too few for nnU-Net's five folds: write .*splits", "plan_receipt")


# ---- preprocess ------------------------------------------------------------------------------------------------------


def test_complete_preprocessing_is_not_done_again(run):
    folder = run.preprocessed / "nnUNetPlans_2d"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run.preprocessing_receipt.unlink()
    preprocess(ONE_TRAINER, run)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert run.preprocessing_receipt.exists()


def test_preprocessing_that_was_killed_is_done_again(run):
    folder = run.preprocessed / "nnUNetPlans_2d"
    names = {path.name for path in folder.iterdir()}
    (folder / "case3.pkl").unlink()
    (folder / "case3.b2nd").write_bytes(b"")
    preprocess(ONE_TRAINER, run)
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "case3.b2nd").stat().st_size > 0


def test_data_made_of_other_labels_or_with_another_spacing_are_made_again(run):
    made_of = read_receipt(run.source_note)
    folder = run.preprocessed / "nnUNetPlans_2d"

    def is_made_again() -> bool:
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pkl")}
        stale = not is_preprocessed(run)
        preprocess(ONE_TRAINER, run)
        again = {path: path.stat().st_mtime_ns for path in folder.glob("*.pkl")} != before
        assert stale == again
        assert is_preprocessed(run)
        return again

    assert not is_made_again()
    label = Path(os.environ["nnUNet_raw"], run.dataset, "labelsTr", "case0.png")
    os.utime(label)  # the same again
    folder_digest.cache_clear()
    assert not is_made_again()
    erase(label)
    assert is_made_again()
    assert read_receipt(run.source_note) == made_of | {"labels": labels_digest(run)}
    assert not io.imread(run.preprocessed / "gt_segmentations" / "case0.png").any()

    plans = read_plans(run)
    plans["configurations"]["2d"]["patch_size"] = [32, 32]  # is for the training alone
    write_plans(run, plans)
    assert not is_made_again()
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    write_plans(run, plans)
    assert is_made_again()


def test_data_that_several_plans_share_are_made_again_once(run):
    write_json(run.preprocessed / "Other.json", read_plans(run) | {"plans_name": "Other"})
    suite = replace(ONE_TRAINER, datasets=(Data(LABELS, plans="Other"),))
    other = runs(suite)[0]
    for step in (plan, preprocess):
        step(suite, other)
    erase(Path(os.environ["nnUNet_raw"], run.dataset, "labelsTr", "case0.png"))
    folder_digest.cache_clear()
    assert preprocessed_data_are_stale(run) and preprocessed_data_are_stale(other)
    preprocess(ONE_TRAINER, run)
    before = {path: path.stat().st_mtime_ns for path in (run.preprocessed / "nnUNetPlans_2d").iterdir()}
    assert is_preprocessed(other)
    preprocess(suite, other)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_nnunets_residual_encoders_are_planned_where_their_plans_are_missing(run):
    suite = replace(ONE_TRAINER, trainers=("A@nnUNetResEncUNetMPlans",), reference="A@nnUNetResEncUNetMPlans")
    (residual,) = runs(suite)[:1]
    before = run.plans_file.read_bytes()
    plan(suite, residual)
    assert read_plans(residual)["experiment_planner_used"] == "nnUNetPlannerResEncM"
    assert run.plans_file.read_bytes() == before and is_planned(residual)
    assert planned_configuration(residual)["data_identifier"] == planned_configuration(run)["data_identifier"]


def write_plans(run: Run, plans: dict) -> None:
    """Edit the plans, and let the plan step accept them."""
    write_json(run.plans_file, plans)
    assert not is_planned(run) and not is_preprocessed(run)
    plan(ONE_TRAINER, run)


def test_folds_that_were_removed_are_drawn_again(run):
    splits = read_splits(run)
    run.splits_file.unlink()
    assert not is_planned(run) and not is_preprocessed(run)
    discard_stale_receipts(survey(ONE_TRAINER).states)
    assert not run.plan_receipt.exists() and not run.preprocessing_receipt.exists()
    plan(ONE_TRAINER, run)
    assert read_splits(run) == splits


def test_a_configuration_that_is_no_longer_planned_is_refused(run):
    suite = replace(ONE_TRAINER, datasets=(Data(LABELS, ("3d_fullres",)),))
    refused(preprocess, suite, "has no configuration 3d_fullres: choose from 2d", "preprocessing_receipt")


def test_data_that_were_preprocessed_by_hand_are_used(run):
    run.source_note.unlink()
    assert not preprocessed_data_are_stale(run)
    preprocess(ONE_TRAINER, run)
    assert run.source_note.exists()


def test_a_low_resolution_gets_the_data_of_the_stage_after_it_too(tmp_path, monkeypatch):
    """nnU-Net's validation predicts for that stage, and fails without its data."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    cell_datasets.write_raw_dataset(VOLUMES)
    cell_datasets.extract_fingerprint(VOLUMES)
    suite = replace(ONE_TRAINER, datasets=(Data(VOLUMES, ("3d_fullres",)),))
    plan(suite, runs(suite)[0])
    cell_datasets.add_cascade(VOLUMES)
    suite = replace(ONE_TRAINER, datasets=(Data(VOLUMES, ("3d_lowres",)),))
    run = runs(suite)[0]
    plan(suite, run)
    preprocess(suite, run)
    for name in ("3d_lowres", "3d_fullres"):
        assert (run.preprocessed / f"nnUNetPlans_{name}" / "case0.pkl").exists()


def test_cases_of_the_folds_that_do_not_exist_are_named(run):
    splits = read_splits(run)
    splits[4]["val"].append("case99")
    run.splits_file.write_text(json.dumps(splits))
    refused(preprocess, ONE_TRAINER, "names 1 cases, such as case99, that", "preprocessing_receipt")
