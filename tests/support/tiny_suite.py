"""A suite of small trainings for the tests of the benchmark: its data, its driver, its processes, what they do."""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import read_suite
from support import cell_datasets

EPOCHS = 6  # long enough to be killed on the way
NUM_CASES = 6
MARK = "TINY_SUITE"  # in the environment of all processes of a suite

FILE = """
name = "tiny"
trainers = {trainers}
reference = "nnUNetTrainer"
epochs = {epochs}
repeats = {repeats}
iterations = 2
folds = [0, 1]
datasets = [{datasets}]

[resources]
device = "{device}"
cpus = 1
memory_gb = 1
hours = 0.2
retries = {retries}
"""


def use_tiny_datasets(root: Path, monkeypatch: pytest.MonkeyPatch, *dataset_ids: int) -> None:
    """Raw datasets in folders of the test's own; trainings load data in their own process."""
    cell_datasets.use_nnunet_folders(root, monkeypatch)
    for dataset_id in dataset_ids:
        cell_datasets.write_raw_dataset(dataset_id, NUM_CASES)
        cell_datasets.extract_fingerprint(dataset_id)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv(MARK, str(root))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # users do not have it


def write_suite(
    path: Path,
    trainers: tuple[str, ...],
    *datasets: str,
    epochs: int = EPOCHS,
    device: str = "cpu",
    retries: int = 2,
    repeats: int = 1,
) -> Path:
    path.write_text(
        FILE.format(
            trainers=list(trainers),
            datasets=", ".join(datasets),
            epochs=epochs,
            device=device,
            retries=retries,
            repeats=repeats,
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

    def wait_until(self, condition: Callable[[], Any], timeout: float = 240) -> Any:
        """Wait for something that happens while it works; the first value of the condition that is true."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert self.process.poll() is None, f"it has ended too early: {self.output.read_text()}"
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)
        return value

    def training(self) -> Run | None:
        """A training that is in its middle."""
        return next((run for run in self.runs if is_training(run)), None)

    def wait(self, timeout: float = 400) -> Finished:
        return Finished(self.process.wait(timeout), self.output.read_text())

    def end(self, signal_number: int) -> Finished:
        self.process.send_signal(signal_number)
        return self.wait(60)


COMMAND = (sys.executable, "-m", "nnunet_plugins", "benchmark")


def benchmark(*arguments: object) -> Finished:
    """A command that ends soon."""
    finished = subprocess.run(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    return Finished(finished.returncode, finished.stdout)


def epochs(run: Run) -> list[list[int]]:
    """The epochs of each of its attempts, from the logs that nnU-Net writes."""
    logs = (path.read_text() for path in sorted(run.folder.glob("training_log_*.txt")))
    attempts = [[int(epoch) for epoch in re.findall(r": Epoch (\d+) *$", log, re.MULTILINE)] for log in logs]
    return [attempt for attempt in attempts if attempt]


def is_training(run: Run) -> bool:
    """Whether the fold is in the middle: a checkpoint is written, and epochs are left."""
    attempts = epochs(run)
    return bool(attempts) and 2 <= attempts[-1][-1] < EPOCHS - 1 and len(attempts[-1]) > 1 and bool(processes_of(run))


def processes_of(run: Run) -> list[psutil.Process]:
    """The processes that train the fold; not the shells that wait for them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[-3:-2] == ["train"] and command[-1] == str(run.training_receipt):
            found.append(process)
    return found


def processes(root: Path) -> list[psutil.Process]:
    """All processes of the suites in that folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(root):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended; in a container, nobody may have asked for its status."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def have_ended(processes: Iterable[psutil.Process], timeout: float) -> bool:
    """Whether all of them end in time."""
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
    """Hashes of all files, but those that must change."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files(root)}


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in files(root)}


def files(root: Path) -> Iterator[Path]:
    dated = ("record.json", "report.html")  # they say when they were written
    for path in root.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts and path.name not in dated:
            yield path
