"""A suite of small trainings for the tests of the benchmark: its data, its driver, its processes, its results."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.runs import SUMMARY, VALIDATION, Run, runs
from nnunet_plugins.benchmark.suite import Data, Resources, Suite, read_suite
from support import cell_datasets
from support.cell_datasets import LABELS

EPOCHS = 6  # long enough to be killed on the way
NUM_CASES = 6
ONE_TRAINER = Suite("tiny", ("A",), "A", 2, (Data(LABELS),), folds=(0, 1), resources=Resources("cpu", cpus=1))
"""A suite of a trainer that does not exist, for tests that train nothing."""
MARK = "TINY_SUITE"  # in the environment of all processes of a suite

FILE = """
name = "tiny"
trainers = {trainers}
reference = "nnUNetTrainer"
epochs = {epochs}
iterations = 2
folds = {folds}
datasets = [{datasets}]

[resources]
device = "{device}"
cpus = 1
memory_gb = 1
hours = 0.2
retries = {retries}
"""


@contextmanager
def tiny_datasets(root: Path, dataset_id: int) -> Iterator[pytest.MonkeyPatch]:
    """A raw dataset in folders of the test's own, in which trainings load data in their own process.

    Ends all processes that work there and removes the folders afterwards.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        cell_datasets.write_raw_dataset(dataset_id, NUM_CASES)
        cell_datasets.extract_fingerprint(dataset_id)
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        monkeypatch.setenv(MARK, str(root))
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # users do not have it
        yield monkeypatch
    end_all(root)
    shutil.rmtree(root)


def write_suite(
    path: Path,
    trainers: tuple[str, ...],
    *datasets: str,
    epochs: int = EPOCHS,
    device: str = "cpu",
    retries: int = 2,
    folds: tuple[int, ...] = (0, 1),
) -> Path:
    path.write_text(
        FILE.format(
            trainers=list(trainers),
            datasets=", ".join(datasets),
            epochs=epochs,
            device=device,
            retries=retries,
            folds=list(folds),
        )
    )
    return path


class Finished(NamedTuple):
    returncode: int
    output: str


class Driver:
    """``nnunet-plugins benchmark run`` in a process of its own."""

    def __init__(self, suite_file: Path, *options: str):
        self.runs = runs(read_suite(suite_file))
        self.output = suite_file.with_name(f"driver_{time.time_ns()}.log")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*COMMAND, "run", suite_file, *options], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def wait_until(self, condition: Callable[[], Any], timeout: float = 600) -> Any:
        """Wait until a condition is true while the driver works; returns its value."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert self.process.poll() is None, f"it has ended too early: {self.output.read_text()}"
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.1)
        return value

    def training(self) -> Run | None:
        """A run in the middle of its training, if there is one."""
        return next((run for run in self.runs if is_training(run)), None)

    def wait(self, timeout: float = 900) -> Finished:
        return Finished(self.process.wait(timeout), self.output.read_text())

    def end(self, signal_number: int) -> Finished:
        self.process.send_signal(signal_number)
        return self.wait(60)


COMMAND = (sys.executable, "-m", "nnunet_plugins", "benchmark")


def benchmark(*arguments: object) -> Finished:
    """Run a command that ends soon in a process of its own."""
    finished = subprocess.run(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    return Finished(finished.returncode, finished.stdout)


def epochs(run: Run) -> list[list[int]]:
    """Epochs of each attempt of a run, from the logs that nnU-Net writes."""
    logs = (path.read_text() for path in sorted(run.folder.glob("training_log_*.txt")))
    attempts = [[int(epoch) for epoch in re.findall(r": Epoch (\d+) *$", log, re.MULTILINE)] for log in logs]
    return [attempt for attempt in attempts if attempt]


def our_dice(run: Run) -> dict[tuple[str, str], float | None]:
    """Dice of each validation case and label in the receipt."""
    cases = read_receipt(run.validation_receipt)["cases"]
    return {(row["case"], row["key"]): row["Dice"] for row in cases if row["part"] == VALIDATION}


def nnunet_dice(run: Run) -> dict[tuple[str, str], float | None]:
    """Dice of each validation case and label in nnU-Net's own summary; None instead of NaN."""
    return {
        (Path(case["prediction_file"]).stem, key): None if isnan(scores["Dice"]) else scores["Dice"]
        for case in json.loads((run.folder / SUMMARY).read_text())["metric_per_case"]
        for key, scores in case["metrics"].items()
    }


def is_training(run: Run) -> bool:
    """Whether the run is in the middle of its training: a checkpoint is written, and epochs are left."""
    attempts = epochs(run)
    return bool(attempts) and 2 <= attempts[-1][-1] < EPOCHS - 1 and len(attempts[-1]) > 1 and bool(processes_of(run))


def processes_of(run: Run) -> list[psutil.Process]:
    """Processes that train the fold, without the shells that wait for them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[-3:-2] == ["train"] and command[-1] == str(run.training_receipt):
            found.append(process)
    return found


def processes(root: Path) -> list[psutil.Process]:
    """All processes of the suites in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(root):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether a process works: in a container, ended ones may stay as zombies."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def have_ended(processes: Iterable[psutil.Process], timeout: float) -> bool:
    """Whether all processes end within the time, in seconds."""
    end = time.monotonic() + timeout
    while any(map(is_alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def end_all(root: Path) -> None:
    for process in processes(root):
        with suppress(psutil.Error):
            process.kill()


def contents(root: Path) -> dict[str, str]:
    """Hash of each file that a second run must not change."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files(root)}


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in files(root)}


def files(root: Path) -> Iterator[Path]:
    dated = ("record.json", "report.html")  # they say when they were written
    for path in root.rglob("*"):
        is_lock = path.suffix == ".lock"  # it names the process that held it last
        if path.is_file() and ".snakemake" not in path.parts and path.name not in dated and not is_lock:
            yield path
