"""State of each run in words, from receipts, locks and logs: done, running, failed, stopped or waiting."""

import re
from pathlib import Path

from nnunet_plugins.benchmark.runs import Run, log_file, work_folder
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.locks import is_locked


def print_status(survey: Survey) -> None:
    """Print a line for each run, and how many are done."""
    width = max(len(str(run)) for run in survey.runs)
    for run in survey.runs:
        print(f"{run!s:{width}}  {in_words(survey, run)}")
    print(f"\n{len(survey.done)} of {len(survey.runs)} trainings done. Logs: {work_folder(survey.suite) / 'logs'}")


def in_words(survey: Survey, run: Run) -> str:
    """State of a run, e.g. ``running, epoch 3 of 100``."""
    suite, epochs = survey.suite, survey.suite.epochs_for(run.trainer)
    if survey.states[run].done:
        return "done"
    if is_locked(run.lock_file):
        return f"running, epoch {last_epoch(run)} of {epochs}"
    step, log = next_step(suite, run)
    if not log.exists():
        return "waiting"
    if "Traceback (most recent call last)" in last_attempt(log):
        return f"failed to {step}, see {log}"
    return f"stopped after epoch {last_epoch(run)} of {epochs}" if step == "train" else f"waiting to {step}"


def next_step(suite: Suite, run: Run) -> tuple[str, Path]:
    """First step of a run that has left no receipt, and its log."""
    receipts = {
        "plan": run.unfitted.plan_receipt,
        "fit": run.plan_receipt,
        "preprocess": run.preprocessing_receipt,
        "train": run.training_receipt,
        "validate": run.validation_receipt,
    }
    step = next((step for step, receipt in receipts.items() if not receipt.exists()), "validate")
    return step, log_file(suite, step, receipts[step])


def last_attempt(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rsplit("\n==== ", 1)[-1]


def last_epoch(run: Run) -> int:
    """Number of the last epoch that nnU-Net's logs of the fold show as finished, from 1; 0 if there is none."""
    logs = sorted(run.folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    epochs = 0
    for log in logs:
        for match in re.finditer(r"Epoch (\d+) *\n|Epoch time:", log.read_text(encoding="utf-8", errors="replace")):
            epochs = int(match[1]) if match[1] else epochs + 1
    return epochs
