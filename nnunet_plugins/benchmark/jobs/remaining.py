"""The dry run: jobs and trainings of a suite that are left, and the disk that they take."""

from collections import Counter
from collections.abc import Iterator

from nnunet_plugins.benchmark.jobs.disk import in_words, needs_of
from nnunet_plugins.benchmark.jobs.receipts import is_planned, is_preprocessed
from nnunet_plugins.benchmark.progress import is_begun
from nnunet_plugins.benchmark.survey import Survey


def dry_run(survey: Survey) -> None:
    """Print how many jobs of which kind are left, of which trainers, and write nothing."""
    left = jobs_left(survey)
    for step, number in left.items():
        print(f"{step:12}{number:6}")
    if left["train"]:
        print("\nTo be trained:", *trainings_left(survey), sep="\n  ")
        print("\nDisk:", *in_words(needs_of(survey)), sep="\n  ")


def jobs_left(survey: Survey) -> dict[str, int]:
    """Number of jobs of each step that are left."""
    plans = {run.plan_receipt: run for run in survey.untrained}
    unfitted = {run.plan_receipt: run for run in (run.unfitted for run in plans.values())}
    preprocessed = {run.preprocessing_receipt: run for run in survey.untrained}
    left = {
        "plan": sum(not is_planned(run) for run in unfitted.values()),
        "fit": sum(not is_planned(run) for run in plans.values()),
        "preprocess": sum(not is_preprocessed(run) for run in preprocessed.values()),
        "train": len(survey.untrained),
        "validate": len(survey.runs) - len(survey.done),
    }
    if survey.suite.gpu_memory_gb is None:
        del left["fit"]
    return left


def trainings_left(survey: Survey) -> Iterator[str]:
    """A line for each dataset and configuration with trainings to be done, and one on those that were interrupted."""
    groups: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for run in survey.runs:
        planned, left = groups.setdefault(f"{run.dataset} {run.configuration}", (Counter(), Counter()))
        planned[run.trainer] += 1
        left[run.trainer] += not survey.states[run].trained
    for name, (planned, left) in groups.items():
        trainers = ", ".join(f"{left[trainer]} of {trainer}" for trainer in planned if left[trainer])
        if left == planned:
            yield f"{name}: all {planned.total()}"
        elif trainers:
            yield f"{name}: {left.total()} of {planned.total()}: {trainers}"
    if begun := sum(is_begun(run) for run in survey.untrained):
        yield f"{begun} of them go on from a checkpoint, first of all"
