"""Receipts of finished steps, notes of what they were made from, and whether both still hold.

A step writes its receipt last. A receipt holds while the files that it vouches for are there and unchanged, and a step
would do the same again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.benchmark.runs import (
    Run,
    dataset_json,
    is_test_set,
    planned_configuration,
    read_plans,
    read_splits,
)
from nnunet_plugins.benchmark.versions import Version, shared_digest, shared_json, version
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder

FOR_TRAINING_ALONE = ("inherits_from", "batch_size", "batch_dice", "patch_size", "architecture", "previous_stage")
"""Keys of a planned configuration that preprocessing does not read."""


REMEDY = "remove it and run the benchmark again"


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


def read_receipt(path: Path, *keys: str) -> dict[str, Any]:
    """Content of a receipt or note.

    Args:
        path: the file.
        keys: what it must hold.

    Raises:
        UserError: it cannot be read, or does not hold that.
    """
    return checked(path, read_json(path, REMEDY), *keys)


def shared_receipt(path: Path) -> dict[str, Any]:
    """Content of a receipt that many runs share; see :func:`read_receipt`."""
    return checked(path, shared_json(path, REMEDY))


def checked(path: Path, content: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise UserError(f"{path} is no receipt of nnunet-plugins: {REMEDY}")
    return content


def receipt_values(path: Path, *keys: str, optional: str = "") -> dict[str, Any]:
    """Some values of a receipt, without parsing the others: curves and cases make it long.

    Args:
        path: the receipt.
        keys: what it must hold.
        optional: what it may hold too.

    Raises:
        UserError: as :func:`read_receipt`.
    """
    decoder, values = json.JSONDecoder(), {}
    try:
        text = path.read_text(encoding="utf-8")
        for key in (*keys, optional):
            before = f'\n "{key}": '  # as only a key of the outermost object stands in what write_json writes
            if key in keys or before in text:
                values[key] = decoder.raw_decode(text, text.index(before) + len(before))[0]
    except (OSError, ValueError, RecursionError):
        return read_receipt(path, *keys)
    return values


# ---- receipts --------------------------------------------------------------------------------------------------------


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
    complete = set(run.parts) <= set(receipt["parts"])
    trained = complete and not (changed or plans_have_changed(run) or split_has_changed(run))
    metrics = wanted_metrics(run) if trained else None
    return State(trained, metrics is not None, hashes, changed, (metrics or {}).get("dice"))


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
    before, now = version(trained_with), version(run.plans_file)
    if before is None or now is None:
        return False
    if fitted_to_other_plans(run):
        return True
    read_plans(run)  # raises if they cannot be read
    return plans_differ(before, now)


@cache
def plans_differ(before: Version, now: Version) -> bool:
    """Whether a model's plans and those of its dataset say different things, apart from a note of nnU-Net's own."""
    remedies = f"move {before.path.parent} away and run the benchmark again", "plan the dataset again"
    trained_with = read_json(before.path, remedies[0])
    if not isinstance(trained_with, dict):
        raise UserError(f"{before.path} has no plans: {remedies[0]}")
    note = {"continue_training": None}
    return trained_with | note != shared_json(now.path, remedies[1]) | note


def fitted_to_other_plans(run: Run) -> bool:
    """Whether the run's plans were made for a GPU from plans of the dataset that have changed since."""
    if run.unfitted == run or not (run.plan_receipt.exists() and run.unfitted.plans_file.exists()):
        return False
    return shared_receipt(run.plan_receipt).get("from_sha256") != shared_digest(run.unfitted.plans_file)


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
