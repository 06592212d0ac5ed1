"""The trainings of a suite, and where nnU-Net keeps what belongs to them.

Nothing here needs torch or nnU-Net: Snakemake reads it in every job.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS, SPLITS, dataset_name, nnunet_folder

VALIDATION, TEST = "validation", "test"


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
    def parts(self) -> list[str]:
        """What is predicted and measured."""
        return [VALIDATION, TEST] if self.data.test else [VALIDATION]

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / f"{self.data.plans}.json"

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
        """The cases that the fold was trained and validated on, and the hash of their labels."""
        return self.folder / "bench_split.json"

    @property
    def planned(self) -> Path:
        return self.preprocessed / f"bench_{self.data.plans}.json"

    @property
    def preprocessed_receipt(self) -> Path:
        return self.preprocessed / f"bench_{self.data.plans}_{self.configuration}.json"

    @property
    def source_note(self) -> Path:
        """What the preprocessed data were made of."""
        return self.preprocessed / f"bench_source_{self.data.plans}_{self.configuration}.json"

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


# ---- data ------------------------------------------------------------------------------------------------------------

NOT_OF_THE_DATA = ("inherits_from", "batch_size", "batch_dice", "patch_size", "architecture", "previous_stage")


def dataset_json(run: Run) -> dict[str, Any]:
    """The preprocessed dataset's, or the raw one's before there is one."""
    preprocessed = run.preprocessed / "dataset.json"
    return read_json(preprocessed if preprocessed.exists() else nnunet_folder(RAW) / run.dataset / "dataset.json")


def images_folder(run: Run, part: str) -> Path:
    return nnunet_folder(RAW) / run.dataset / ("imagesTs" if part == TEST else "imagesTr")


def references(run: Run, part: str) -> dict[str, Path]:
    """The file with the true segmentation of each case that the fold predicts."""
    ending = dataset_json(run)["file_ending"]
    if part == VALIDATION:
        folder = run.preprocessed / "gt_segmentations"
        return {case: folder / f"{case}{ending}" for case in read_json(run.preprocessed / SPLITS)[run.fold]["val"]}
    folder = nnunet_folder(RAW) / run.dataset / "labelsTs"
    return {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"[!.]*{ending}"))}


def predictions(run: Run, part: str) -> dict[str, Path]:
    """The file of each case that the fold predicts."""
    return {case: run.folder / part / path.name for case, path in references(run, part).items()}


def require_folds(suite: Suite, run: Run) -> None:
    """
    Raises:
        UserError: the dataset's split does not have a fold that the suite wants.
    """
    splits = read_json(run.preprocessed / SPLITS)
    if max(suite.folds) >= len(splits):
        raise UserError(
            f"{run.preprocessed / SPLITS} has {len(splits)} folds, numbered from 0, and the suite asks for fold "
            f"{max(suite.folds)}: leave it out of the suite's folds"
        )


def require_test_set(run: Run) -> None:
    """
    Raises:
        UserError: there is no test set, or it has no image of a segmentation.
    """
    files, ending = references(run, TEST), dataset_json(run)["file_ending"]
    remedy = f"or leave out 'test' for dataset {run.data.id}"
    if not files:
        raise UserError(f"{nnunet_folder(RAW) / run.dataset / 'labelsTs'} has no segmentations: add them, {remedy}")
    for case, path in files.items():
        image = images_folder(run, TEST) / f"{case}_0000{ending}"
        if not image.exists():
            raise UserError(f"{path} has no image {image}: add it, {remedy}")


def planned_configuration(run: Run) -> dict[str, Any]:
    """As the plans have it, with what it inherits.

    Raises:
        UserError: the plans do not have it.
    """
    plans, name = read_json(run.plans_file)["configurations"], run.configuration
    if name not in plans:
        raise UserError(f"{run.plans_file} has no configuration {name}: choose from {', '.join(plans)}")
    found: dict[str, Any] = {}
    while name:
        found = plans[name] | found
        name = plans[name].get("inherits_from")
    return found


def source(run: Run) -> dict[str, Any]:
    """What preprocessing would make the data of now."""
    plans = read_json(run.plans_file)
    content = {name: plans.get(name) for name in ("transpose_forward", "foreground_intensity_properties_per_channel")}
    content |= {name: value for name, value in planned_configuration(run).items() if name not in NOT_OF_THE_DATA}
    return content | {"labels": labels_digest(run)}


def labels_digest(run: Run) -> str | None:
    """Of the training cases' segmentations; None if the raw data are not here."""
    return folder_digest(nnunet_folder(RAW) / run.dataset / "labelsTr")


