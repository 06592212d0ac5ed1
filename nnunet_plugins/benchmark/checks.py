"""Checks that a suite can run, made before anything starts: data, folds, trainers, software."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_plugins import _startup
from nnunet_plugins.benchmark.faults import Faults
from nnunet_plugins.benchmark.runs import (
    TEST,
    Run,
    dataset_json,
    dataset_of,
    images_folder,
    planned_configuration,
    read_splits,
    references,
)
from nnunet_plugins.benchmark.suite import LENGTH, BadSuite, Suite, content_of, divided, examine
from nnunet_plugins.benchmark.survey import Survey, survey
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS, dataset_name, nnunet_folder
from nnunet_plugins.planning.names import PLANNERS, planning_command
from nnunet_plugins.wording import counted

PLANNED = ("2d", "3d_fullres", "3d_lowres")
"""Configurations that nnU-Net's planners may plan, without the cascade."""


def examined(path: Path, thorough: bool = True) -> tuple[Survey, Faults]:
    """Survey of a suite file, and all that keeps the suite from running, in its keys or elsewhere.

    If there are faults, the survey lacks what they concern.

    Args:
        path: the suite file.
        thorough: see :func:`nnunet_plugins.benchmark.survey.survey`.

    Raises:
        UserError: the file cannot be read, or one of nnU-Net's folders is not set.
    """
    suite, of_keys, bad = examine(content_of(path))
    faults = Faults()
    for sentence in of_keys.found:
        faults.note(BadSuite(f"{path}: {sentence}"))
    folders = Faults()
    for variable in (RAW, PREPROCESSED, RESULTS):
        with folders.noted():
            nnunet_folder(variable)
    if folders.found:  # nothing else can be looked at
        faults.found |= folders.found
        faults.end_command()
    found = survey(checkable(suite, bad.types | bad.values, faults), thorough)
    faults.found |= faults_of(found, path).found
    return found, faults


def checkable(suite: Suite, bad_keys: set[str], faults: Faults) -> Suite:
    """The part of a suite that can be checked further: without bad values, and without datasets that do not exist.

    Args:
        suite: the suite.
        bad_keys: keys with faults that are noted already.
        faults: where missing datasets are noted.
    """
    good = [data for index, data in enumerate(suite.datasets) if not is_bad(f"datasets[{index}]", bad_keys)]
    missing = set()
    for number in {number: None for data in good for number in (data.id, data.external) if number is not None}:
        try:
            dataset_name(number)
        except UserError as error:
            faults.note(error)
            missing.add(number)
    names = {trainer: divided(trainer)[0] for trainer in suite.trainers}
    return replace(
        suite,
        datasets=tuple(data for data in good if missing.isdisjoint((data.id, data.external))),
        trainers=tuple(trainer for trainer, name in names.items() if name.isidentifier() and not LENGTH.search(name)),
        **{key: value for key, value in HARMLESS.items() if is_bad(key, bad_keys)},
    )


HARMLESS: dict[str, Any] = {
    "epochs": 1,
    "epochs_of": (),
    "iterations": None,
    "repeats": 1,
    "folds": (0,),
    "gpu_memory_gb": None,
}
"""Values in the place of bad ones, so that the rest can be checked."""


def is_bad(key: str, bad_keys: set[str]) -> bool:
    """Whether a key, or one of its table, is among the bad ones."""
    return any(bad == key or bad.startswith(f"{key}.") for bad in bad_keys)


def faults_of(survey: Survey, path: Path) -> Faults:
    """Find all that a suite needs and that is missing, which its file alone cannot tell; its path is for messages."""
    faults = Faults()
    # one run of each dataset and configuration
    for run in {(run.dataset, run.configuration): run for run in survey.runs}.values():
        with faults.noted():
            check_dataset(survey, run)
    for run in {(run.dataset, run.unfitted.plans, run.configuration): run.unfitted for run in survey.runs}.values():
        with faults.noted():
            check_plans(run)
    require_nnunet()
    for trainer in survey.suite.trainers:
        with faults.noted():
            check_trainer(survey.suite, trainer, path)
    return faults


def check_dataset(survey: Survey, run: Run) -> None:
    """Check that a dataset exists, has the suite's folds and test set, and a patient in every case's name."""
    has_raw = (nnunet_folder(RAW) / run.dataset / "dataset.json").is_file()
    if not has_raw and not run.preprocessing_receipt.exists():
        raise UserError(f"{run.dataset} has no dataset.json in {nnunet_folder(RAW)}: convert it first")
    if run.splits_file.exists():
        check_folds(run, survey.suite.folds)
    check_test_sets(run)
    check_published(run)
    labels = [*(nnunet_folder(RAW) / run.dataset / "labelsTr").glob("[!.]*")]
    for part in run.test_sets:
        labels += references(run, part).values()
    ending = dataset_json(run)["file_ending"] if labels else ""
    for label in labels:
        run.data.cluster(label.name.removesuffix(ending))  # raises if the name shows no patient


