"""Checks that a suite can run, made before anything starts: data, folds, trainers, software."""

import contextlib
import io
from pathlib import Path

from nnunet_plugins import _startup
from nnunet_plugins.benchmark.faults import Faults
from nnunet_plugins.benchmark.runs import (
    TEST,
    Run,
    dataset_json,
    dataset_of,
    images_folder,
    is_test_set,
    planned_configuration,
    read_splits,
    references,
)
from nnunet_plugins.benchmark.suite import BadSuite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder

PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""nnU-Net's planners by the names of their plans, which are made where they are missing."""
PLANNED = ("2d", "3d_fullres", "3d_lowres")
"""Configurations that they may plan, without the cascade."""


def check_suite(survey: Survey, path: Path) -> None:
    """Check what the suite file alone cannot tell.

    Args:
        survey: the suite and its runs.
        path: the suite file, for messages.

    Raises:
        UserError: something that the suite needs is missing.
    """
    faults_of(survey, path).end_command()


def faults_of(survey: Survey, path: Path) -> Faults:
    """Find all that a suite needs and that is missing; see :func:`check_suite`."""
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
            check_trainer(survey, trainer, path)
    return faults


def check_dataset(survey: Survey, run: Run) -> None:
    """Check that a dataset exists, has the suite's folds and test set, and a patient in every case's name."""
    has_raw = (nnunet_folder(RAW) / run.dataset / "dataset.json").is_file()
    if not has_raw and not run.preprocessing_receipt.exists():
        raise UserError(f"{run.dataset} has no dataset.json in {nnunet_folder(RAW)}: convert it first")
    if run.splits_file.exists():
        check_folds(run, survey.suite.folds)
    check_test_sets(run)
    labels = [*(nnunet_folder(RAW) / run.dataset / "labelsTr").glob("[!.]*")]
    for part in filter(is_test_set, run.parts):
        labels += references(run, part).values()
    for label in labels:
        run.data.cluster(label.name.split(".")[0])  # raises if the name shows no patient


def check_plans(run: Run) -> None:
    """Check that the plans have the configuration, or that nnU-Net can make plans that may have it.

    Raises:
        UserError: they do not, or nnU-Net cannot.
    """
    if run.plans_file.exists():
        planned_configuration(run)
    elif run.plans not in PLANNERS:
        raise UserError(
            f"{run.plans_file} is not there: make it with nnUNetv2_plan_experiment -d {run.data.id} "
            "-pl PLANNER, or leave the suite's key plans out"
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
        raise UserError(
            f"{run.splits_file} has {number} folds, numbered from 0, and the suite asks for fold {max(folds)}: leave "
            "it out of the suite's folds"
        )


def check_test_sets(run: Run) -> None:
    """Check that the run's test sets are there, with an image of each segmentation, and fit its dataset.

    Raises:
        UserError: a file is missing, or another dataset has other channels or labels.
    """
    for part in filter(is_test_set, run.parts):
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


def check_trainer(survey: Survey, trainer: str, path: Path) -> None:
    """Check that nnU-Net finds a trainer, and that it can do all configurations that the suite gives it."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_plugins import quiet_timm  # noqa: F401

    _startup.extend()  # as the jobs do
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            found = recursive_find_trainer_class_by_name(survey.suite.trainer_name(trainer))
        except RuntimeError as error:
            meant = getattr(error, "meant", "").removesuffix(survey.suite.trainer_name(""))
            hint = f"did you mean {meant}?" if meant else "'nnunet-plugins list' prints ours"
            raise BadSuite(f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; {hint}") from None
    dimensions = getattr(found, "supported_dimensions", (2, 3))
    configurations = {(run.trainer, run.data.id, run.configuration): run for run in survey.runs}
    for run in configurations.values():
        if run.trainer == trainer and (2 if run.configuration.startswith("2d") else 3) not in dimensions:
            raise BadSuite(
                f"{path}: {trainer} works in {dimensions[0]}D only, but dataset {run.data.id} has configuration "
                f"{run.configuration}: leave one out, or give that dataset a list of trainers"
            )
