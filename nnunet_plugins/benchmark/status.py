"""The table of a suite's runs: trainer, dataset, fold, epoch, Dice, time left, state."""

from collections.abc import Mapping

from nnunet_plugins.benchmark.progress import Progress, progress_of
from nnunet_plugins.benchmark.runs import Run, work_folder
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.text_tables import aligned

HEADER = ("TRAINER", "DATASET", "FOLD", "EPOCH", "DICE", "LEFT", "STATE")


def print_status(survey: Survey) -> None:
    """Print a line for each run, and how many are in which state."""
    progress = {run: progress_of(survey, run) for run in survey.runs}
    print(aligned([HEADER, *(cells(survey.suite, run, found) for run, found in progress.items())]))
    print(f"\n{summary(survey.suite, progress)}")


def cells(suite: Suite, run: Run, progress: Progress) -> tuple[str, ...]:
    """Cells of a run's row."""
    repeat = f" repeat {run.repeat}" if run.repeat > 1 else ""
    num_epochs = suite.epochs_for(run.trainer)
    return (
        run.trainer,
        f"{run.dataset} {run.configuration}",
        f"{run.fold}{repeat}",
        f"{progress.epochs} of {num_epochs}" if progress.epochs or progress.state == "training" else "-",
        "-" if progress.dice is None else f"{progress.dice:.3f}",
        "-" if progress.seconds_left is None else duration(progress.seconds_left),
        str(progress),
    )


def in_words(num_epochs: int, progress: Progress) -> str:
    """Progress in a line of a log, e.g. ``training, epoch 3 of 100, Dice 0.812, 2 h 05 min left``."""
    words = [str(progress)]
    if progress.state in ("training", "stopped"):
        words.append(f"epoch {progress.epochs} of {num_epochs}")
    if progress.dice is not None:
        words.append(f"Dice {progress.dice:.3f}")
    if progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)


def summary(suite: Suite, progress: Mapping[Run, Progress]) -> str:
    """Number of trainings that are done, of those in any other state, and where the logs are."""
    states = [found.state for found in progress.values()]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "done"]
    done = ", ".join([f"{states.count('done')} of {len(states)} trainings done", *others])
    return f"{done}. Logs: {work_folder(suite) / 'logs'}"


def duration(seconds: float) -> str:
    """A time to wait, rounded to the smaller of its two units.

    Example:
        >>> duration(42), duration(125), duration(7500), duration(200_000)
        ('42 s', '2 min', '2 h 05 min', '2 d 08 h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
