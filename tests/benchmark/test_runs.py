"""Proves that every run has files of its own, where nnU-Net keeps them."""

from dataclasses import replace

import pytest
from support.suite_files import TWO_DATASETS

from nnunet_plugins.benchmark.runs import log_file, runs, work_folder
from nnunet_plugins.benchmark.suite import Data
from nnunet_plugins.errors import UserError


def test_runs_are_all_trainings_of_the_suite(folders):
    assert [str(run) for run in runs(TWO_DATASETS)] == [
        "Dataset001_Cells 2d A_100epochs fold 0",
        "Dataset001_Cells 2d B_100epochs fold 0",
        "Dataset001_Cells 2d A_100epochs fold 3",
        "Dataset001_Cells 2d B_100epochs fold 3",
        "Dataset002_Nuclei 2d A_100epochs fold 0",
        "Dataset002_Nuclei 2d A_100epochs fold 3",
        "Dataset002_Nuclei 3d_fullres A_100epochs fold 0",
        "Dataset002_Nuclei 3d_fullres A_100epochs fold 3",
    ]


def test_files_are_where_nnunet_has_them(folders):
    run = runs(TWO_DATASETS)[1]
    assert run.folder == folders / "results" / "Dataset001_Cells" / "B_100epochs__nnUNetPlans__2d" / "fold_0"
    assert run.preprocessed == folders / "preprocessed" / "Dataset001_Cells"
    assert work_folder(TWO_DATASETS) == folders / "results" / "benchmarks" / "cells"


def test_no_two_trainings_share_a_file(folders):
    suite = replace(TWO_DATASETS, repeats=3)
    all_runs = runs(suite)
    assert len(all_runs) == 24
    assert len({run.training_receipt for run in all_runs} | {run.validation_receipt for run in all_runs}) == 48
    assert len({log_file(suite, "train", run.training_receipt) for run in all_runs}) == 24
    assert {run.results for run in all_runs} == {
        folders / "results",
        folders / "results" / "repeat_2",
        folders / "results" / "repeat_3",
    }


def test_relative_folders_are_made_absolute(folders, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("nnUNet_results", "results")
    folder = runs(TWO_DATASETS)[0].folder
    assert folder.is_absolute()
    assert folder.is_relative_to(folders)


@pytest.mark.parametrize("value", [None, ""])
def test_missing_variable_is_said_with_the_remedy(folders, monkeypatch, value):
    monkeypatch.delenv("nnUNet_preprocessed")
    if value is not None:
        monkeypatch.setenv("nnUNet_preprocessed", value)
    with pytest.raises(UserError, match=r'nnUNet_preprocessed is not set: .*export nnUNet_preprocessed="'):
        runs(TWO_DATASETS)


def test_unknown_dataset_is_said_with_both_folders(folders):
    with pytest.raises(
        UserError, match=f"There is no dataset 7 in {folders}/raw or {folders}/preprocessed: convert it"
    ):
        runs(replace(TWO_DATASETS, datasets=(Data(7),)))


def test_number_of_two_datasets_is_refused(folders):
    (folders / "preprocessed" / "Dataset001_Other").mkdir()
    with pytest.raises(UserError, match=r"1 belongs to several datasets .Dataset001_Cells, Dataset001_Other."):
        runs(TWO_DATASETS)


def test_a_dataset_in_both_folders_is_one(folders):
    (folders / "preprocessed" / "Dataset001_Cells").mkdir()
    assert runs(TWO_DATASETS)[0].dataset == "Dataset001_Cells"


def test_plans_are_the_datasets_or_the_trainers_own_or_made_for_a_gpu(folders):
    own = replace(TWO_DATASETS, trainers=("A", "B@Mine"), datasets=TWO_DATASETS.datasets[:1])
    first, second = runs(own)[:2]
    assert (first.plans, second.plans) == ("nnUNetPlans", "Mine")
    assert second.model.name == "B_100epochs__Mine__2d"
    assert second.unfitted == second and second.plan_receipt.name == "bench_Mine.json"
    fitted = runs(replace(own, gpu_memory_gb=24.0))[1]
    assert fitted.plans == "Mine_B_24G" and fitted.model.name == "B_100epochs__Mine_B_24G__2d"
    assert fitted.unfitted == second
    assert str(fitted) == "Dataset001_Cells 2d B_100epochs Mine_B_24G fold 0"
    assert fitted.preprocessing_receipt == second.preprocessing_receipt
