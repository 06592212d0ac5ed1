"""Folders in which nnU-Net keeps datasets and folds, and its own check of a dataset."""

import json
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from nnunet_plugins.errors import UserError

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
SPLITS = "splits_final.json"
Split = dict[str, list[str]]
"""A fold: ``{"train": identifiers, "val": identifiers}``"""


def nnunet_folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        folder = variable.removeprefix("nnUNet_")
        raise UserError(
            f'{variable} is not set: say where nnU-Net keeps its files, e.g. export {variable}="$PWD/{folder}"'
        )
    return Path(os.path.abspath(value))


def dataset_name(dataset_id: int) -> str:
    """``DatasetNNN_Name``, as nnU-Net would find it."""
    folders = [nnunet_folder(variable) for variable in (RAW, PREPROCESSED)]
    names = {path.name for folder in folders for path in folder.glob(f"Dataset{dataset_id:03}_*") if path.is_dir()}
    if not names:
        raise UserError(
            f"There is no dataset {dataset_id} in {' or '.join(map(str, folders))}: convert it first, with "
            "'nnunet-plugins convert', or correct the suite's id"
        )
    if len(names) > 1:
        raise UserError(
            f"The number {dataset_id} belongs to several datasets ({', '.join(sorted(names))}): rename all but one"
        )
    return names.pop()


def raw(required: bool) -> Path:
    """nnU-Net's folder of datasets, made if it is not there.

    Raises:
        UserError: the variable is not set although ``required``, or the folder cannot be made.
    """
    value = os.environ.get(RAW)
    if not required:
        return Path(value or ".")
    if not value:
        raise UserError(f'{RAW} is not set: say where nnU-Net\'s datasets lie, e.g. export {RAW}="$PWD/raw"')
    folder = Path(os.path.abspath(value))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): set {RAW} to a folder of yours") from error
    return folder


def refuse_taken_id(dataset_id: int, name: str) -> None:
    """nnU-Net knows a dataset by its number: in all its folders, one name must have it.

    Raises:
        UserError: another dataset has the number, or it is no number for a dataset.
    """
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id {dataset_id}: nnU-Net's datasets have numbers from 1 to 999")
    for variable in (RAW, PREPROCESSED, RESULTS):
        folder = Path(os.environ.get(variable) or os.devnull)
        for other in sorted(folder.glob(f"Dataset{dataset_id:03}_*")) if folder.is_dir() else []:
            if other.name != name:
                raise UserError(f"The number {dataset_id} belongs to {other}: give another --dataset-id")


def refuse_other_splits(name: str, folds: Sequence[Split], overwrite: bool) -> None:
    """
    Raises:
        UserError: nnU-Net has other folds for the dataset, which trained models may rest on.
    """
    path = splits_path(name)
    if path and path.exists() and not overwrite and read_splits(path) != list(folds):
        raise UserError(f"{path} holds other folds, on which trained models may rest: remove it, or give --overwrite")


def place_splits(dataset: Path, overwrite: bool) -> None:
    """Put the dataset's folds where nnU-Net looks for them, and say so."""
    folds = dataset / SPLITS
    path = splits_path(dataset.name)
    if not folds.exists():
        if path and overwrite:
            path.unlink(missing_ok=True)  # those of the dataset that was replaced
        return
    if path is None:
        print(
            f"{PREPROCESSED} is not set. For these folds, once it is: run this command again, or copy {folds} to "
            f"${PREPROCESSED}/{dataset.name}. Otherwise nnU-Net draws folds of its own."
        )
        return
    refuse_other_splits(dataset.name, read_splits(folds) or [], overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(folds.read_bytes())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): copy {folds} there") from error
    print(f"Folds for nnU-Net: {path}")


def was_planned(name: str) -> bool:
    """Whether nnU-Net has a fingerprint of the dataset, which it does not renew unasked."""
    path = splits_path(name)
    return bool(path and (path.parent / "dataset_fingerprint.json").exists())


def splits_path(name: str) -> Path | None:
    folder = os.environ.get(PREPROCESSED)
    return Path(os.path.abspath(folder)) / name / SPLITS if folder else None


def read_splits(path: Path) -> list[Split] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def check_integrity(folder: Path, processes: int) -> None:
    """nnU-Net's own check, in a new process.

    It forks workers that it ends with SIGTERM. Where that signal has a handler, as in ours, Python may lose it in a
    process that has just been forked, and nnU-Net would wait for ever.

    Raises:
        UserError: it has found something.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(run_check, str(folder), processes).result()
        except BrokenProcessPool as error:
            raise UserError(
                "nnU-Net's check was killed, perhaps for want of memory: use fewer processes, with -np"
            ) from error
        except (AssertionError, RuntimeError, ValueError, OSError) as error:
            reason = re.sub(r"\s+", " ", str(error))
            raise UserError(
                f"nnU-Net refuses the converted dataset ({reason}): see what it has printed above"
            ) from error


def run_check(folder: str, processes: int) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(folder, processes)
