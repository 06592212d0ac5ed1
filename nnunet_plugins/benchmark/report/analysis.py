"""The numbers of a report: every metric of every trainer, its interval, and its difference to the reference."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.report.numbers import NUMBERS, numbers_of
from nnunet_plugins.benchmark.report.ranking import Ranking, average_ranks, finished_rankings, rank_table
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, METRICS, Evaluation, Results, by_evaluation
from nnunet_plugins.benchmark.report.units import (
    MEAN_LABEL,
    CaseArrays,
    case_arrays,
    finished_trainers,
    labels_of,
    num_finished_trainings,
)


class Analysis(NamedTuple):
    """Results and all that is computed from them; tables and figures show it."""

    results: Results
    table: pd.DataFrame
    """The :func:`result_table`."""
    rankings: dict[Evaluation, Ranking]

    @property
    def order(self) -> list[str]:
        """The suite's trainers in the order of all tables and figures.

        First those of the table of ranks, the best first; then others, by their means' places; at last those without
        results.
        """
        ranks = average_ranks(rank_table(self.rankings, self.results.record))
        dice = main_label_rows(self.table[self.table.metric == "Dice"])
        places = dice.groupby(EVALUATION_COLUMNS)["mean"].rank(ascending=False, pct=True)
        average = places.groupby([dice.dataset, dice.trainer]).mean().groupby("trainer").mean().fillna(2)
        return sorted(
            self.results.record.suite.trainers,
            key=lambda trainer: (ranks.get(trainer, np.inf), average.get(trainer, 2)),
        )


def analyse(results: Results) -> Analysis:
    cases, record = results.cases, results.record
    return Analysis(results, result_table(cases, record), finished_rankings(cases, record))


def result_table(cases: pd.DataFrame, record: Record, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """A row for each evaluation, label, metric and trainer; unfinished trainers have no numbers."""
    rows: list[dict[str, Any]] = []
    for evaluation, group in by_evaluation(cases):
        arrays = case_arrays(group, finished_trainers(group, record, evaluation.dataset), tuple(metrics))
        for label in labels_of(group):
            chosen = group if label == MEAN_LABEL else group[group.label == label]
            about = {**evaluation._asdict(), "label": label}
            trainers = record.trainers_of(evaluation.dataset)
            found = label_rows(chosen, arrays.of_label(label), trainers, record.suite.reference)
            rows += [about | row for row in found]
    return pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float))


def label_rows(
    cases: pd.DataFrame, arrays: CaseArrays, trainers: Sequence[str], reference: str
) -> Iterator[dict[str, Any]]:
    """Rows of one evaluation and one label, or the mean over labels.

    Args:
        cases: their rows of ``cases.csv``.
        arrays: values of the finished trainers in them.
        trainers: all trainers of the dataset.
        reference: the trainer that the others are compared with.
    """
    numbers = numbers_of(cases, arrays, reference)
    done, outcomes = num_finished_trainings(cases), cases.groupby(["trainer", "outcome"]).size()
    for row, metric in enumerate(arrays.metrics):
        for trainer in trainers:
            column = arrays.trainers.index(trainer) if trainer in arrays.trainers else None
            own = {name: np.nan if column is None else values[row, column] for name, values in numbers.items()}
            counts = {
                name.replace(" ", "_"): int(outcomes.get((trainer, name), 0))
                for name in ("missed", "hallucinated", "both empty")
            }
            yield {"metric": metric} | own | {"trainer": trainer, "trainings": done.get(trainer, 0)} | counts


def main_label_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a :func:`result_table` for the mean over labels, or for the only label."""
    return table[table.label == table.groupby(EVALUATION_COLUMNS).label.transform("first")]
