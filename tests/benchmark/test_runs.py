"""Proves: every training has its own files where nnU-Net keeps them, and receipts vouch only for what is there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_plugins.benchmark.runs import Run, discard_stale_receipts, log_file, runs, work_folder
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json, write_json

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
    assert len({run.trained for run in all_runs} | {run.validated for run in all_runs}) == 48
    assert len({log_file(suite, "train", run.trained) for run in all_runs}) == 24
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


# ---- receipts --------------------------------------------------------------------------------------------------------


def test_a_receipt_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "receipt.json"
    write_json(path, {"new": False})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert read_json(path) == {"new": False}
    assert list(tmp_path.iterdir()) == [path]


def test_a_receipt_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "receipt.json"

    def power_failure(self, target):
        assert json.loads(self.read_text()) == {"complete": True}
        assert not path.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", power_failure)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"complete": True})
    assert not path.exists()
    write_json(path, {"complete": True})
    assert [file.name for file in tmp_path.iterdir()] == ["receipt.json"]


def test_an_unreadable_receipt_is_named(tmp_path):
    (tmp_path / "receipt.json").write_text("{")
    with pytest.raises(UserError, match=r"receipt.json cannot be read .*: remove it and run the benchmark again"):
        read_json(tmp_path / "receipt.json")


@pytest.fixture
def finished(root) -> Run:
    """A training with both receipts, beside others that have not begun."""
    run = runs(SUITE)[0]
    (run.folder / "validation").mkdir(parents=True)
    names = ("checkpoint_final.pth", "validation/case1.png")
    for name in names:
        (run.folder / name).write_text(name)
    write_json(run.trained, {"parts": ["validation"], "sha256": {name: digest(run.folder / name) for name in names}})
    write_json(run.validated, {"tolerance": 1.0, "parts": ["validation"], "cases": []})
    return run


def test_receipts_of_what_is_there_stay(finished):
    before = finished.trained.stat().st_mtime_ns, finished.validated.stat().st_mtime_ns
    discard_stale_receipts(SUITE)
    assert (finished.trained.stat().st_mtime_ns, finished.validated.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint_final.pth", Path.unlink),
        ("validation/case1.png", Path.unlink),
        ("validation/case1.png", lambda path: path.write_text("another")),
    ],
)
def test_receipts_of_what_has_changed_go(finished, name, change):
    change(finished.folder / name)
    discard_stale_receipts(SUITE)
    assert not finished.trained.exists()
    assert not finished.validated.exists()


def test_another_tolerance_asks_for_metrics_alone(finished):
    discard_stale_receipts(replace(SUITE, datasets=(Data(1, tolerance=2.0), Data(2))))
    assert finished.trained.exists()
    assert not finished.validated.exists()


def test_the_wish_for_a_test_set_asks_for_both(finished):
    discard_stale_receipts(replace(SUITE, datasets=(Data(1, test=True), Data(2))))
    assert not finished.trained.exists()
    assert not finished.validated.exists()
    assert (finished.folder / "checkpoint_final.pth").exists()


def test_metrics_without_a_training_go(finished):
    finished.trained.unlink()
    discard_stale_receipts(SUITE)
    assert not finished.validated.exists()
