"""The sentences of a report: what was run, how its numbers are defined, and what to bear in mind when reading them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.cells import written
from nnunet_plugins.benchmark.report.numbers import contrary
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import by_evaluation
from nnunet_plugins.benchmark.report.units import finished_trainers
from nnunet_plugins.benchmark.runs import EXTERNAL, is_test_set
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.wording import counted, enumeration

DEFINITIONS = (
    "Dice as nnU-Net counts it. HD95 (the larger of both directions' 95th percentiles), ASSD and NSD between surfaces "
    "as MONAI defines them, in mm (in pixels where images have no spacing). Where one of both masks is empty, Dice and "
    "NSD are 0 and distances the image's diagonal. Where both are empty, means leave the case out, while comparisons "
    "and ranks count it as right (Dice 1, distances 0) against a trainer that finds something there. Intervals: 95 %, "
    "percentile bootstrap over units (10,000 resamples). p: Wilcoxon's signed-rank test on paired units, Holm's "
    "correction over trainers."
)
NNUNET_STEPS = 250
"""Steps of an epoch where the suite does not set them."""
FEW_UNITS = 10
LITTLE = 0.1
"""Mean Dice below which a network has not learnt its task yet."""
VISIBLE = 5e-5
"""Smallest difference that four decimals show."""
NOISE, SPREAD, OPPOSITE, FEW, GAP = (
    "Differences whose interval contains 0",
    "Differences no larger than from run to run",
    "Differences whose mean and test say the opposite",
    f"Differences over fewer than {FEW_UNITS} units",
    "Differences that are not those of the means",
)
ENSEMBLE = "A test case's value is the mean over the folds' models, not that of their ensemble"
MOST_TOLD, NUM_EXAMPLES = 10, 3
"""Most notices of a kind that are all told, and number of examples of more."""


def describe_suite(record: Record) -> str:
    """Sentence that tells what was trained, for how long, and where the report was written."""
    suite, machine = record.suite, record.machine
    folds = f"fold{'s' if len(suite.folds) > 1 else ''} {', '.join(map(str, suite.folds))}"
    repeats = f", each {suite.repeats} times" if suite.repeats > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if version)
    memory = suite.gpu_memory_gb
    plans = "" if memory is None else f" on plans that fit {memory:g} GiB"
    return (
        f"{describe_length(suite)}{plans}; "
        f"{folds}{repeats}; reference {suite.reference}. Report written on {machine.processor} "
        f"({machine.usable_cores} cores, {machine.platform}) with {versions}."
    )


def describe_length(suite: Suite) -> str:
    """Words that tell for how long each trainer was trained."""
    steps = f"of {counted(suite.iterations or NNUNET_STEPS, 'step')}"
    if not suite.epochs_of:
        return f"{counted(suite.epochs, 'epoch')} {steps} for every trainer"
    own = ", ".join(f"{trainer} {suite.epochs_for(trainer)}" for trainer in suite.trainers)
    return f"Different numbers of epochs {steps} ({own})"


class Notices(NamedTuple):
    """Sentences of one kind that a reader must not miss."""

    kind: str
    """Words on all of them, for a heading."""
    sentences: list[str]

    @property
    def shown(self) -> list[str]:
        """All sentences, or some examples of very many."""
        return self.sentences[: NUM_EXAMPLES if len(self.sentences) > MOST_TOLD else None]

    @property
    def title(self) -> str:
        number, shown = len(self.sentences), len(self.shown)
        return self.kind if number == 1 else f"{self.kind}: {number}" + (f", {shown} of them" if shown < number else "")


def notices(analysis: Analysis) -> list[Notices]:
    """All that is unfinished, unequal, unknown or doubtful, by kind."""
    results = analysis.results
    parts = sorted(results.cases.part.unique())
    external = [part for part in parts if part.startswith(EXTERNAL)]
    found: dict[str, Iterable[str]] = {
        "Unfinished trainings": unfinished(analysis),
        "Trainings of another length": unequal(analysis),
        "Trainings too short to compare, or failed": too_short(analysis),
        "Trainers measured on other cases": other_cases(analysis),
        "Units that are not known": unknown_units(results.record),
        **warnings(analysis.table, results.record.suite.reference),
        "Test sets": [ENSEMBLE] if any(map(is_test_set, parts)) else [],
        "Zero-shot test sets": [
            f"{part} is the test set of another dataset, on which nothing was trained" for part in external
        ],
    }
    return [Notices(kind, told) for kind, sentences in found.items() if (told := list(sentences))]


def number_of(found: Sequence[Notices]) -> int:
    return sum(len(kind.sentences) for kind in found)


def unfinished(analysis: Analysis) -> Iterator[str]:
    trainings, record = analysis.results.trainings, analysis.results.record
    done = trainings.groupby(["dataset", "configuration", "trainer"]).size()
    for dataset in record.datasets:
        for configuration in record.data(dataset).configurations:
            for trainer in record.trainers_of(dataset):
                number = done.get((dataset, configuration, trainer), 0)
                if number < record.num_trainings:
                    yield f"{dataset} {configuration} {trainer} has {number}/{record.num_trainings} folds"


def unequal(analysis: Analysis) -> Iterator[str]:
    trainings, suite = analysis.results.trainings, analysis.results.record.suite
    wanted = trainings.trainer.map(suite.epochs_for)
    for trainer, epochs in trainings[trainings.epochs != wanted].groupby("trainer").epochs:
        numbers = dict.fromkeys(f"{number:.0f}" for number in (epochs.min(), epochs.max()))
        yield f"{trainer} trained {' to '.join(numbers)} epochs"


def too_short(analysis: Analysis) -> Iterator[str]:
    """Sentences on trainers that found nothing, and on evaluations in which no trainer found much."""
    dice = main_label_rows(analysis.table[analysis.table.metric == "Dice"])
    cases = dict(by_evaluation(analysis.results.cases))
    for evaluation, rows in by_evaluation(dice):
        if (best := rows["mean"].max()) < LITTLE:
            yield f"{evaluation}: the best mean Dice is {best:.4f}, so the trainers' order says little"
        outcomes = cases[evaluation].groupby("trainer").outcome.value_counts().unstack(fill_value=0)
        missed = outcomes.get("missed", pd.Series(0, outcomes.index))
        for trainer in outcomes.index[(missed > 0) & (outcomes.get("segmented", 0) == 0)]:
            yield f"{evaluation}: {trainer} found nothing that is there, in any case"


def other_cases(analysis: Analysis) -> Iterator[str]:
    """Sentences on evaluations whose trainers do not have the same cases, as where a test set has changed meanwhile."""
    record = analysis.results.record
    for evaluation, rows in by_evaluation(analysis.results.cases):
        finished = finished_trainers(rows, record, evaluation.dataset)
        cases = {trainer: set(rows.case[rows.trainer == trainer]) for trainer in finished}
        every = set().union(*cases.values())
        if lacking := [f"{trainer} {len(own)}" for trainer, own in cases.items() if own != every]:
            yield (
                f"{evaluation}: of {len(every)} cases {enumeration(lacking)} only, so means cannot be compared: run "
                "the benchmark again where the test set is in nnUNet_raw, so that all have the same"
            )


def unknown_units(record: Record) -> Iterator[str]:
    for name, dataset in record.datasets.items():
        for part in [part for part, source in dataset.units.items() if source == "unknown"]:
            folder = part.removeprefix(EXTERNAL) if part.startswith(EXTERNAL) else name
            yield (
                f"{name} {part}: groups of cases, such as patients, are not known here, so cases count as independent: "
                f"write the report where nnUNet_raw/{folder}/conversion_report.csv is, or set cluster_regex"
            )


def warnings(table: pd.DataFrame, reference: str) -> dict[str, list[str]]:
    """Sentences, by kind, about differences that the data do not support, or that need an explanation."""
    found: dict[str, list[str]] = {kind: [] for kind in (NOISE, SPREAD, OPPOSITE, FEW, GAP)}
    for _, group in by_evaluation(main_label_rows(table[table.metric == "Dice"])):
        compared = group[group.difference.notna()]
        for row in compared.assign(contrary=contrary(compared)).itertuples():
            for kind, sentence in warnings_of(row, group[group.trainer == reference]):
                found[kind].append(sentence)
    return found


def warnings_of(row: Any, of_reference: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Kinds and sentences of a trainer's row, given that of the reference."""
    where = f"{row.dataset} {row.configuration} {row.part}: {row.trainer} differs by {written(row.difference, '+.4f')}"
    spread = np.nanmax([0.0, row.run_sd, *of_reference.run_sd])
    if row.difference_low <= 0 <= row.difference_high:
        yield NOISE, f"{where}, and the confidence interval contains 0"
    elif abs(row.difference) <= spread:
        yield SPREAD, f"{where}, no more than the spread from run to run ({spread:.4f})"
    if row.contrary:
        ranks = f"better in {row.wins:.0f} and worse in {row.losses:.0f} units, and the test follows their ranks"
        yield OPPOSITE, f"{where}, but is {ranks}: a few large differences decide the mean"
    if row.pairs < FEW_UNITS:
        yield FEW, f"{where}, over {row.pairs:.0f} units only"
    gap = row.mean - of_reference["mean"].max()
    if not abs(gap - row.difference) < VISIBLE:
        means = f"its mean by {written(gap, '+.4f')}" if np.isfinite(gap) else "one of both has no mean"
        rule = (
            "where only one of both is rightly empty, that counts as Dice 1 against 0 in comparisons, and is left out"
        )
        yield GAP, f"{where}, {means}: {rule} of its mean"
