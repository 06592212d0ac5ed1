"""Proves on a real Slurm that a suite goes on after its driver or a training is killed, and leaves nothing behind."""

import itertools
import signal
import subprocess
from dataclasses import dataclass, field

import pytest
import torch
from support import tiny_suite
from support.cell_datasets import LABELS
from support.repository import REPOSITORY
from support.tiny_suite import EPOCHS, Driver, Finished

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import read_suite

pytestmark = pytest.mark.slow

SLURM = REPOSITORY / ".ci" / "slurm_one_node"
NOT_HERE = 77
"""Exit status of the script where there can be no Slurm."""


@dataclass
class Story:
    """Events of a suite on Slurm."""

    runs: list[Run]
    abandoned: set[str] = field(default_factory=set)
    """Jobs of the killed driver, which went on without it."""
    killed: Run | None = None
    finished: Finished | None = None


@pytest.fixture(scope="module")
def slurm():
    started = subprocess.run([SLURM, "up"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if started.returncode == NOT_HERE:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run([SLURM, "down"], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory, slurm):
    folder = tmp_path_factory.mktemp("slurm")
    with tiny_suite.tiny_datasets(folder, LABELS):
        yield folder


@pytest.fixture(scope="module")
def story(root) -> Story:
    """Kill the driver, then a training of the next driver, and finish."""
    suite_file = tiny_suite.write_suite(
        root / "tiny.toml", ("nnUNetTrainer", "DLKUNetSTrainer_C64"), f"{{ id = {LABELS} }}"
    )
    story = Story(runs(read_suite(suite_file)))
    driver = Driver(suite_file, "--executor", "slurm")
    driver.wait_until(driver.training)
    driver.end(signal.SIGKILL)
    story.abandoned = queued()
    hold_what_waits()

    driver = Driver(suite_file, "--executor", "slurm")
    driver.wait_until(lambda: queued() and not queued() & story.abandoned)
    story.killed = driver.wait_until(driver.training)
    for process in tiny_suite.processes_of(story.killed):
        process.kill()
    story.finished = driver.wait()
    return story


def hold_what_waits() -> None:
    """Hold the waiting jobs, so that trainings are left for the next driver, however long it takes to start."""
    waiting = subprocess.run(["squeue", "-h", "-t", "PD", "-o", "%i"], capture_output=True, text=True, check=True)
    for job in waiting.stdout.split():
        subprocess.run(["scontrol", "hold", job], check=False)  # it may have started since


def queued() -> set[str]:
    """Numbers of the jobs that wait or work."""
    command = ["squeue", "-h", "-t", "PD,R,CG,CF,S", "-o", "%i"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def jobs() -> dict[str, dict[str, str]]:
    """Fields of all jobs that Slurm remembers, by the job's number."""
    shown = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True, check=True).stdout
    records = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines()]
    return {record["JobId"]: record for record in records if "JobId" in record}


def test_the_suite_finishes(story):
    assert story.finished.returncode == 0, story.finished.output
    for run in story.runs:
        assert len(read_receipt(run.training_receipt)["epoch_seconds"]) == EPOCHS
        assert read_receipt(run.validation_receipt)["cases"]


def test_jobs_of_the_killed_driver_are_cancelled(story):
    states = {jobs()[job]["JobState"] for job in story.abandoned}
    assert "CANCELLED" in states
    assert states <= {"CANCELLED", "COMPLETED"}  # some may end before the next driver starts


def test_a_killed_training_is_tried_again_and_goes_on(story):
    assert [job["JobState"] for job in jobs().values()].count("FAILED") == 1
    attempts = tiny_suite.epochs(story.killed)
    assert len(attempts) > 1
    for before, after in itertools.pairwise(attempts):
        first = 0 if before == [0] else 1  # an attempt that a driver's end met in its first epoch left no checkpoint
        assert first <= after[0] <= before[-1] + 1
    assert attempts[-1][-1] == EPOCHS - 1


def test_jobs_ask_for_what_the_suite_says(story):
    for job in jobs().values():
        assert (job["NumCPUs"], job["MinMemoryNode"], job["TimeLimit"]) == ("1", "1G", "00:12:00")
        assert "TresPerJob" not in job


def test_nothing_is_left_behind(story, root):
    assert not queued()
    assert subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip() == "idle"
    assert not tiny_suite.processes(root)


def test_a_second_run_submits_nothing(story, root):
    before = jobs().keys()
    again = tiny_suite.benchmark("run", root / "tiny.toml", "--executor", "slurm")
    assert again.returncode == 0, again.output
    assert jobs().keys() == before


def test_what_slurm_does_not_take_is_said_once(story, root):
    suite_file = tiny_suite.write_suite(
        root / "nowhere.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}", epochs=1, retries=1
    )
    with suite_file.open("a") as file:  # the table of resources is the last
        file.write("slurm_constraint = 'nowhere'\n")
    failed = tiny_suite.benchmark("run", suite_file, "--executor", "slurm")
    assert failed.returncode == 1
    assert failed.output.count("Slurm does not take a job (sbatch: error: ") == 1
    assert "Invalid feature specification): correct the suite's [resources]" in failed.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch would take Slurm's fake GPUs for its real ones")
def test_a_training_on_gpus_asks_for_one_and_its_failure_is_said_in_a_sentence(story, root):
    before = jobs().keys()
    suite_file = tiny_suite.write_suite(
        root / "gpu.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}", epochs=1, device="cuda", retries=0
    )
    with suite_file.open("a") as file:  # the table of resources is the last
        file.write("slurm_gpu = 'fake'\nslurm_constraint = 'small|large'\nslurm_extra = '--requeue --nice=7'\n")
    failed = tiny_suite.benchmark("run", suite_file, "--executor", "slurm")
    new = [job for name, job in jobs().items() if name not in before]
    assert len(new) == 2  # torch finds no GPU: both folds fail, and nothing comes after them
    assert all(job["TresPerJob"].endswith("gpu:fake:1") for job in new)
    assert {(job["Features"], job["Requeue"], job["Nice"]) for job in new} == {("small|large", "1", "7")}
    assert failed.returncode == 1
    assert "Not everything succeeded" in failed.output.splitlines()[-1]