def check_plans(run: Run) -> None:
    """Check that the plans have the configuration, or that nnU-Net can make plans that may have it.

    Raises:
        UserError: they do not, or nnU-Net cannot.
    """
    if run.plans_file.exists():
        planned_configuration(run)
    elif run.plans not in PLANNERS:
        raise UserError(
            f"{run.plans_file} is not there: make it with {planning_command(run.data.id, run.plans)}, or leave the "
            "suite's key plans out"
        )
    elif run.configuration not in PLANNED:
        raise UserError(
            f"{run.plans_file} is not there, and nnU-Net plans no configuration {run.configuration}: choose from "
            f"{', '.join(PLANNED)}, or make the plans first"
        )


def check_folds(run: Run, folds: tuple[int, ...]) -> None:
    """Check that the dataset's split has all folds.

    Raises:
        UserError: it has fewer.
    """
    number = len(read_splits(run))
    if max(folds) >= number:
        asked = f"numbered from 0, and the suite asks for fold {max(folds)}"
        raise UserError(f"{run.splits_file} has {counted(number, 'fold')}, {asked}: leave it out of the suite's folds")


def check_test_sets(run: Run) -> None:
    """Check that the run's test sets are there, with an image of each segmentation, and fit its dataset.

    Raises:
        UserError: a file is missing, or another dataset has other channels or labels.
    """
    for part in run.test_sets:
        files, ending = references(run, part), dataset_json(run)["file_ending"]
        remedy = f"or leave out '{'test' if part == TEST else 'external'}' for dataset {run.data.id}"
        if part != TEST:
            check_same_kind(run, dataset_of(run, part), remedy)
        if not files:
            folder = images_folder(run, part).with_name("labelsTs")
            raise UserError(f"{folder} has no segmentations: add them, {remedy}")
        for case, path in files.items():
            image = images_folder(run, part) / f"{case}_0000{ending}"
            if not image.exists():
                raise UserError(f"{path} has no image {image}: add it, {remedy}")


def check_published(run: Run) -> None:
    """Check that papers' figures are known here of the published dataset that the cases are said to come from.

    Raises:
        UserError: there are none.
    """
    if not run.data.published:
        return
    from nnunet_plugins.benchmark.report.published import published_results

    known = sorted(published_results().dataset.unique())
    if run.data.published not in known:
        raise UserError(
            f"datasets: id {run.data.id}: published = {run.data.published!r}: no paper's figures of it are known here: "
            f"choose from {', '.join(known)}, or leave the key out"
        )


def check_same_kind(run: Run, other: str, remedy: str) -> None:
    """Check that models of the run's dataset can be tested on another dataset.

    Raises:
        UserError: its description says otherwise.
    """
    path = nnunet_folder(RAW) / other / "dataset.json"
    ours, theirs = dataset_json(run), read_json(path, remedy=f"convert that dataset, {remedy}")
    for key in ("channel_names", "labels", "regions_class_order", "file_ending"):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{other} cannot test models of {run.dataset}: its {key} is {theirs.get(key)}, not {ours.get(key)}: "
                f"convert it with the same channels and labels, {remedy}"
            )


def check_trainer(suite: Suite, trainer: str, path: Path) -> None:
    """Check that nnU-Net finds a trainer, and that it can do all configurations that the suite gives it."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_plugins import quiet_timm  # noqa: F401

    _startup.extend()  # as the jobs do
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            found = recursive_find_trainer_class_by_name(suite.trainer_name(trainer))
        except RuntimeError as error:
            meant = getattr(error, "meant", "").removesuffix(suite.trainer_name(""))
            hint = f"did you mean {meant}?" if meant else "'nnunet-plugins list' prints ours"
            raise BadSuite(f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; {hint}") from None
    dimensions = getattr(found, "supported_dimensions", (2, 3))
    for data in suite.datasets:
        for configuration in data.configurations if trainer in suite.trainers_of(data) else ():
            if (2 if configuration.startswith("2d") else 3) not in dimensions:
                raise BadSuite(
                    f"{path}: {trainer} works in {dimensions[0]}D only, but dataset {data.id} has configuration "
                    f"{configuration}: leave one out, or give that dataset a list of trainers"
                )