@cache  # a command reads them once, for however many trainings
def folder_digest(folder: Path) -> str | None:
    """Of the names and contents of its files; None if there are none."""
    files = [f"{path.name} {digest(path)}\n" for path in sorted(folder.glob("[!.]*"))]
    return hashlib.sha256("".join(files).encode()).hexdigest() if files else None


def missing_cases(run: Run) -> set[str]:
    """Cases of the folds that have no reference or no properties, which nnU-Net writes after the image."""
    ending = dataset_json(run)["file_ending"]
    splits = read_json(run.preprocessed / SPLITS)
    folder = run.preprocessed / planned_configuration(run)["data_identifier"]
    known = {path.stem for path in folder.glob("*.pkl")}
    known &= {path.name.removesuffix(ending) for path in (run.preprocessed / "gt_segmentations").glob(f"*{ending}")}
    return {case for split in splits for part in split.values() for case in part} - known


# ---- receipts --------------------------------------------------------------------------------------------------------


def is_planned(run: Run) -> bool:
    """Whether there are folds, and the plans are those that were checked."""
    files = run.planned, run.plans_file, run.preprocessed / SPLITS
    return all(path.exists() for path in files) and read_json(run.planned)["sha256"] == digest(run.plans_file)


def is_preprocessed(run: Run) -> bool:
    """Whether the data are there, made as they would be made now."""
    return is_planned(run) and run.preprocessed_receipt.exists() and not (other_source(run) or missing_cases(run))


def is_trained(run: Run) -> bool:
    """Whether the fold has been trained as it would be trained now: with these plans and cases, test set included."""
    if not run.trained.exists():
        return False
    receipt = read_json(run.trained)
    wanted = set(run.parts) <= set(receipt["parts"])
    return wanted and not (changed(run, receipt) or other_plans(run) or other_split(run))


def is_done(run: Run) -> bool:
    """Whether the fold's metrics are there, as the suite wants them."""
    if not (is_trained(run) and run.validated.exists()):
        return False
    receipt = read_json(run.validated)
    return receipt["tolerance"] == run.data.tolerance and set(run.parts) <= set(receipt["parts"])


def discard_stale_receipts(suite: Suite) -> None:
    """Remove receipts of what must be done again, or refused, by the steps."""
    for run in runs(suite):
        if is_done(run):
            continue
        run.validated.unlink(missing_ok=True)
        if is_trained(run):
            continue
        if run.trained.exists():
            for path in changed(run, read_json(run.trained)):
                if path.parent.name == TEST:  # no summary of nnU-Net's tells that it has changed
                    path.unlink(missing_ok=True)
        run.trained.unlink(missing_ok=True)
        if not is_preprocessed(run):
            run.preprocessed_receipt.unlink(missing_ok=True)
        if not is_planned(run):
            run.planned.unlink(missing_ok=True)


def changed(run: Run, receipt: Mapping[str, Any]) -> list[Path]:
    """Files that the receipt vouches for and that are gone or others; checkpoints are too large to read each time."""
    files = {run.folder / name: sha for name, sha in receipt["sha256"].items()}
    return [path for path, sha in files.items() if not path.exists() or (path.suffix != ".pth" and digest(path) != sha)]


def other_source(run: Run) -> bool:
    """Whether the preprocessed data were made of something that is no longer so."""
    return run.source_note.exists() and differ(read_json(run.source_note), source(run))


def other_plans(run: Run) -> bool:
    """Whether the model was trained with plans that are no longer the dataset's."""
    trained_with, now = run.model / "plans.json", run.plans_file
    if not (trained_with.exists() and now.exists()):
        return False
    ours, theirs = read_json(now), read_json(trained_with)
    for plans in (ours, theirs):
        plans.pop("continue_training", None)  # nnU-Net's own note, not part of the plans
    return ours != theirs


def other_split(run: Run) -> bool:
    """Whether the fold was trained with cases or labels that are no longer those of the dataset."""
    return (
        run.split_note.exists()
        and (run.preprocessed / SPLITS).exists()
        and differ(read_json(run.split_note), split_of(run))
    )


def split_of(run: Run) -> dict[str, Any]:
    """What the fold would be trained with now."""
    splits = read_json(run.preprocessed / SPLITS)
    return (splits[run.fold] if run.fold < len(splits) else {}) | {"labels": labels_digest(run)}


def differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two notes do; labels are only compared where both know them."""
    unknown = before.get("labels") is None or now.get("labels") is None
    return any(before.get(name) != now.get(name) for name in {*before, *now} - ({"labels"} if unknown else set()))
