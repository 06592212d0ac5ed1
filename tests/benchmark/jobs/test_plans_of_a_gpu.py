"""Proves that a suite for a GPU trains every trainer with plans that fit it, from shared data, and reports them.

Also that a trainer of a suite may have plans of its own, as nnU-Net's residual encoders have.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
from support import tiny_suite
from support.cell_datasets import REGIONS

from nnunet_plugins.benchmark.jobs.gpus import GPUS
from nnunet_plugins.benchmark.jobs.preparation import fit
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts, is_planned
from nnunet_plugins.benchmark.jobs.training import train
from nnunet_plugins.benchmark.runs import Run, read_plans, runs, work_folder
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.cli import main
from nnunet_plugins.errors import UserError

pytestmark = pytest.mark.slow

RESIDUAL = "nnUNetTrainer@nnUNetResEncUNetMPlans"
TRAINERS = ("nnUNetTrainer", "DLKUNetSTrainer_C64", RESIDUAL)
GIB = 1.25


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans_of_a_gpu")
    with tiny_suite.tiny_datasets(folder, REGIONS) as monkeypatch:
        monkeypatch.setenv(GPUS, "")  # which the command sets
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def suite_file(root) -> Path:
    path = tiny_suite.write_suite(root / "tiny.toml", TRAINERS, f"{{ id = {REGIONS} }}", epochs=2, folds=(0,))
    path.write_text(f"gpu_memory_gb = {GIB}\n" + path.read_text())
    return path


@pytest.fixture(scope="module")
def trained(suite_file) -> list[Run]:
    main(["benchmark", "run", str(suite_file)])
    return runs(read_suite(suite_file))


def test_what_is_left_is_told_before(suite_file, capsys):
    main(["benchmark", "run", str(suite_file), "--dry-run"])
    left = capsys.readouterr().out.split()
    assert left[:10] == ["plan", "2", "fit", "3", "preprocess", "2", "train", "3", "validate", "3"]
    assert left[10:17] == ["To", "be", "trained:", "Dataset902_Cells", "2d:", "all", "3"]
    main(["benchmark", "status", str(suite_file)])
    assert "0 of 3 trainings done" in capsys.readouterr().out


def test_every_trainer_has_plans_of_its_own_that_fit(trained):
    names = [f"nnUNetPlans_nnUNetTrainer_{GIB}G", f"nnUNetPlans_DLKUNetSTrainer_C64_{GIB}G"]
    assert [run.plans for run in trained] == [*names, f"nnUNetResEncUNetMPlans_nnUNetTrainer_{GIB}G"]
    for run in trained:
        assert read_plans(run)["nnunet_plugins"]["gpu_memory_gb"] == GIB
        assert (run.model / "plans.json").is_file() and run.plans in run.model.name
        assert json.loads((run.model / "plans.json").read_text())["plans_name"] == run.plans
    assert "n_blocks_per_stage" in read_plans(trained[2])["configurations"]["2d"]["architecture"]["arch_kwargs"]


def test_preprocessed_data_are_shared(trained):
    folder = trained[0].preprocessed
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"gt_segmentations", "nnUNetPlans_2d"}


def test_the_report_states_plans_and_estimates(trained, suite_file, capsys):
    report = work_folder(read_suite(suite_file)) / "report"
    trainings = pd.read_csv(report / "trainings.csv").set_index("trainer")
    assert set(trainings.index) == set(TRAINERS)
    for run in trained:
        row = trainings.loc[run.trainer]
        configuration = read_plans(run)["configurations"]["2d"]
        assert row.patch == " x ".join(map(str, configuration["patch_size"]))
        assert (row.plans, row.batch) == (run.plans, configuration["batch_size"])
        assert 0 < row.estimate_gb < GIB - 1
    page = (report / "results.md").read_text()
    assert f"on plans that fit {GIB} GiB" in page and "estimate, GB" in page
    main(["benchmark", "verify", str(report)])
    assert "to the byte" in capsys.readouterr().out


def test_measured_costs_state_them_too(trained, suite_file, capsys):
    main(["benchmark", "cost", str(suite_file), "--steps", "1"])
    assert "estimated memory on a GPU, MB" in capsys.readouterr().out


def test_running_it_again_changes_nothing(trained, suite_file, root):
    folders = [root / "nnUNet_preprocessed", *{run.model for run in trained}]
    before = [tiny_suite.times(folder) for folder in folders]
    main(["benchmark", "run", str(suite_file)])
    assert [tiny_suite.times(folder) for folder in folders] == before


def test_edited_plans_stay_and_plans_of_changed_plans_are_made_anew(trained, suite_file):
    suite, run = read_suite(suite_file), trained[0]
    made = run.plans_file.read_text()
    run.plans_file.write_text(json.dumps(json.loads(made) | {"mine": True}))
    assert not is_planned(run)
    fit(suite, run)
    assert is_planned(run) and read_plans(run)["mine"]
    assert not survey(suite).states[run].trained  # with these plans
    run.plans_file.write_text(made)
    fit(suite, run)
    assert survey(suite).states[run].trained
    of_dataset = run.unfitted.plans_file
    plans = json.loads(of_dataset.read_text())
    plans["configurations"]["2d_big"] = {"inherits_from": "2d", "batch_size": 99}
    of_dataset.write_text(json.dumps(plans))
    fit(suite, run)
    assert survey(suite).states[run].trained  # other configurations are nothing to it
    of_dataset.write_text(json.dumps(json.loads(of_dataset.read_text()) | {"mine": False}))
    discard_stale_receipts(survey(suite).states)
    assert not (run.plan_receipt.exists() or run.unfitted.plan_receipt.exists() or run.training_receipt.exists())
    fit(suite, run)
    assert read_plans(run)["mine"] is False
    with pytest.raises(UserError, match=r"was trained with other plans than the dataset has now: move that folder"):
        train(suite, run)
