"""Sources of preprocessed data, models and predictions, and whether they have changed since."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.jobs.receipts import read_receipt, shared_receipt
from nnunet_plugins.benchmark.runs import (
    Run,
    dataset_json,
    images_folder,
    planned_configuration,
    read_plans,
    read_splits,
)
from nnunet_plugins.benchmark.versions import Version, shared_digest, shared_json, version
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder
from nnunet_plugins.planning.names import NOTE

FOR_TRAINING_ALONE = ("inherits_from", "batch_size", "batch_dice", "patch_size", "architecture", "previous_stage")
"""Keys of a planned configuration that preprocessing does not read."""
NOTES = ("continue_training", NOTE)
"""Keys of plans that no training reads."""
OF_THE_NETWORK = ("channel_names", "labels", "regions_class_order")
"""Keys of ``dataset.json`` that decide what a network reads and predicts."""


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


def model_has_changed(run: Run) -> bool:
    """Whether the dataset's plans, channels or labels have changed since the model's training began."""
    trained_with = run.model / "plans.json"
    before, now = version(trained_with), version(run.plans_file)
    if before is None or now is None:
        return False
    if fitted_to_other_plans(run):
        return True
    read_plans(run)  # raises if they cannot be read
    return plans_differ(before, now, run.configuration) or description_differs(run)


@cache
def plans_differ(before: Version, now: Version, configuration: str) -> bool:
    """Whether a model's plans and those of its dataset say different things of the configuration."""
    remedies = f"move {before.path.parent} away and run the benchmark again", "plan the dataset again"
    trained_with = read_json(before.path, remedies[0])
    if not isinstance(trained_with, dict):
        raise UserError(f"{before.path} has no plans: {remedies[0]}")
    return used_plans(trained_with, configuration) != used_plans(shared_json(now.path, remedies[1]), configuration)


def used_plans(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """The part of plans that a training uses: its configuration, those that it builds on, and what all share."""
    configurations, used, left = plans.get("configurations") or {}, {}, [configuration]
    while left:
        name = left.pop()
        if name in configurations and name not in used:
            used[name] = configurations[name]
            left += [configurations[name].get("inherits_from"), configurations[name].get("previous_stage")]
    rest = {key: value for key, value in plans.items() if key not in NOTES}
    return rest | {"configurations": used}


def description_differs(run: Run) -> bool:
    """Whether a model was trained with other channels or labels than its dataset has now."""
    path = run.model / "dataset.json"
    if not path.exists():
        return False
    trained_with = shared_json(path, f"move {run.model} away and run the benchmark again")
    return any(trained_with.get(key) != dataset_json(run).get(key) for key in OF_THE_NETWORK)


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


def is_other_test_set(run: Run, part: str) -> bool:
    """Whether a test set has changed since it was predicted; files that only one of both machines has do not count."""
    if not run.test_note.exists():
        return False
    before, now = read_receipt(run.test_note).get(part, {}), content_of_test_set(run, part)
    return any(before[name] != now[name] for name in before.keys() & now.keys())


def content_of_test_set(run: Run, part: str) -> dict[str, int | str]:
    """Sizes of a test set's images and hashes of its segmentations, by their paths in the dataset."""
    return sizes_and_hashes(images_folder(run, part).parent, dataset_json(run)["file_ending"])


@cache  # a command reads them once, for however many runs
def sizes_and_hashes(dataset: Path, ending: str) -> dict[str, int | str]:
    images = {f"imagesTs/{path.name}": path.stat().st_size for path in dataset.glob(f"imagesTs/[!.]*{ending}")}
    return images | {f"labelsTs/{path.name}": digest(path) for path in dataset.glob(f"labelsTs/[!.]*{ending}")}


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
