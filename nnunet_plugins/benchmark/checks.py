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
    images_folder,
    planned_configuration,
    read_splits,
    references,
)
from nnunet_plugins.benchmark.suite import BadSuite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
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
    for folder in ("labelsTr", "labelsTs") if run.data.test else ("labelsTr",):
        for label in (nnunet_folder(RAW) / run.dataset / folder).glob("[!.]*"):
            run.data.cluster(label.name.split(".")[0])  # raises if the name shows no patient
    if run.data.test:
        check_test_set(run)


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


def check_test_set(run: Run) -> None:
    """Check that there is a test set, with an image of each segmentation.

    Raises:
        UserError: one of them is missing.
    """
    files, ending = references(run, TEST), dataset_json(run)["file_ending"]
    remedy = f"or leave out 'test' for dataset {run.data.id}"
    if not files:
        raise UserError(f"{nnunet_folder(RAW) / run.dataset / 'labelsTs'} has no segmentations: add them, {remedy}")
    for case, path in files.items():
        image = images_folder(run, TEST) / f"{case}_0000{ending}"
        if not image.exists():
            raise UserError(f"{path} has no image {image}: add it, {remedy}")


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
