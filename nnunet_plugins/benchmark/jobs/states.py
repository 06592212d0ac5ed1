"""How far each step of a run has come: whether its receipt is there and holds."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.benchmark.jobs.receipts import receipt_values, shared_receipt
from nnunet_plugins.benchmark.jobs.sources import (
    is_other_test_set,
    missing_cases,
    model_has_changed,
    preprocessed_data_are_stale,
    split_has_changed,
)
from nnunet_plugins.benchmark.runs import Run, is_test_set, predictions
from nnunet_plugins.benchmark.versions import shared_digest
from nnunet_plugins.files import digest


class State(NamedTuple):
    """How far a run has come, as its receipts and files say."""

    trained: bool
    """Whether it has been trained as it would be trained now: with these plans and cases, test set included."""
    done: bool
    """Whether its metrics are there too, as the suite wants them."""
    hashes: dict[str, str]
    """Hashes in the receipt of the training."""
    changed: list[Path]
    """Files that the receipt of the training vouches for and that are gone or different."""
    dice: float | None = None
    """Mean Dice of the validation cases of a run that is done, if its receipt has it."""


def is_planned(run: Run) -> bool:
    """Whether there are folds, and plans that have not changed since the plan step, nor those they are made from."""
    files = run.plan_receipt, run.plans_file, run.splits_file
    if not all(path.exists() for path in files) or shared_receipt(run.plan_receipt) != plan_receipt(run):
        return False
    return run.unfitted == run or is_planned(run.unfitted)


def plan_receipt(run: Run) -> dict[str, str]:
    """Receipt of the run's plans as they are now."""
    if run.unfitted == run:
        return {"sha256": shared_digest(run.plans_file)}
    return {"sha256": shared_digest(run.plans_file), "from_sha256": shared_digest(run.unfitted.plans_file)}


def is_preprocessed(run: Run) -> bool:
    """Whether the preprocessed data are complete and up to date."""
    return (
        is_planned(run.unfitted)
        and run.preprocessing_receipt.exists()
        and not (preprocessed_data_are_stale(run) or missing_cases(run))
    )


def state_of(run: Run, earlier: State | None = None, thorough: bool = True) -> State:
    """State of a run.

    Args:
        run: the run.
        earlier: a state of the run; if the receipt is the same, files that had not changed are not hashed again, but
            must still be there.
        thorough: whether files are hashed that nobody has written to since the receipt was written.
    """
    if not run.training_receipt.exists():
        return State(trained=False, done=False, hashes={}, changed=[])
    receipt = receipt_values(run.training_receipt, "sha256", "parts")
    hashes = receipt["sha256"]
    known = earlier is not None and earlier.hashes == hashes and not earlier.changed
    since = None if thorough else run.training_receipt.stat().st_mtime_ns
    changed = missing_files(run.folder, hashes) if known else changed_files(run.folder, hashes, since)
    other_tests = any(is_other_test_set(run, part) for part in run.test_sets)
    complete = set(run.parts) <= set(receipt["parts"]) and wanted_predictions(run) <= hashes.keys()
    trained = complete and not (changed or other_tests or model_has_changed(run) or split_has_changed(run))
    metrics = wanted_metrics(run) if trained else None
    return State(trained, metrics is not None, hashes, changed, (metrics or {}).get("dice"))


def wanted_predictions(run: Run) -> set[str]:
    """Files with the predictions of the test sets, which may have grown; relative to the fold's folder."""
    return {f"{part}/{path.name}" for part in run.test_sets for path in predictions(run, part).values()}


def wanted_metrics(run: Run) -> dict[str, Any] | None:
    """Head of the receipt of the metrics; None if they are not those of all parts, at the suite's tolerance."""
    if not run.validation_receipt.exists():
        return None
    receipt = receipt_values(run.validation_receipt, "tolerance", "parts", optional="dice")
    complete = set(run.parts) <= set(receipt["parts"])
    return receipt if complete and receipt["tolerance"] == run.data.tolerance else None


def missing_files(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if last_change(folder, name) is None]


def changed_files(folder: Path, hashes: Mapping[str, str], since: int | None = None) -> list[Path]:
    """Files that are gone or whose hash differs; of checkpoints, too large to read each time, only those gone.

    Args:
        folder: where they are.
        hashes: expected hashes by name.
        since: a time, in ns; files that were last changed before it are not hashed. Copying changes a file too, even
            if the copy has the time of modification of the original.
    """
    missing, differing = [], []
    for name, expected in hashes.items():
        changed = last_change(folder, name)
        if changed is None:
            missing.append(folder / name)
        elif not name.endswith(".pth") and (since is None or changed >= since) and digest(folder / name) != expected:
            differing.append(folder / name)
    return missing + differing


def last_change(folder: Path, name: str) -> int | None:
    """Time, in ns, at which a file's content or status last changed, which no program can set; None: it is gone."""
    try:
        return os.stat(f"{folder}/{name}").st_ctime_ns
    except (OSError, ValueError):
        return None


def discard_stale_receipts(states: Mapping[Run, State]) -> None:
    """Remove the receipts of steps that must be done again, or will be refused."""
    untrained = [run for run, state in states.items() if not state.trained]
    for run in untrained:
        for path in states[run].changed:
            if is_test_set(path.parent.name):  # no summary of nnU-Net's tells that it has changed
                path.unlink(missing_ok=True)
        run.training_receipt.unlink(missing_ok=True)
    for run, state in states.items():
        if not state.done:
            run.validation_receipt.unlink(missing_ok=True)
    for receipt, run in {run.preprocessing_receipt: run for run in untrained}.items():
        if not is_preprocessed(run):
            receipt.unlink(missing_ok=True)
    for receipt, run in {run.plan_receipt: run for one in untrained for run in (one, one.unfitted)}.items():
        if not is_planned(run):
            receipt.unlink(missing_ok=True)
