"""Receipts of finished steps, notes of what they were made from, and whether both still hold.

A step writes its receipt last. A receipt holds while the files that it vouches for are there and unchanged, and a step
would do the same again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.benchmark.runs import TEST, Run, dataset_json, planned_configuration, read_plans, read_splits
from nnunet_plugins.files import digest, read_json
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder

FOR_TRAINING_ALONE = ("inherits_from", "batch_size", "batch_dice", "patch_size", "architecture", "previous_stage")
"""Keys of a planned configuration that preprocessing does not read."""


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


def read_receipt(path: Path) -> dict[str, Any]:
    """Content of a receipt or note.

    Raises:
        UserError: it cannot be read.
    """
    return read_json(path, remedy="remove it and run the benchmark again")


# ---- receipts --------------------------------------------------------------------------------------------------------


def is_planned(run: Run) -> bool:
    """Whether there are folds, and plans that have not changed since the plan step, nor those they are made from."""
    files = run.plan_receipt, run.plans_file, run.splits_file
    if not all(path.exists() for path in files) or read_receipt(run.plan_receipt) != plan_receipt(run):
        return False
    return run.unfitted == run or is_planned(run.unfitted)


def plan_receipt(run: Run) -> dict[str, str]:
    """Receipt of the run's plans as they are now."""
    if run.unfitted == run:
        return {"sha256": digest(run.plans_file)}
    return {"sha256": digest(run.plans_file), "from_sha256": digest(run.unfitted.plans_file)}


def is_preprocessed(run: Run) -> bool:
    """Whether the preprocessed data are complete and up to date."""
    return (
        is_planned(run.unfitted)
        and run.preprocessing_receipt.exists()
        and not (preprocessed_data_are_stale(run) or missing_cases(run))
    )


def state_of(run: Run, earlier: State | None = None) -> State:
    """State of a run.

    Args:
        run: the run.
        earlier: a state of the run; if the receipt is the same, files that had not changed are not hashed again, but
            must still be there.
    """
    if not run.training_receipt.exists():
        return State(trained=False, done=False, hashes={}, changed=[])
    receipt = read_receipt(run.training_receipt)
    hashes = receipt["sha256"]
    known = earlier is not None and earlier.hashes == hashes and not earlier.changed
    changed = missing_files(run.folder, hashes) if known else changed_files(run.folder, hashes)
    complete = set(run.parts) <= set(receipt["parts"])
    trained = complete and not (changed or plans_have_changed(run) or split_has_changed(run))
    return State(trained, trained and has_wanted_metrics(run), hashes, changed)


def has_wanted_metrics(run: Run) -> bool:
    """Whether the metrics are those of all parts, at the suite's tolerance."""
    if not run.validation_receipt.exists():
        return False
    receipt = read_receipt(run.validation_receipt)
    return receipt["tolerance"] == run.data.tolerance and set(run.parts) <= set(receipt["parts"])


def missing_files(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if not (folder / name).exists()]


def changed_files(folder: Path, hashes: Mapping[str, str]) -> list[Path]:
    """Files that are gone or whose hash differs; of checkpoints, too large to read each time, only those gone."""
    files = ((folder / name, sha) for name, sha in hashes.items())
    return [path for path, sha in files if not path.exists() or (path.suffix != ".pth" and digest(path) != sha)]


def discard_stale_receipts(states: Mapping[Run, State]) -> None:
    """Remove the receipts of steps that must be done again, or will be refused."""
    for run, state in states.items():
        if state.done:
            continue
        run.validation_receipt.unlink(missing_ok=True)
        if state.trained:
            continue
        for path in state.changed:
            if path.parent.name == TEST:  # no summary of nnU-Net's tells that it has changed
                path.unlink(missing_ok=True)
        run.training_receipt.unlink(missing_ok=True)
        if not is_preprocessed(run):
            run.preprocessing_receipt.unlink(missing_ok=True)
        for planned in (run, run.unfitted):
            if not is_planned(planned):
                planned.plan_receipt.unlink(missing_ok=True)


