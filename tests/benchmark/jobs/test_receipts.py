"""Proves that receipts are written whole, and vouch only for what is there and has not changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.suite_files import TWO_DATASETS

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, write_json


def discard(suite: Suite) -> None:
    discard_stale_receipts(survey(suite).states)


def test_a_receipt_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "receipt.json"
    write_json(path, {"new": False})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert read_receipt(path) == {"new": False}
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
        read_receipt(tmp_path / "receipt.json")


@pytest.fixture
def finished(folders) -> Run:
    """A training with both receipts, beside others that have not begun."""
    run = runs(TWO_DATASETS)[0]
    (run.folder / "validation").mkdir(parents=True)
    names = ("checkpoint_final.pth", "validation/case1.png")
    for name in names:
        (run.folder / name).write_text(name)
    write_json(
        run.training_receipt, {"parts": ["validation"], "sha256": {name: digest(run.folder / name) for name in names}}
    )
    write_json(run.validation_receipt, {"tolerance": 1.0, "parts": ["validation"], "cases": []})
    return run


def test_receipts_of_unchanged_files_stay(finished):
    before = finished.training_receipt.stat().st_mtime_ns, finished.validation_receipt.stat().st_mtime_ns
    discard(TWO_DATASETS)
    assert (finished.training_receipt.stat().st_mtime_ns, finished.validation_receipt.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint_final.pth", Path.unlink),
        ("validation/case1.png", Path.unlink),
        ("validation/case1.png", lambda path: path.write_text("another")),
    ],
)
def test_receipts_of_changed_files_are_discarded(finished, name, change):
    change(finished.folder / name)
    discard(TWO_DATASETS)
    assert not finished.training_receipt.exists()
    assert not finished.validation_receipt.exists()


def test_another_tolerance_discards_the_metrics_alone(finished):
    discard(replace(TWO_DATASETS, datasets=(Data(1, tolerance=2.0), Data(2))))
    assert finished.training_receipt.exists()
    assert not finished.validation_receipt.exists()


def test_a_new_test_set_discards_both_receipts(finished):
    discard(replace(TWO_DATASETS, datasets=(Data(1, test=True), Data(2))))
    assert not finished.training_receipt.exists()
    assert not finished.validation_receipt.exists()
    assert (finished.folder / "checkpoint_final.pth").exists()


def test_metrics_without_a_training_are_discarded(finished):
    finished.training_receipt.unlink()
    discard(TWO_DATASETS)
    assert not finished.validation_receipt.exists()
