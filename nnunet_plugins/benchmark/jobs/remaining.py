"""The dry run: jobs and trainings of a suite that are left, and the disk that they take."""

from collections import Counter
from collections.abc import Iterator

from nnunet_plugins.benchmark.jobs.disk import in_words, needs_of
from nnunet_plugins.benchmark.jobs.sources import missing_cases, preprocessed_data_are_stale
from nnunet_plugins.benchmark.jobs.states import is_planned, is_preprocessed
from nnunet_plugins.benchmark.progress import is_begun
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.locks import is_locked


def dry_run(survey: Survey) -> None:
    """Print how many jobs of which kind are left, of which trainers, and write nothing."""
    left, done_before = jobs_left(survey), done_by_hand(survey)
    for step, number in left.items():
        short = f"   ({done_before[step]} of them only to look: it is done already)" if done_before[step] else ""
        print(f"{step:12}{number:6}{short}")
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


def done_by_hand(survey: Survey) -> Counter[str]:
    """Number of datasets for which a step has been done without the benchmark, so that its job has little to do."""
    found: Counter[str] = Counter()
    for run in {run.unfitted.plan_receipt: run.unfitted for run in survey.untrained}.values():
        found["plan"] += not is_planned(run) and run.plans_file.exists() and run.splits_file.exists()
    for run in {run.preprocessing_receipt: run.unfitted for run in survey.untrained}.values():
        there = run.plans_file.exists() and run.splits_file.exists() and not is_preprocessed(run)
        found["preprocess"] += there and not (missing_cases(run) or preprocessed_data_are_stale(run))
    return found


def trainings_left(survey: Survey) -> Iterator[str]:
    """A line for each dataset and configuration with trainings left, then on those that run and were interrupted."""
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
    running = {run for run in survey.untrained if is_locked(run.lock_file)}
    if running:
        yield f"{len(running)} of these {'is' if len(running) == 1 else 'are'} being trained by another process"
    if begun := sum(is_begun(run) for run in survey.untrained if run not in running):
        yield f"{begun} of these {'goes' if begun == 1 else 'go'} on from a checkpoint, before all others"
