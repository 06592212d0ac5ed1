"""nnU-Net's folders: the environment variables that name them, the datasets in them, and their files of folds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
WANDB = "nnUNet_wandb_enabled"
QUOTES = ('"', "'")
SPLITS = "splits_final.json"
FINGERPRINT = "dataset_fingerprint.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""Names of a fold's checkpoints, in the order in which ``--c`` looks for them."""
Split = dict[str, list[str]]
"""One fold: ``{"train": identifiers, "val": identifiers}``."""


def nnunet_folder(variable: str) -> Path:
    """Absolute path of the folder that one of nnU-Net's variables names.

    Raises:
        UserError: the variable is not set.
    """
    folder = find_nnunet_folder(variable)
    if folder is None:
        name = variable.removeprefix("nnUNet_")
        raise UserError(
            f'{variable} is not set: say where nnU-Net keeps its files, e.g. export {variable}="$PWD/{name}"'
        )
    return folder


def find_nnunet_folder(variable: str) -> Path | None:
    """Absolute path of the folder that one of nnU-Net's variables names; None if the variable is not set.

    Raises:
        UserError: the variable has what a shell should have taken away, quotes or ``~``.
    """
    value = os.environ.get(variable)
    if problem := problem_of_folder(variable):
        raise UserError(problem)
    return Path(os.path.abspath(value)) if value else None


def problem_of_folder(variable: str) -> str | None:
    """Sentence on a variable with quotes around its value or ``~`` before it, which would become names of folders."""
    value = os.environ.get(variable, "")
    if value.startswith("~"):
        return f"{variable}={value} begins with ~, which no program replaces: write $HOME instead"
    if value.startswith(QUOTES) or value.endswith(QUOTES):
        return f"{variable}={value} has quotes in its value: write them around it only where a shell takes them away"
    return None


def refuse_unusable_folders() -> None:
    """Refuse to go on if a variable of nnU-Net has quotes or ``~`` in its value: nnU-Net would make such folders.

    Raises:
        UserError: with the first of them.
    """
    for variable in (RAW, PREPROCESSED, RESULTS):
        find_nnunet_folder(variable)


def make_nnunet_folder(variable: str) -> Path:
    """Make the folder that one of nnU-Net's variables names, if it does not exist, and return its absolute path.

    Raises:
        UserError: the variable is not set, or the folder cannot be made.
    """
    folder = nnunet_folder(variable)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): set {variable} to a folder of yours") from error
    return folder


def dataset_name(dataset_id: int, variables: tuple[str, ...] = (RAW, PREPROCESSED)) -> str:
    """Name of the folder ``DatasetNNN_Name`` in which nnU-Net finds the dataset of this number.

    Args:
        dataset_id: the number.
        variables: of nnU-Net's folders, in any of which the dataset may be.

    Raises:
        UserError: there is no such dataset, or several share the number.
    """
    folders = [nnunet_folder(variable) for variable in variables]
    names = {path.name for folder in folders for path in folder.glob(f"Dataset{dataset_id:03}_*") if path.is_dir()}
    if not names:
        raise UserError(
            f"There is no dataset {dataset_id} in {' or '.join(map(str, folders))}: convert it first, with "
            "'nnunet-plugins convert', or correct the number"
        )
    if len(names) > 1:
        raise UserError(
            f"The number {dataset_id} belongs to several datasets ({', '.join(sorted(names))}): rename all but one"
        )
    return names.pop()


@contextmanager
def folders_elsewhere(folder: str, *variables: str) -> Iterator[None]:
    """Let some of nnU-Net's variables name another folder for a while, and then what they named before.

    Meanwhile nnU-Net tells Weights & Biases nothing: what is done elsewhere is no training of the user's.
    """
    before = {variable: os.environ.get(variable) for variable in (*variables, WANDB)}
    os.environ.update(dict.fromkeys(variables, folder) | {WANDB: "0"})
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable)
            if value is not None:
                os.environ[variable] = value


def splits_path(name: str) -> Path | None:
    """File in which nnU-Net looks for a dataset's folds; None if ``nnUNet_preprocessed`` is not set."""
    folder = find_nnunet_folder(PREPROCESSED)
    return folder / name / SPLITS if folder else None


def read_splits_or_none(path: Path) -> list[Split] | None:
    """Folds from a splits file; None if the file is missing or damaged."""
    try:
        return read_json(path)
    except UserError:
        return None


def model_names(folder: Path) -> list[str]:
    """Names ``Trainer__Plans__configuration`` of the models in a dataset's folder of results, in order."""
    return sorted(path.name for path in folder.glob("*__*__*") if path.name.count("__") == 2)


def folds_with(model: Path, checkpoint: str = CHECKPOINTS[0]) -> list[str]:
    """Folds of a model that have a checkpoint: the numbered ones in order, and then ``all``."""
    names = [path.parent.name.removeprefix("fold_") for path in model.glob(f"fold_*/{checkpoint}")]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [*map(str, numbers), *(name for name in names if name == "all")]


def was_planned(name: str) -> bool:
    """Whether nnU-Net has a fingerprint of the dataset, which it renews only when asked to."""
    path = splits_path(name)
    return path is not None and path.with_name(FINGERPRINT).exists()
