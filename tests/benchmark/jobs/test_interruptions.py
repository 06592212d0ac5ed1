"""Proves that a suite on this machine goes on after whatever ended it, and then has all that it would have had."""

import itertools
import signal
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from support import tiny_suite
from support.cell_datasets import LABELS
from support.tiny_suite import EPOCHS, Driver, Finished

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.runs import Run, log_file, runs, work_folder
from nnunet_plugins.benchmark.suite import Suite, read_suite
from nnunet_plugins.cli import main

pytestmark = pytest.mark.slow

TRAINERS = ("nnUNetTrainer", "DLKUNetSTrainer_C64")


@dataclass
class Story:
    """Events of an interrupted suite, and its state on the way."""

    suite_file: Path
    suite: Suite
    runs: list[Run]
    refused: Finished | None = None
    done_before: dict[Path, tuple[int, str]] = field(default_factory=dict)
    """Receipts at the first kill."""
    killed: list[Run] = field(default_factory=list)
    """Runs whose training was killed."""
    terminated: Finished | None = None
    left_over: list[psutil.Process] = field(default_factory=list)
    """Processes of the terminated driver that went on."""
    started_by_a_stopped_driver: bool = False
    finished: Finished | None = None


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    with tiny_suite.tiny_datasets(folder, LABELS):
        yield folder


@pytest.fixture(scope="module")
def story(root) -> Story:
    """Kill a driver and a training, terminate the next driver, and let the third one finish."""
    suite_file = tiny_suite.write_suite(root / "tiny.toml", TRAINERS, f"{{ id = {LABELS} }}", folds=(0, 1, 2))
    suite = read_suite(suite_file)
    story = Story(suite_file, suite, runs(suite))

    driver = Driver(suite_file)
    driver.wait_until(lambda: any(run.validation_receipt.exists() for run in story.runs))
    story.refused = tiny_suite.benchmark("run", suite_file)
    killed = driver.wait_until(driver.training)
    story.done_before = receipts([run for run in story.runs if run.validation_receipt.exists()])
    driver.end(signal.SIGKILL)
    tiny_suite.processes_of(killed)[0].kill()
    story.killed.append(killed)
    orphans = tiny_suite.processes(root)

    driver = Driver(suite_file)
    driver.wait_until(lambda: not any(tiny_suite.is_alive(process) for process in orphans))  # they end their fold
    story.killed.append(driver.wait_until(driver.training))
    story.terminated = driver.end(signal.SIGTERM)
    attempts = [tiny_suite.epochs(run) for run in story.runs]
    tiny_suite.have_ended(tiny_suite.processes(root), timeout=30)  # attempts that were starting see that they must not
    story.left_over = tiny_suite.processes(root)
    story.started_by_a_stopped_driver = [tiny_suite.epochs(run) for run in story.runs] != attempts

    story.finished = Driver(suite_file).wait()
    return story


def receipts(all_runs: list[Run]) -> dict[Path, tuple[int, str]]:
    """Time and content of each receipt."""
    paths = [path for run in all_runs for path in (run.training_receipt, run.validation_receipt) if path.exists()]
    return {path: (path.stat().st_mtime_ns, path.read_text()) for path in paths}


def test_the_suite_finishes(story):
    assert story.finished.returncode == 0, story.finished.output
    assert all(run.training_receipt.exists() and run.validation_receipt.exists() for run in story.runs)
    assert not list(work_folder(story.suite).parent.rglob("*.partial"))


def test_a_second_driver_is_refused_in_one_sentence(story):
    assert story.refused.returncode == 1
    assert "Another 'benchmark run' works on" in story.refused.output
    assert "Traceback" not in story.refused.output


def test_a_terminated_driver_ends_all_its_processes(story):
    assert story.terminated.returncode == 128 + signal.SIGTERM
    assert "Stopping" in story.terminated.output
    assert not story.left_over
    assert not story.started_by_a_stopped_driver


def test_finished_trainings_are_not_repeated(story):
    assert story.done_before
    now = receipts(story.runs)
    trained = {path: receipt for path, receipt in story.done_before.items() if path.name == "bench_train.json"}
    assert {path: now[path] for path in trained} == trained
    for run in story.runs:
        if run.training_receipt in story.done_before:
            assert tiny_suite.epochs(run) == [list(range(EPOCHS))]


def test_killed_trainings_go_on_from_their_checkpoints(story):
    for run in story.killed:
        attempts = tiny_suite.epochs(run)
        assert len(attempts) > 1
        for before, after in itertools.pairwise(attempts):
            assert 0 < after[0] <= before[-1] + 1
        assert attempts[-1][-1] == EPOCHS - 1


def test_every_training_has_the_epochs_of_the_suite_and_its_costs(story):
    for run in story.runs:
        receipt = read_receipt(run.training_receipt)
        assert len(receipt["epoch_seconds"]) == EPOCHS, run
        assert {len(curve) for curve in receipt["curves"].values()} == {EPOCHS}, run
        assert receipt["measured"]["validation_seconds"] > 0, run
        assert {epoch for attempt in tiny_suite.epochs(run) for epoch in attempt} == set(range(EPOCHS)), run


def test_logs_keep_all_attempts(story):
    for run in story.killed:
        log = log_file(story.suite, "train", run.training_receipt).read_text()
        assert log.count(f"train {run} (process") >= 2
        for attempt in tiny_suite.epochs(run)[:1]:
            assert f"Epoch {attempt[0]}" in log


def test_results_are_those_of_nnunet_and_the_report_is_verified(story, capsys):
    for run in story.runs:
        assert tiny_suite.our_dice(run) == tiny_suite.nnunet_dice(run), run
    main(["benchmark", "verify", str(work_folder(story.suite) / "report")])
    assert "to the byte" in capsys.readouterr().out


def test_running_it_again_changes_nothing(story, root):
    models = [root / "nnUNet_raw", root / "nnUNet_preprocessed", *{run.model for run in story.runs}]
    contents, times = tiny_suite.contents(root / "nnUNet_results"), [tiny_suite.times(folder) for folder in models]
    main(["benchmark", "run", str(story.suite_file)])
    assert [tiny_suite.times(folder) for folder in models] == times
    assert tiny_suite.contents(root / "nnUNet_results") == contents
