"""Proves that a command lists the runs once, and hashes each prediction and each label once."""

import os
import shutil
import time
from collections import Counter

import pytest
from support.benchmark_commands import finish
from support.tiny_suite import write_suite

from nnunet_plugins.benchmark import checks, command
from nnunet_plugins.benchmark.jobs import engine, receipts, sources, states
from nnunet_plugins.benchmark.report.collection import collect
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.benchmark.survey import Survey, survey
from nnunet_plugins.cli import main
from nnunet_plugins.files import digest, write_json

CASE = "validation/case0.png"


@pytest.fixture
def suite_file(root):
    """A suite of four runs, of which all but the last are done."""
    path = write_suite(root / "suite.toml", ("nnUNetTrainer", "DLKUNetTrainer"), "{ id = 501 }")
    label = root / "nnUNet_raw" / "Dataset501_Cells" / "labelsTr" / "case0.png"
    label.parent.mkdir()
    label.write_text("a segmentation")
    dataset = root / "nnUNet_preprocessed" / "Dataset501_Cells"
    write_json(dataset / "splits_final.json", [{"train": ["case1"], "val": ["case0"]}] * 2)
    for run in runs(read_suite(path))[:-1]:
        train_and_validate(run)
        os.utime(run.training_receipt, (time.time() + 9,) * 2)  # file systems' clocks are coarse
    return path


def train_and_validate(run: Run) -> None:
    """Write a prediction and what a run leaves of its training and validation."""
    prediction = run.folder / CASE
    prediction.parent.mkdir(parents=True)
    prediction.write_text(f"a prediction of {run}")
    receipt = {"epoch_seconds": [1.0], "curves": {"val_losses": [0.5]}, "measured": {}, "machine": {}}
    row = {"part": "validation", "case": "case0", "label": "cell", "key": "1", "outcome": "segmented", "Dice": 0.5}
    finish(run, [row], **receipt, sha256={CASE: digest(prediction)})
    write_json(run.split_note, sources.current_split(run))


@pytest.fixture
def counts(suite_file, monkeypatch) -> Counter:
    """Number of times that each file has been hashed, and that the runs have been listed."""
    found: Counter = Counter()
    sources.folder_digest.cache_clear()
    for module in (sources, states):
        monkeypatch.setattr(module, "digest", lambda path: found.update([path]) or digest(path))
    for module in (command, checks):
        monkeypatch.setattr(module, "survey", lambda *how, **named: found.update(["listed"]) or survey(*how, **named))
    monkeypatch.setattr(command, "report_to", lambda survey, *_, **__: collect(survey))
    return found


@pytest.mark.parametrize("action", ["run", "report"])
def test_each_file_is_hashed_once_per_command(action, suite_file, counts, root, monkeypatch):
    all_runs = runs(read_suite(suite_file))
    monkeypatch.setattr(engine, "snakemake", lambda *_: train_and_validate(all_runs[-1]) is None)
    main(["benchmark", action, str(suite_file)])
    done = all_runs if action == "run" else all_runs[:-1]
    label = root / "nnUNet_raw" / "Dataset501_Cells" / "labelsTr" / "case0.png"
    assert counts == Counter([*(run.folder / CASE for run in done), label, "listed"])


@pytest.mark.parametrize("action", ["status", "dry run"])
def test_status_and_dry_run_hash_only_files_that_were_written_to_since(action, suite_file, counts, root, capsys):
    first, second, *_ = runs(read_suite(suite_file))
    (first.folder / CASE).write_text("a prediction of another training")
    shutil.copy2(second.folder / CASE, root / "copy")  # with the time of the original
    (second.folder / CASE).unlink()
    shutil.copy2(root / "copy", second.folder / CASE)
    long_ago = time.time() - 60
    for run in (first, second):
        os.utime(run.training_receipt, (long_ago,) * 2)
    command = ["status"] if action == "status" else ["run", "--dry-run"]
    main(["benchmark", *command, str(suite_file)])
    label = root / "nnUNet_raw" / "Dataset501_Cells" / "labelsTr" / "case0.png"
    assert counts == Counter([first.folder / CASE, second.folder / CASE, label, "listed"])
    left = ("2 of 4 trainings done",) if action == "status" else ("train            2\n", "validate         2\n")
    assert all(text in out for out in [capsys.readouterr().out] for text in left)


def test_costs_are_measured_without_hashing_any_file(suite_file, counts, monkeypatch):
    from nnunet_plugins.benchmark import cost

    monkeypatch.setattr(cost, "suite_costs", lambda *_: [])
    main(["benchmark", "cost", str(suite_file)])
    assert counts == Counter(["listed"])


def test_a_later_survey_sees_what_has_changed_since(suite_file):
    before = survey(read_suite(suite_file))
    first, second, third, last = before.runs
    assert before.done == {first, second, third}
    train_and_validate(last)
    first.validation_receipt.unlink()
    (second.folder / CASE).write_text("a prediction of another training")
    write_json(second.training_receipt, receipts.read_receipt(second.training_receipt) | {"sha256": {CASE: "another"}})
    after = before.again()
    assert isinstance(after, Survey) and after.runs == before.runs
    assert after.done == {third, last}
    assert before.done == {first, second, third}


def test_a_later_survey_misses_a_file_that_is_gone(suite_file):
    before = survey(read_suite(suite_file))
    first, second, third, _ = before.runs
    assert before.done == {first, second, third}
    (second.folder / CASE).unlink()
    after = before.again()
    assert after.done == {first, third}
    assert after.states[second].changed == [second.folder / CASE]
