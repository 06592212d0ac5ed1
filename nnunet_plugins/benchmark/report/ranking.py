"""Ranks of the trainers, how stable they are, and how far datasets agree about them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import Evaluation, by_evaluation
from nnunet_plugins.benchmark.report.statistics import Values, cannot_tell, mean_kendall_tau, resampled_means
from nnunet_plugins.benchmark.report.units import case_arrays, finished_trainers, unit_means


class Ranking(NamedTuple):
    """Ranks of the finished trainers of one evaluation."""

    trainers: list[str]
    ranks: Values
    """Rank of each trainer ``(k,)``: 1 is best; equal trainers have the mean of their ranks."""
    frequencies: Values
    """Share of the resamples in which a trainer (row) has a rank (column), ``(k, k)``; equal trainers share theirs."""
    kendall_tau: float
    """Mean rank correlation of the resampled rankings with the observed one."""
    num_units: int


def rank_trainers(cases: pd.DataFrame, trainers: Sequence[str], metric: str = "Dice") -> Ranking | None:
    """Rank trainers by their mean over the cases for which any has a value; None if nothing can be ranked."""
    arrays = case_arrays(cases, trainers, (metric,))
    values, predicted = arrays.compared[:, 0], ~np.isnan(arrays.compared[:, 0])
    rows = ~np.isnan(arrays.means[:, 0]).all(axis=1) & predicted[:, predicted.any(axis=0)].all(axis=1)
    present = [index for index in range(len(trainers)) if predicted[rows, index].any()]
    if len(present) < 2 or not rows.any():
        return None
    units = unit_means(values[rows][:, present], arrays.index[rows])
    if len(units) < 2:
        return None
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    ranks = stats.rankdata(sign * units.mean(axis=0))
    means = sign * resampled_means(units)
    first, last = (stats.rankdata(means, axis=1, method=method).astype(int) for method in ("min", "max"))
    chosen = [trainers[index] for index in present]
    return Ranking(chosen, ranks, rank_frequencies(first, last), mean_kendall_tau(ranks, first), len(units))


def rank_frequencies(first: NDArray[np.int64], last: NDArray[np.int64]) -> Values:
    """Share of the rankings ``(b, k)`` in which each trainer (row) has each rank (column).

    Args:
        first: best rank of each trainer in each ranking.
        last: its worst rank, which is another one where it is equal to others.
    """
    resamples, k = first.shape
    total = np.zeros(k * k)
    for offset in range(int((last - first).max()) + 1):
        shared = first + offset <= last
        places = (np.arange(k) * k + first - 1 + offset)[shared]
        total += np.bincount(places, 1 / (last - first + 1)[shared], minlength=k * k)
    return total.reshape(k, k) / resamples


def finished_rankings(cases: pd.DataFrame, record: Record, metric: str = "Dice") -> dict[Evaluation, Ranking]:
    """Ranking of every evaluation in which at least two trainers are finished."""
    rankings = {}
    for evaluation, group in by_evaluation(cases):
        ranking = rank_trainers(group, finished_trainers(group, record, evaluation.dataset), metric)
        if ranking is not None:
            rankings[evaluation] = ranking
    return rankings


def rank_table(rankings: Mapping[Evaluation, Ranking], record: Record) -> pd.DataFrame:
    """Comparable ranks: a row for each trainer, best first, a column for each evaluation.

    Evaluations with too few units to tell anything, or that lack one of their dataset's trainers, are left out; then
    trainers that are not in all others.
    """
    columns = {
        evaluation: pd.Series(ranking.ranks, ranking.trainers)
        for evaluation, ranking in rankings.items()
        if not has_too_few_units(ranking) and set(ranking.trainers) == set(record.trainers_of(evaluation.dataset))
    }
    table = pd.DataFrame(columns).dropna().rank()
    if len(table) < 2:
        return pd.DataFrame()
    return table.loc[average_ranks(table).sort_values(kind="stable").index]


def has_too_few_units(ranking: Ranking) -> bool:
    """Whether no test could tell any trainer from the best one."""
    return bool(cannot_tell(np.full(len(ranking.trainers) - 1, float(ranking.num_units))).all())


def average_ranks(table: pd.DataFrame) -> pd.Series:
    """Mean rank over the datasets of a :func:`rank_table`, which all count the same, however many columns they have."""
    return table.T.groupby(level=0).mean().mean()


def agreement(table: pd.DataFrame) -> float | None:
    """Mean Kendall tau over all pairs of a :func:`rank_table`'s columns of different datasets; None without a pair.

    Tau is 0 where all trainers are equal.
    """
    pairs = [(a, b) for a, b in combinations(table.columns, 2) if a[0] != b[0]]
    taus = [stats.kendalltau(table[a], table[b]).statistic for a, b in pairs]
    return float(np.mean(np.nan_to_num(taus))) if taus else None
