"""The dataset's folder, from its first file to its last: nobody ever sees it half written."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nnunet_plugins import __version__
from nnunet_plugins.dataset_conversion.cases import Row
from nnunet_plugins.dataset_conversion.dataset import Dataset
from nnunet_plugins.dataset_conversion.source import UNPACKED
from nnunet_plugins.errors import UserError

REPORT, DESCRIPTION = "conversion_report.csv", "dataset.json"


@contextmanager
def nothing_half_written(folder: Path, dry_run: bool) -> Iterator[None]:
    """A folder to write into, that is gone afterwards: renamed to what it should be, or removed."""
    if dry_run:
        yield
        return
    try:
        folder.mkdir()
    except FileExistsError:
        raise UserError(
            f"{folder} is there: another conversion is writing it, or one was killed; then remove it (and {UNPACKED}*)"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written ({error.strerror}): set nnUNet_raw to a folder of yours"
        ) from error
    try:
        for part in ("images", "labels"):
            (folder / part).mkdir()
        yield
    except OSError as error:
        raise UserError(
            f"{folder} could not be completed ({error.strerror or error}): make room, or check its permissions"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_to_parts(folder: Path, rows: Iterable[Row], ending: str) -> None:
    """From ``images`` and ``labels`` to nnU-Net's ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs``."""
    parts = {row.case: row.part for row in rows if row.part}
    for kind in ("images", "labels"):
        for part in sorted(set(parts.values())):
            (folder / f"{kind}{part}").mkdir()
        for path in (folder / kind).iterdir():
            stem = path.name.removesuffix(ending)
            case = stem[: -len("_0000")] if kind == "images" else stem
            path.rename(folder / f"{kind}{parts[case]}" / path.name)
        (folder / kind).rmdir()


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
        description["labels"] = {"background": 0} | {name: list(values) for name, values in dataset.regions.items()}
        description["regions_class_order"] = list(range(1, 1 + len(dataset.regions)))
    path.write_text(json.dumps(description, indent=4), encoding="utf-8")


def write_report(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read_conversion(folder: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """What a dataset was converted with, and the hash of each case's source files.

    Raises:
        ValueError: it does not come from a converter.
    """
    try:
        record = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["conversion"]
        with (folder / REPORT).open(newline="", encoding="utf-8") as file:
            return record, {row["case"]: row["sha256"] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"no conversion in {folder}") from error


def replace_folder(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; what was there before is removed when the new one is in place."""
    before = backup(target)
    if target.exists():
        shutil.rmtree(before, ignore_errors=True)
        target.rename(before)
    try:
        folder.rename(target)
    except OSError:
        recover(target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def recover(target: Path) -> None:
    """Put back what a conversion that was killed while it replaced ``target`` had moved away."""
    if backup(target).exists() and not target.exists():
        backup(target).rename(target)


def backup(target: Path) -> Path:
    return target.with_name(f".{target.name}.before")
