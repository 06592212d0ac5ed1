"""The numbers of a report: every metric of every trainer, its interval, and its difference to the reference."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.ranking import Ranking, finished_rankings
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, METRICS, Evaluation, Results, by_evaluation
from nnunet_plugins.benchmark.report.statistics import Comparison, bootstrap, compare, holm
from nnunet_plugins.benchmark.report.units import (
    case_values,
    cases_of_label,
    compared_values,
    finished_trainers,
    labels_of,
    num_finished_trainings,
    unit_values,
)

NUMBERS = (
    "units", "pairs", "mean", "sd", "ci_low", "ci_high", "run_sd", "difference", "difference_low", "difference_high",
    "p", "p_holm", "wins", "ties", "losses",
)  # fmt: skip
"""Columns that only finished trainers have values in."""


class Analysis(NamedTuple):
    """Results and all that is computed from them; tables and figures show it."""

    results: Results
    table: pd.DataFrame
    """The :func:`result_table`."""
    rankings: dict[Evaluation, Ranking]


def analyse(results: Results) -> Analysis:
    cases, record = results.cases, results.record
    return Analysis(results, result_table(cases, record), finished_rankings(cases, record))


def result_table(cases: pd.DataFrame, record: Record, metrics: Iterable[str] = METRICS) -> pd.DataFrame:
    """A row for each evaluation, label, metric and trainer; unfinished trainers have no numbers."""
    rows: list[dict[str, Any]] = []
    for evaluation, group in by_evaluation(cases):
        for label in labels_of(group):
            chosen = cases_of_label(group, label)
            for metric in metrics:
                about = {**evaluation._asdict(), "label": label, "metric": metric}
                rows += [about | row for row in trainer_rows(chosen, record, evaluation.dataset, metric)]
    return pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float))


def trainer_rows(cases: pd.DataFrame, record: Record, dataset: str, metric: str) -> list[dict[str, Any]]:
    """Numbers of each trainer of a dataset, for one metric and one label or the mean over labels."""
    finished = finished_trainers(cases, record, dataset)
    values = case_values(cases[cases.trainer.isin(finished)], metric)
    comparisons = comparisons_with(record.suite.reference, finished, cases, metric)
    adjusted = holm({trainer: comparison.p for trainer, comparison in comparisons.items()})
    rows = []
    for trainer in record.trainers_of(dataset):
        own = cases[cases.trainer == trainer]
        row: dict[str, Any] = dict.fromkeys(NUMBERS)
        row |= {"trainer": trainer, "trainings": num_finished_trainings(cases, trainer)}
        if trainer in finished and trainer in values.columns:
            row |= mean_columns(unit_values(values[trainer].dropna())) | {"run_sd": run_spread(own, metric)}
        if trainer in comparisons:
            row |= difference_columns(comparisons[trainer]) | {"p_holm": adjusted[trainer]}
        rows.append(row | outcome_columns(own))
    return rows


def comparisons_with(
    reference: str, finished: Sequence[str], cases: pd.DataFrame, metric: str
) -> dict[str, Comparison]:
    """Comparison of each other finished trainer with the reference; none if the reference is not finished."""
    if reference not in finished:
        return {}
    comparisons = {}
    for trainer in finished:
        if trainer != reference:
            units = unit_values(compared_values(cases[cases.trainer.isin([trainer, reference])], metric))
            if len(units):
                ours, theirs = units[trainer].to_numpy(), units[reference].to_numpy()
                comparisons[trainer] = compare(ours, theirs, HIGHER_IS_BETTER[metric])
    return comparisons


def mean_columns(units: pd.Series) -> dict[str, Any]:
    interval = bootstrap(units.to_numpy())
    sd = units.std(ddof=1) if len(units) > 1 else None
    return {"units": len(units), "mean": interval.mean, "sd": sd, "ci_low": interval.low, "ci_high": interval.high}


def difference_columns(comparison: Comparison) -> dict[str, Any]:
    columns = dict(zip(("difference", "difference_low", "difference_high"), comparison.difference, strict=True))
    counts = {"wins": comparison.wins, "ties": comparison.ties, "losses": comparison.losses}
    return columns | counts | {"pairs": comparison.units, "p": comparison.p}


def outcome_columns(cases: pd.DataFrame) -> dict[str, int]:
    """Number of cases that a trainer has missed, hallucinated, or rightly left empty."""
    outcomes = cases.outcome.value_counts()
    return {name.replace(" ", "_"): int(outcomes.get(name, 0)) for name in ("missed", "hallucinated", "both empty")}


def run_spread(cases: pd.DataFrame, metric: str) -> float | None:
    """Standard deviation of the mean from repetition to repetition; None without repetitions."""
    means = [
        unit_values(case_values(repetition, metric).iloc[:, 0]).mean()
        for _, repetition in cases.groupby("repeat", sort=True)
        if repetition[metric].notna().any()  # a label may be empty everywhere, reference and prediction
    ]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def main_label_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a :func:`result_table` for the mean over labels, or for the only label."""
    return table[table.label == table.groupby(EVALUATION_COLUMNS).label.transform("first")]
