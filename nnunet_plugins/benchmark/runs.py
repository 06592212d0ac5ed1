"""The trainings of a suite, and where nnU-Net keeps what belongs to them.

Nothing here needs torch or nnU-Net: Snakemake reads it in every job.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.errors import UserError

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
VALIDATION, TEST = "validation", "test"
SPLITS = "splits_final.json"


@dataclass(frozen=True)
class Run:
    """One training: a fold of a trainer on a dataset, the first time or again."""

    data: Data
    dataset: str
    """``DatasetNNN_Name``"""
    configuration: str
    trainer: str
    """As the suite names it."""
    trainer_name: str
    """As nnU-Net knows it, with its length."""
    fold: int
    repeat: int
    """From 1."""
    results: Path
    """What ``nnUNet_results`` is for it: repetitions have folders of their own, in nnU-Net's layout too."""

    @property
    def model(self) -> Path:
        return self.results / self.dataset / f"{self.trainer_name}__{self.data.plans}__{self.configuration}"

    @property
    def folder(self) -> Path:
        return self.model / f"fold_{self.fold}"

    @property
    def preprocessed(self) -> Path:
        return nnunet_folder(PREPROCESSED) / self.dataset

    @property
    def trained(self) -> Path:
        """The receipt of the training."""
        return self.folder / "bench_train.json"

    @property
    def validated(self) -> Path:
        """The receipt of the metrics, which it holds."""
        return self.folder / "bench_validate.json"

    @property
    def split_note(self) -> Path:
        """The cases that the fold was trained and validated on."""
        return self.folder / "bench_split.json"

    @property
    def planned(self) -> Path:
        return self.preprocessed / f"bench_{self.data.plans}.json"

    @property
    def preprocessed_receipt(self) -> Path:
        return self.preprocessed / f"bench_{self.data.plans}_{self.configuration}.json"

    def __str__(self) -> str:
        repeat = f" repeat {self.repeat}" if self.repeat > 1 else ""
        return f"{self.dataset} {self.configuration} {self.trainer_name} fold {self.fold}{repeat}"


def runs(suite: Suite) -> list[Run]:
    """All trainings of a suite; folds of one trainer after those of another, so that tables fill evenly.

    Raises:
        UserError: nnU-Net's folders are not set, or a dataset is in none of them.
    """
    root = nnunet_folder(RESULTS)
    roots = {repeat: root / f"repeat_{repeat}" if repeat > 1 else root for repeat in range(1, suite.repeats + 1)}
    return [
        Run(data, dataset_name(data.id), configuration, trainer, suite.trainer_name(trainer), fold, repeat, results)
        for repeat, results in roots.items()
        for data in suite.datasets
        for configuration in data.configurations
        for fold in suite.folds
        for trainer in suite.trainers_of(data)
    ]


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


def work_folder(suite: Suite) -> Path:
    """Where the suite keeps its logs and its report."""
    return nnunet_folder(RESULTS) / "benchmarks" / suite.name


def stop_file(suite: Suite) -> Path:
    """While it is there, jobs end at once: their driver is being stopped, or was."""
    return work_folder(suite) / ".stopped"


def log_file(suite: Suite, step: str, receipt: Path) -> Path:
    """Where a job writes what nnU-Net prints; all attempts in one file."""
    known = [path for path in (nnunet_folder(RESULTS), nnunet_folder(PREPROCESSED)) if receipt.is_relative_to(path)]
    parts = receipt.relative_to(known[0]).with_suffix("").parts if known else receipt.parts
    return work_folder(suite) / "logs" / f"{step}.{'.'.join(parts)}.log"


# ---- receipts --------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """
    Raises:
        UserError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it and run the benchmark again") from error


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_trained(run: Run) -> bool:
    """Whether the fold has been trained as it would be trained now: with these plans and cases, test set included."""
    if not run.trained.exists():
        return False
    receipt = read_json(run.trained)
    wanted = TEST in receipt["parts"] or not run.data.test
    return wanted and not (changed(run, receipt) or other_plans(run) or other_split(run))


def is_done(run: Run) -> bool:
    """Whether the fold's metrics are there, as the suite wants them."""
    return is_trained(run) and run.validated.exists() and read_json(run.validated)["tolerance"] == run.data.tolerance


def discard_stale_receipts(suite: Suite) -> None:
    """Remove receipts of what must be done again, or refused, by the steps."""
    for run in runs(suite):
        if not is_trained(run):
            run.trained.unlink(missing_ok=True)
        if not is_done(run):
            run.validated.unlink(missing_ok=True)


def changed(run: Run, receipt: Mapping[str, Any]) -> bool:
    """Whether a file that the receipt vouches for is gone or another; checkpoints are too large to read each time."""
    files = {run.folder / name: sha for name, sha in receipt["sha256"].items()}
    return any(not path.exists() or (path.suffix != ".pth" and digest(path) != sha) for path, sha in files.items())


def other_plans(run: Run) -> bool:
    """Whether the model was trained with plans that are no longer the dataset's."""
    trained_with, now = run.model / "plans.json", run.preprocessed / f"{run.data.plans}.json"
    if not (trained_with.exists() and now.exists()):
        return False
    ours, theirs = read_json(now), read_json(trained_with)
    for plans in (ours, theirs):
        plans.pop("continue_training", None)  # nnU-Net's own note, not part of the plans
    return ours != theirs


def other_split(run: Run) -> bool:
    """Whether the fold was trained with cases that are no longer those of the dataset's split."""
    splits = run.preprocessed / SPLITS
    if not (run.split_note.exists() and splits.exists()):
        return False
    return read_json(splits)[run.fold : run.fold + 1] != [read_json(run.split_note)]
