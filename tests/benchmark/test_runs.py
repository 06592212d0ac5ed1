"""Proves that every run has files of its own, where nnU-Net keeps them."""

from dataclasses import replace

import pytest

from nnunet_plugins.benchmark.runs import log_file, runs, work_folder
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.errors import UserError

SUITE = Suite("cells", ("A", "B"), "A", 100, (Data(1), Data(2, ("2d", "3d_fullres"), trainers=("A",))), folds=(0, 3))


@pytest.fixture
def root(tmp_path, monkeypatch):
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / folder))
    (tmp_path / "raw" / "Dataset001_Cells").mkdir(parents=True)
    (tmp_path / "preprocessed" / "Dataset002_Nuclei").mkdir(parents=True)
    return tmp_path


def test_runs_are_all_trainings_of_the_suite(root):
    assert [str(run) for run in runs(SUITE)] == [
        "Dataset001_Cells 2d A_100epochs fold 0",
        "Dataset001_Cells 2d B_100epochs fold 0",
        "Dataset001_Cells 2d A_100epochs fold 3",
        "Dataset001_Cells 2d B_100epochs fold 3",
        "Dataset002_Nuclei 2d A_100epochs fold 0",
        "Dataset002_Nuclei 2d A_100epochs fold 3",
        "Dataset002_Nuclei 3d_fullres A_100epochs fold 0",
        "Dataset002_Nuclei 3d_fullres A_100epochs fold 3",
    ]


def test_files_are_where_nnunet_has_them(root):
    run = runs(SUITE)[1]
    assert run.folder == root / "results" / "Dataset001_Cells" / "B_100epochs__nnUNetPlans__2d" / "fold_0"
    assert run.preprocessed == root / "preprocessed" / "Dataset001_Cells"
    assert work_folder(SUITE) == root / "results" / "benchmarks" / "cells"


def test_no_two_trainings_share_a_file(root):
    suite = replace(SUITE, repeats=3)
    all_runs = runs(suite)
    assert len(all_runs) == 24
    assert len({run.training_receipt for run in all_runs} | {run.validation_receipt for run in all_runs}) == 48
    assert len({log_file(suite, "train", run.training_receipt) for run in all_runs}) == 24
    assert {run.results for run in all_runs} == {
        root / "results",
        root / "results" / "repeat_2",
        root / "results" / "repeat_3",
    }


def test_relative_folders_are_made_absolute(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("nnUNet_results", "results")
    folder = runs(SUITE)[0].folder
    assert folder.is_absolute()
    assert folder.is_relative_to(root)


@pytest.mark.parametrize("value", [None, ""])
def test_missing_variable_is_said_with_the_remedy(root, monkeypatch, value):
    monkeypatch.delenv("nnUNet_preprocessed")
    if value is not None:
        monkeypatch.setenv("nnUNet_preprocessed", value)
    with pytest.raises(UserError, match=r'nnUNet_preprocessed is not set: .*export nnUNet_preprocessed="'):
        runs(SUITE)


def test_unknown_dataset_is_said_with_both_folders(root):
    with pytest.raises(UserError, match=f"There is no dataset 7 in {root}/raw or {root}/preprocessed: convert it"):
        runs(replace(SUITE, datasets=(Data(7),)))


def test_number_of_two_datasets_is_refused(root):
    (root / "preprocessed" / "Dataset001_Other").mkdir()
    with pytest.raises(UserError, match=r"1 belongs to several datasets .Dataset001_Cells, Dataset001_Other."):
        runs(SUITE)


def test_a_dataset_in_both_folders_is_one(root):
    (root / "preprocessed" / "Dataset001_Cells").mkdir()
    assert runs(SUITE)[0].dataset == "Dataset001_Cells"
