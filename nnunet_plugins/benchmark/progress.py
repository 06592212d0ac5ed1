"""How far each run has come, from receipts, locks and logs: what status, the live table and the log of a run tell."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.benchmark.runs import SUMMARY, VALIDATION, Run, is_test_set, log_file, predictions
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.locks import is_locked
from nnunet_plugins.nnunet_folders import CHECKPOINTS

TAIL = 2**15
"""Bytes at the end of a log that are read first: those of some twenty epochs."""
EPOCH = re.compile(r": Epoch (\d+) *\n(.*?Epoch time: ([\d.]+) s)?", re.DOTALL)
DICE = re.compile(r"Pseudo dice \[(.*)\]")
NUMBER = re.compile(r"(?<!\w)(?:nan|\d+(?:\.\d*)?(?:e-?\d+)?)")
TRACEBACK = "Traceback (most recent call last)"
PREPARING = {"plan": "planning", "fit": "fitting plans", "preprocess": "preprocessing"}
"""Words for the steps of a dataset while another process is at them."""


class Progress(NamedTuple):
    """How far a run has come."""

    state: str
    """Its step, or why there is none: done, training, validating, failed to train, stopped, waiting and so on."""
    epochs: int = 0
    """Number of finished epochs."""
    dice: float | None = None
    """Mean Dice of the validation cases of a run that is done; nnU-Net's pseudo Dice of the last epoch of others."""
    seconds_left: float | None = None
    """Time that the training still needs, at the speed of the last epochs."""
    detail: str = ""
    """Further words on the state, e.g. the log that says why it failed."""
    tenths: int = 0
    """Tenths of the step's epochs or cases that are finished."""

    def __str__(self) -> str:
        return self.state + (f", {self.detail}" if self.detail else "")


class Epochs(NamedTuple):
    """The end of nnU-Net's log of a fold."""

    finished: int = 0
    dice: float | None = None
    seconds: float | None = None
    """Mean time of the last epochs."""


def progress_of(survey: Survey, run: Run) -> Progress:
    """Progress of a run of a survey."""
    if survey.states[run].done:
        return Progress("done", survey.suite.epochs_for(run.trainer), survey.states[run].dice)
    return progress_now(survey.suite, run)


def progress_now(suite: Suite, run: Run) -> Progress:
    """Progress of a run that is not done, as its files are now."""
    if is_locked(run.lock_file):
        return working(suite, run)
    step, log = next_step(suite, run)
    if step in PREPARING and is_locked(run.dataset_lock_file):
        return Progress(PREPARING[step])
    if log.exists() and TRACEBACK in last_attempt(log):
        return Progress(f"failed to {step}", last_epochs(run).finished, detail=f"see {log}")
    if step == "train":
        return stopped(run) if log.exists() or is_begun(run) else Progress("waiting")
    if step == "validate":
        return Progress("waiting to validate", suite.epochs_for(run.trainer), last_epochs(run).dice)
    return Progress(f"waiting to {step}" if log.exists() else "waiting")


def working(suite: Suite, run: Run) -> Progress:
    """Progress of a run that another process works on."""
    epochs, num_epochs = last_epochs(run), suite.epochs_for(run.trainer)
    if run.training_receipt.exists():
        return Progress("measuring", num_epochs, epochs.dice)
    if not (run.folder / CHECKPOINTS[0]).exists():
        left = None if epochs.seconds is None else epochs.seconds * max(0, num_epochs - epochs.finished)
        return Progress("training", epochs.finished, epochs.dice, left, tenths=10 * epochs.finished // num_epochs)
    state, part = "validating", VALIDATION
    if (run.folder / SUMMARY).exists() and (unpredicted := unpredicted_test_set(run)):
        state, part = "predicting the test set", unpredicted
    predicted, cases = num_predicted(run, part)
    detail = f"{predicted} of {cases} cases"
    return Progress(state, num_epochs, epochs.dice, detail=detail, tenths=10 * predicted // max(1, cases))


def stopped(run: Run) -> Progress:
    """Progress of a training that nobody works on; the next ``benchmark run`` goes on with it first."""
    epochs = last_epochs(run)
    return Progress("stopped", epochs.finished, epochs.dice)


def is_begun(run: Run) -> bool:
    """Whether a training has left a checkpoint to go on from."""
    return any((run.folder / name).exists() for name in CHECKPOINTS)


def unpredicted_test_set(run: Run) -> str | None:
    """First of the test sets that is not predicted yet."""
    for part in run.test_sets:
        if not all(path.exists() for path in predictions(run, part).values()):
            return part
    return None


def num_predicted(run: Run, part: str) -> tuple[int, int]:
    """Number of predicted cases, and of all."""
    expected = predictions(run, part)
    folder = run.folder / (f"{part}.partial" if is_test_set(part) else part)
    return sum((folder / path.name).exists() for path in expected.values()), len(expected)


def next_step(suite: Suite, run: Run) -> tuple[str, Path]:
    """First step of a run that has left no receipt, and its log."""
    step = next((step for step, receipt in run.receipts.items() if not receipt.exists()), "validate")
    return step, log_file(suite, step, run.receipts[step])


def last_attempt(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rsplit("\n==== ", 1)[-1]


def last_epochs(run: Run) -> Epochs:
    """Epochs that nnU-Net's logs of the fold show as finished, of the last attempt that has begun one."""
    logs = sorted(run.folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for text in (text for log in logs for text in ends_of(log)):
        begun = list(EPOCH.finditer(text))
        if begun:
            return epochs_of(text, begun)
    return Epochs()


def ends_of(log: Path) -> Iterator[str]:
    """The end of a log, and then the whole of it, should the end not do: validation tells of each case."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        for start in (size - TAIL, 0) if size > TAIL else (0,):
            file.seek(start)
            yield file.read().decode("utf-8", errors="replace")


def epochs_of(text: str, begun: list[re.Match[str]]) -> Epochs:
    finished = [match for match in begun if match[3]]
    seconds = [float(match[3]) for match in finished[-10:]]
    dice = [float(value) for found in DICE.findall(text)[-1:] for value in NUMBER.findall(found)]
    known = [value for value in dice if math.isfinite(value)]
    return Epochs(
        int(begun[-1][1]) + bool(begun[-1][3]),
        sum(known) / len(known) if known else None,
        sum(seconds) / len(seconds) if seconds else None,
    )