# ---- what data and models were made from -----------------------------------------------------------------------------


def preprocessed_data_are_stale(run: Run) -> bool:
    """Whether the labels, or what the plans say of the data, have changed since preprocessing."""
    if not run.source_note.exists():
        return False
    now = current_source(run)
    if not notes_differ(read_receipt(run.source_note), now):
        return False
    written = run.source_note.stat().st_mtime_ns
    later = [path for path in run.preprocessed.glob("bench_source_*.json") if path.stat().st_mtime_ns > written]
    return all(notes_differ(read_receipt(path), now) for path in later)  # other plans may share the data


def plans_have_changed(run: Run) -> bool:
    """Whether the dataset's plans have changed since the model's training began."""
    trained_with = run.model / "plans.json"
    if not (trained_with.exists() and run.plans_file.exists()):
        return False
    if fitted_to_other_plans(run):
        return True
    before = read_json(trained_with, remedy=f"move {run.model} away and run the benchmark again")
    now = read_plans(run)
    for plans in (before, now):
        plans.pop("continue_training", None)  # nnU-Net's own note, not part of the plans
    return before != now


def fitted_to_other_plans(run: Run) -> bool:
    """Whether the run's plans were made for a GPU from plans of the dataset that have changed since."""
    if run.unfitted == run or not (run.plan_receipt.exists() and run.unfitted.plans_file.exists()):
        return False
    return read_receipt(run.plan_receipt)["from_sha256"] != digest(run.unfitted.plans_file)


def split_has_changed(run: Run) -> bool:
    """Whether the fold's cases or labels have changed since its training began."""
    return (
        run.split_note.exists()
        and run.splits_file.exists()
        and notes_differ(read_receipt(run.split_note), current_split(run))
    )


def current_source(run: Run) -> dict[str, Any]:
    """Hash of the labels and all in the plans from which preprocessing would make its data now."""
    plans = read_plans(run.unfitted)
    content = {name: plans.get(name) for name in ("transpose_forward", "foreground_intensity_properties_per_channel")}
    content |= {
        name: value for name, value in planned_configuration(run.unfitted).items() if name not in FOR_TRAINING_ALONE
    }
    return content | {"labels": labels_digest(run)}


def current_split(run: Run) -> dict[str, Any]:
    """Cases of the fold and hash of the labels with which a training would begin now."""
    splits = read_splits(run)
    fold: dict[str, Any] = dict(splits[run.fold]) if run.fold < len(splits) else {}
    return fold | {"labels": labels_digest(run)}


def notes_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two notes say different things; labels are only compared where both know them."""
    unknown = before.get("labels") is None or now.get("labels") is None
    return any(before.get(name) != now.get(name) for name in {*before, *now} - ({"labels"} if unknown else set()))


def labels_digest(run: Run) -> str | None:
    """Hash of all training cases' segmentations; None if the raw data are not on this machine."""
    return folder_digest(nnunet_folder(RAW) / run.dataset / "labelsTr")


@cache  # a command reads them once, for however many runs
def folder_digest(folder: Path) -> str | None:
    """Hash of the names and contents of a folder's files; None if there are none."""
    files = [f"{path.name} {digest(path)}\n" for path in sorted(folder.glob("[!.]*"))]
    return hashlib.sha256("".join(files).encode()).hexdigest() if files else None


def missing_cases(run: Run) -> set[str]:
    """Cases of the folds that lack a reference or their properties, which nnU-Net writes after the image."""
    ending = dataset_json(run)["file_ending"]
    folder = run.preprocessed / planned_configuration(run.unfitted)["data_identifier"]
    known = {path.stem for path in folder.glob("*.pkl")}
    known &= {path.name.removesuffix(ending) for path in (run.preprocessed / "gt_segmentations").glob(f"*{ending}")}
    return {case for fold in read_splits(run) for cases in fold.values() for case in cases} - known
