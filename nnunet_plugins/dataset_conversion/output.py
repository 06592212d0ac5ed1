"""The dataset's folder in ``nnUNet_raw`` and its folds in ``nnUNet_preprocessed``, written whole or not at all."""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nnunet_plugins import __version__
from nnunet_plugins.dataset_conversion.cases import Row
from nnunet_plugins.dataset_conversion.dataset import Dataset
from nnunet_plugins.dataset_conversion.source import UNPACKED
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.files import atomic_write, read_json, write_json
from nnunet_plugins.nnunet_folders import (
    PREPROCESSED,
    RAW,
    RESULTS,
    SPLITS,
    Split,
    find_nnunet_folder,
    read_splits_or_none,
    splits_path,
)

REPORT, DESCRIPTION = "conversion_report.csv", "dataset.json"


@contextmanager
def temporary_dataset(folder: Path, remedy: str = "set nnUNet_raw to a folder of yours") -> Iterator[None]:
    """Make a folder to write a dataset into, and remove it afterwards unless it was renamed.

    Args:
        folder: the folder.
        remedy: what to do where it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be made ({error.strerror}): {remedy}") from error
    try:
        folder.mkdir()
    except FileExistsError:
        raise UserError(
            f"{folder} is there: another conversion is writing it, or one was killed; then remove it (and {UNPACKED}*)"
        ) from None
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written ({error.strerror}): {remedy}") from error
    try:
        for part in ("images", "labels"):
            (folder / part).mkdir()
        yield
    except OSError as error:
        raise UserError(
            f"{folder} could not be completed ({reason(error)}): make room, or check its permissions"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def complete_dataset(
    folder: Path,
    dataset: Dataset,
    source: Path,
    record: Mapping[str, Any],
    rows: Sequence[Row],
    folds: Sequence[Split],
) -> None:
    """Bring the written cases into nnU-Net's layout, and add ``dataset.json``, the report and the folds."""
    move_to_parts(folder, rows, dataset.file_ending)
    write_dataset_json(folder / DESCRIPTION, dataset, source, record, rows)
    write_report(folder / REPORT, rows)
    if folds:
        write_json(folder / SPLITS, folds, indent=4)


def move_to_parts(folder: Path, rows: Iterable[Row], ending: str) -> None:
    """Move files from ``images`` and ``labels`` to ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs``."""
    parts = {row.case: row.part for row in rows if row.part}
    for kind in ("images", "labels"):
        for part in sorted(set(parts.values())):
            (folder / f"{kind}{part}").mkdir()
        for path in (folder / kind).iterdir():
            stem = path.name.removesuffix(ending)
            case = stem[: -len("_0000")] if kind == "images" else stem
            path.rename(folder / f"{kind}{parts[case]}" / path.name)
        (folder / kind).rmdir()
    with suppress(OSError):
        (folder / "labelsTs").rmdir()  # which is empty if the labels of the test set are not known


def write_dataset_json(
    path: Path, dataset: Dataset, source: Path, record: Mapping[str, Any], rows: Sequence[Row]
) -> None:
    description: dict[str, Any] = {
        "name": dataset.folder_name,
        "description": dataset.title,
        "reference": dataset.page,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "converted_by": f"nnunet-plugins {__version__}",
        "conversion": dict(record),
        "source": str(source),
        "channel_names": {str(index): channel for index, channel in enumerate(dataset.channels)},
        "labels": dict(dataset.labels),
        "numTraining": sum(row.part == "Tr" for row in rows),
        "file_ending": dataset.file_ending,
    }
    if dataset.regions:
        ignored = {"ignore": dataset.labels["ignore"]} if "ignore" in dataset.labels else {}
        regions = {name: list(values) for name, values in dataset.regions.items()}
        description["labels"] = {"background": 0} | regions | ignored
        description["regions_class_order"] = list(range(1, 1 + len(dataset.regions)))
    write_json(path, description, indent=4)


def write_report(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read_conversion(folder: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Read the options that a dataset was converted with, and the hash of each case's source files.

    Raises:
        UserError: the dataset has no such record, and cannot be made again.
    """
    try:
        record = read_json(folder / DESCRIPTION)["conversion"]
        with (folder / REPORT).open(newline="", encoding="utf-8") as file:
            return record, {row["case"]: row["sha256"] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:  # a UserError is one too
        raise UserError(
            f"{folder} has no record of a conversion, and is therefore never replaced: give another --dataset-id, or "
            "move it away"
        ) from error


def refuse_to_replace(target: Path, read: Iterable[Path], remedy: str) -> None:
    """Check that a folder that will be replaced holds nothing that this conversion reads.

    Args:
        target: the folder.
        read: what is read.
        remedy: how to choose another folder.

    Raises:
        UserError: a file to be read lies in the folder, or the folder among what is read.
    """
    folder = target.resolve()
    for path in read:
        if folder in (place := path.resolve(), *place.parents):
            raise UserError(f"{path} lies in {target}, which this conversion would replace: {remedy}")


# ---- numbers of datasets and folds in nnU-Net's folders --------------------------------------------------------------


def refuse_taken_id(dataset_id: int, name: str) -> None:
    """Check that no other dataset has this number, by which nnU-Net knows datasets, in any of nnU-Net's folders.

    Raises:
        UserError: another dataset has the number, or it is no number for a dataset.
    """
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id {dataset_id}: nnU-Net's datasets have numbers from 1 to 999")
    for variable in (RAW, PREPROCESSED, RESULTS):
        folder = find_nnunet_folder(variable) or Path(os.devnull)
        for other in sorted(folder.glob(f"Dataset{dataset_id:03}_*")) if folder.is_dir() else []:
            if other.name != name:
                raise UserError(f"The number {dataset_id} belongs to {other}: give another --dataset-id")


def refuse_other_splits(name: str, folds: Sequence[Split], overwrite: bool) -> None:
    """Check that nnU-Net has no folds for the dataset, or these.

    Raises:
        UserError: nnU-Net has other folds, which trained models may rest on.
    """
    path = splits_path(name)
    if path and path.exists() and not overwrite and read_splits_or_none(path) != list(folds):
        raise UserError(f"{path} has other folds, on which trained models may rest: move it away, or give --overwrite")


def place_splits(dataset: Path, overwrite: bool) -> None:
    """Copy the dataset's folds to the place where nnU-Net looks for them, and say so.

    Raises:
        UserError: nnU-Net has other folds, or the file cannot be written.
    """
    folds = dataset / SPLITS
    path = splits_path(dataset.name)
    if not folds.exists():
        if path and overwrite:
            path.unlink(missing_ok=True)  # the folds of the dataset that was replaced
        return
    if path is None:
        print(
            f"{PREPROCESSED} is not set. For these folds, once it is: run this command again, or copy {folds} to "
            f"${PREPROCESSED}/{dataset.name}. Otherwise nnU-Net draws folds of its own."
        )
        return
    refuse_other_splits(dataset.name, read_splits_or_none(folds) or [], overwrite)
    try:
        with atomic_write(path) as temporary:
            shutil.copyfile(folds, temporary)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): copy {folds} there") from error
    print(f"Folds for nnU-Net: {path}")
