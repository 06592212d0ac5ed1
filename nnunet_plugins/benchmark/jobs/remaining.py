"""The dry run: jobs of a suite that are left."""

from nnunet_plugins.benchmark.jobs.receipts import is_planned, is_preprocessed
from nnunet_plugins.benchmark.survey import Survey


def dry_run(survey: Survey) -> None:
    """Print how many jobs of which kind are left, and write nothing."""
    for step, number in jobs_left(survey).items():
        print(f"{step:12}{number:6}")


def jobs_left(survey: Survey) -> dict[str, int]:
    """Number of jobs of each step that are left."""
    untrained = [run for run, state in survey.states.items() if not state.trained]
    plans = {run.plan_receipt: run for run in untrained}
    unfitted = {run.plan_receipt: run for run in (run.unfitted for run in plans.values())}
    preprocessed = {run.preprocessing_receipt: run for run in untrained}
    left = {
        "plan": sum(not is_planned(run) for run in unfitted.values()),
        "fit": sum(not is_planned(run) for run in plans.values()),
        "preprocess": sum(not is_preprocessed(run) for run in preprocessed.values()),
        "train": len(untrained),
        "validate": len(survey.runs) - len(survey.done),
    }
    if survey.suite.gpu_memory_gb is None:
        del left["fit"]
    return left
