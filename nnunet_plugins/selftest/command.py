"""The command ``nnunet-plugins selftest``: whether every main trainer trains and predicts on this machine."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from nnunet_plugins import _startup
from nnunet_plugins import trainers as table
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, usable_cores, write_json
from nnunet_plugins.processes import end, exit_on_signals, python_call
from nnunet_plugins.selftest.data import planned
from nnunet_plugins.selftest.report import Outcome, ending, print_report, row_of, versions
from nnunet_plugins.trainers import find_trainer

MAIN_TRAINERS = ("nnUNetTrainer", *(name for name in table.MAIN_TRAINERS if name not in table.HALVES))
"""nnU-Net's own trainer, to compare with, and the methods of the papers."""
PATHS = {_startup.SEARCH_PATH_VARIABLE, "NNUNET_PLUGINS_WEIGHTS", "NNUNET_PLUGINS_STAGE1"}
"""Settings of the user's that are paths."""


class Size(NamedTuple):
    """Size of the test on a kind of device."""

    patch: int
    """Edge of the images and patches in pixels."""
    batch: int
    iterations: int
    """Training steps of an epoch."""


SIZES = {"cuda": Size(patch=256, batch=4, iterations=12), "cpu": Size(patch=64, batch=2, iterations=4)}
EPOCHS = 2
"""Epochs of a training: one for each stage of ConDSeg."""
TIME_LIMIT = 1200.0
"""Seconds after which a process counts as hanging."""
DATA = ("nnunet_plugins.selftest.data", "main")
"""Module and function of the process that prepares the dataset."""
TRIAL = ("nnunet_plugins.selftest.trial", "main")
"""Module and function of a trainer's process."""
LOG_LINES = 15
"""Last lines of a failed trainer's output that are shown."""


def run_selftest(trainers: Sequence[str], device: str | None, json_file: Path | None) -> bool:
    """Test the trainers, print the table, and return whether all have passed.

    Args:
        trainers: names without a length; none for all main trainers.
        device: ``cuda``, ``cpu``, or ``None`` for a GPU if there is one.
        json_file: file for the report, if wanted.

    Raises:
        UserError: an argument or the installed nnU-Net will not do, or the data could not be prepared.
    """
    require_nnunet()
    device = usable_device(device)
    names = list(dict.fromkeys(trainers or MAIN_TRAINERS))
    check_trainers(names)
    if json_file is not None and json_file.is_dir():
        raise UserError(f"--json {json_file} is a folder: give the name of a file.")
    report = run_trials(names, device, json_file)
    print_report(report)
    return all(row["passed"] for row in report["trainers"])


def write_report(file: Path, report: dict[str, Any]) -> None:
    try:
        write_json(file, report)
    except OSError as error:
        raise UserError(f"--json {file} cannot be written ({error.strerror}): give another file.") from error


def usable_device(device: str | None) -> str:
    """Return the device, or the best that there is.

    Raises:
        UserError: a GPU is wanted, and torch sees none.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "--device cuda: torch sees no GPU here; 'nnunet-plugins doctor' says why, and --device cpu tests without."
        )
    return device or ("cuda" if available else "cpu")


def check_trainers(names: Iterable[str]) -> None:
    """Refuse names for which nnU-Net finds no trainer.

    Raises:
        UserError: with the name.
    """
    _startup.extend()
    for name in names:
        try:
            find_trainer(with_length(name, 1))
        except AttributeError as error:
            raise UserError(
                f"There is no trainer {name!r} whose length can be chosen: give names without a length, which "
                "`nnunet-plugins list` prints or nnU-Net finds."
            ) from error


def with_length(name: str, iterations: int) -> str:
    return f"{name}_{EPOCHS}epochs_{iterations}iterations"


# ---- the test --------------------------------------------------------------------------------------------------------


def run_trials(names: Sequence[str], device: str, json_file: Path | None) -> dict[str, Any]:
    """Prepare the data, try one trainer after the other, and write the report so far after each."""
    size = SIZES[device]
    with (
        exit_on_signals(),
        tempfile.TemporaryDirectory(prefix="nnunet_plugins_selftest_") as temporary,
        tqdm(total=1 + len(names), unit="step", file=sys.stderr) as bar,
    ):
        folder = Path(temporary)
        bar.set_description("synthetic data")
        prepare(folder, size)
        bar.update()
        plan, rows = planned(folder / "preprocessed"), []
        for name in names:
            bar.set_description(name)
            rows.append(row_of(name, *try_trainer(folder, name, device, size)))
            report = report_of(rows, plan, device, size)
            if json_file is not None:
                write_report(json_file, report)
            bar.update()
    return report


def report_of(rows: Sequence[dict[str, Any]], plan: Mapping[str, Any], device: str, size: Size) -> dict[str, Any]:
    """Report on the trainers that have been tried."""
    gpu = next((row["gpu"] for row in rows if row["gpu"]), None)
    return {
        "device": device,
        "patch": plan["patch_size"],
        "batch": plan["batch_size"],
        "epochs": EPOCHS,
        "iterations": size.iterations,
        "versions": versions(device, gpu),
        "trainers": [{key: value for key, value in row.items() if key != "gpu"} for row in rows],
    }


def prepare(folder: Path, size: Size) -> None:
    """Let a process draw, plan and preprocess the dataset.

    Raises:
        UserError: it failed.
    """
    arguments = ["selftest data", str(size.patch), str(size.batch)]
    outcome = run_process(python_call(*DATA, arguments), folder, "data.log")
    if outcome.exit_code != 0:
        raise UserError(
            f"nnU-Net cannot plan and preprocess synthetic images here (the process {ending(outcome)}): see the end of "
            "its output\n\n" + "\n".join(outcome.log)
        )


def try_trainer(folder: Path, name: str, device: str, size: Size) -> tuple[dict[str, Any], Outcome]:
    """Let a process train and predict, and return its record and its end; its model is removed."""
    record_file = folder / "records" / f"{name}.json"
    arguments = [name, with_length(name, size.iterations), device, str(record_file)]
    outcome = run_process(python_call(*TRIAL, arguments), folder, f"{name}.log")
    shutil.rmtree(folder / "results", ignore_errors=True)
    return (read_json(record_file) if record_file.exists() else {}), outcome


def run_process(command: list[str], folder: Path, log: str) -> Outcome:
    """Run a command in the temporary folder until it ends or takes too long; no process of it is left."""
    path, start = folder / log, time.monotonic()
    with path.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment_of(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            exit_code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            end(process)
            process.wait()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(exit_code, time.monotonic() - start, lines[-LOG_LINES:])


def environment_of(folder: Path) -> dict[str, str]:
    """Environment of nnU-Net in the temporary folder; of the user's settings, those of trainers and compiling stay."""
    kept = ("nnUNet_compile", _startup.SEARCH_PATH_VARIABLE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_") or name in kept}
    for name in PATHS & environment.keys():  # of the folder in which the user is, as the trial's is another one
        entries = environment[name].split(os.pathsep)
        environment[name] = os.pathsep.join(os.path.abspath(entry) for entry in entries if entry.strip())
    workers = str(max(1, min(4, usable_cores() // 2)))
    return {
        "NNUNET_PLUGINS_SEED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        **environment,
        **{f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")},
        **dict.fromkeys(("nnUNet_def_n_proc", "nnUNet_n_proc_DA"), workers),
        _startup.SEARCH_PATH_VARIABLE: _startup.search_path(environment.get(_startup.SEARCH_PATH_VARIABLE)),
        "PYTHONUNBUFFERED": "1",
    }
