"""Proves that one command trains, validates and reports a suite, and that the same command then changes nothing."""

from pathlib import Path

import pytest
from support import tiny_suite
from support.cell_datasets import REGIONS

from nnunet_plugins.benchmark.jobs.gpus import GPUS
from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.runs import SUMMARY, Run, log_file, read_splits, runs, work_folder
from nnunet_plugins.benchmark.suite import Suite, read_suite
from nnunet_plugins.cli import main
from nnunet_plugins.files import read_json

EPOCHS = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    with tiny_suite.tiny_datasets(folder, REGIONS) as monkeypatch:
        monkeypatch.setenv(GPUS, "")  # which the command sets
        yield folder


@pytest.fixture(scope="module")
def suite_file(root) -> Path:
    """A suite that has been run, of two trainers on regions."""
    dataset = f"{{ id = {REGIONS}, cluster_regex = 'case(\\d)' }}"
    path = tiny_suite.write_suite(
        root / "tiny.toml", ("nnUNetTrainer", "DLKUNetSTrainer_C64"), dataset, epochs=EPOCHS, folds=(0,)
    )
    main(["benchmark", "run", str(path)])
    return path


@pytest.fixture(scope="module")
def suite(suite_file) -> Suite:
    return read_suite(suite_file)


@pytest.fixture(scope="module")
def all_runs(suite) -> list[Run]:
    return runs(suite)


def test_every_training_has_the_epochs_of_the_suite_and_its_costs(all_runs):
    assert len(all_runs) == 2
    for run in all_runs:
        receipt = read_receipt(run.training_receipt)
        assert tiny_suite.epochs(run) == [list(range(EPOCHS))], run
        assert len(receipt["epoch_seconds"]) == EPOCHS, run
        assert {len(curve) for curve in receipt["curves"].values()} == {EPOCHS}, run
        assert receipt["measured"]["validation_seconds"] > 0, run


def test_logs_have_no_lines_that_look_like_errors_and_are_none(suite, all_runs):
    for run in all_runs:
        log = log_file(suite, "train", run.training_receipt).read_text()
        assert "Epoch 0" in log
        for misleading in ("Cannot continue training", "not found in nnunetv2", "Searching", "Inspecting"):
            assert misleading not in log, run


def test_dice_of_a_training_is_the_mean_of_nnunets(suite_file, all_runs, capsys):
    main(["benchmark", "status", str(suite_file)])
    _, *rows, _, _ = capsys.readouterr().out.splitlines()
    for run, row in zip(all_runs, rows, strict=True):
        expected = read_json(run.folder / SUMMARY)["foreground_mean"]["Dice"]
        assert row.split()[-3:] == [f"{expected:.3f}", "-", "done"]


def test_dice_of_regions_is_that_of_nnunet(all_runs):
    for run in all_runs:
        assert tiny_suite.our_dice(run) == tiny_suite.nnunet_dice(run), run
        assert {case for case, _ in tiny_suite.our_dice(run)} == set(read_splits(run)[run.fold]["val"])


def test_running_it_again_changes_nothing(suite_file, all_runs, root):
    models = [root / "nnUNet_raw", root / "nnUNet_preprocessed", *{run.model for run in all_runs}]
    contents, times = tiny_suite.contents(root / "nnUNet_results"), [tiny_suite.times(folder) for folder in models]
    main(["benchmark", "run", str(suite_file)])
    assert [tiny_suite.times(folder) for folder in models] == times
    assert tiny_suite.contents(root / "nnUNet_results") == contents


def test_the_report_is_verified(suite, capsys):
    main(["benchmark", "verify", str(work_folder(suite) / "report")])
    assert "are those that its data and figures give, to the byte" in capsys.readouterr().out


def test_no_file_is_left_half_written(suite):
    assert not list(work_folder(suite).parent.rglob("*.partial"))
