"""The steps plan, fit and preprocess: nnU-Net's plans, folds and preprocessed data of a dataset."""

import os
from dataclasses import replace

from nnunet_plugins.benchmark.checks import check_folds, check_plans
from nnunet_plugins.benchmark.jobs.sources import current_source, missing_cases, preprocessed_data_are_stale
from nnunet_plugins.benchmark.jobs.states import plan_receipt
from nnunet_plugins.benchmark.runs import Run, planned_configuration
from nnunet_plugins.benchmark.suite import Suite, divided
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json
from nnunet_plugins.locks import lock
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder
from nnunet_plugins.planning.names import PLANNERS


def plan(suite: Suite, run: Run) -> None:
    """Make the dataset's plans and folds, unless they are there already.

    Raises:
        UserError: the plans are another planner's and missing, or plans or folds lack what the suite asks for.
    """
    allow_planning()
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    run = run.unfitted
    with lock(run.dataset_lock_file):
        check_plans(run)
        if not run.plans_file.exists():
            extract_fingerprints([run.data.id], num_processes=suite.resources.cpus, clean=False)
            plan_experiments([run.data.id], PLANNERS[run.plans])
        for configuration in run.data.configurations:
            planned_configuration(replace(run, configuration=configuration))
        write_missing_splits(run)
        check_folds(run, suite.folds)
        write_json(run.plan_receipt, plan_receipt(run))


def fit(suite: Suite, run: Run) -> None:
    """Make plans with which the run's trainer fits the suite's GPU, as ``nnunet-plugins plan`` does.

    Plans that are there and made from the dataset's plans as they are now stay, edited or not.

    Raises:
        UserError: the trainer fits on no patch, or plans that are made anew were edited.
    """
    from nnunet_plugins.planning.plans_file import is_made_from, make_plans
    from nnunet_plugins.planning.source import read_source

    assert suite.gpu_memory_gb is not None, "only suites with gpu_memory_gb have this step"
    with lock(run.dataset_lock_file):
        source = read_source(run.data.id, run.unfitted.plans)
        if not is_made_from(run.plans_file, source, run.data.configurations):
            trainer, _ = divided(run.trainer)
            make_plans(source, trainer, suite.gpu_memory_gb, run.data.configurations)
        write_json(run.plan_receipt, plan_receipt(run))


def write_missing_splits(run: Run) -> None:
    """Draw the folds that nnU-Net would draw, if there are none: trainings that start together must not all do it."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    if run.splits_file.exists():
        return
    cases = sorted(get_filenames_of_train_images_and_targets(str(nnunet_folder(RAW) / run.dataset)))
    if len(cases) < 5:
        raise UserError(
            f"{run.dataset} has {len(cases)} training cases, too few for nnU-Net's five folds: write {run.splits_file}"
        )
    write_json(run.splits_file, generate_crossval_split(cases, seed=12345, n_splits=5))


def preprocess(suite: Suite, run: Run) -> None:
    """Preprocess the dataset, unless all cases are there and up to date.

    A low resolution's next stage is preprocessed too: nnU-Net's validation of the low resolution predicts for it.

    Raises:
        UserError: the folds name cases that the dataset does not have.
    """
    allow_planning()
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    run = run.unfitted
    next_stages = planned_configuration(run).get("next_stage") or []
    names = [run.configuration, *([next_stages] if isinstance(next_stages, str) else next_stages)]
    with lock(run.dataset_lock_file):
        for stage in (replace(run, configuration=name) for name in names):
            if missing_cases(stage) or preprocessed_data_are_stale(stage):
                preprocess_dataset(run.data.id, run.plans, [stage.configuration], [suite.resources.cpus])
            write_json(stage.source_note, current_source(stage))
            if missing := missing_cases(stage):
                raise UserError(
                    f"{run.splits_file} names {len(missing)} cases, such as {min(missing)}, that "
                    f"{run.dataset} does not have: correct or remove it"
                )
        write_json(run.preprocessing_receipt, {"configurations": names})


def allow_planning() -> None:
    """Give nnU-Net's planning a data-loading process: trainings may have none, with which planning fails."""
    if os.environ["nnUNet_n_proc_DA"] == "0":
        os.environ["nnUNet_n_proc_DA"] = "1"
