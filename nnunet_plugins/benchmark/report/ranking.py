"""Ranks of the trainers, how stable they are, and how far datasets agree about them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import Evaluation, by_evaluation
from nnunet_plugins.benchmark.report.statistics import Values, mean_kendall_tau, resampled_means
from nnunet_plugins.benchmark.report.units import compared_values, finished_trainers, unit_values


class Ranking(NamedTuple):
    """Ranks of the finished trainers of one evaluation."""

    trainers: list[str]
    ranks: Values
    """Rank of each trainer ``(k,)``: 1 is best; equal trainers have the mean of their ranks."""
    frequencies: Values
    """Share of the resamples in which a trainer (row) has a rank (column), ``(k, k)``; equal trainers share theirs."""
    kendall_tau: float
    """Mean rank correlation of the resampled rankings with the observed one."""


def rank_trainers(cases: pd.DataFrame, trainers: Sequence[str], metric: str = "Dice") -> Ranking | None:
    """Rank trainers by their mean over the cases for which any has a value; None if nothing can be ranked."""
    values = compared_values(cases[cases.trainer.isin(trainers)], metric)
    present = [trainer for trainer in trainers if trainer in values.columns]
    units = unit_values(values[present])
    if len(present) < 2 or len(units) < 2:
        return None
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    ranks = stats.rankdata(sign * units.mean().to_numpy())
    means = sign * resampled_means(units.to_numpy())
    first, last = (stats.rankdata(means, axis=1, method=method).astype(int) for method in ("min", "max"))
    shares = [((first <= rank) & (rank <= last)) / (last - first + 1) for rank in range(1, len(present) + 1)]
    frequencies = np.stack([share.mean(axis=0) for share in shares], axis=1)
    return Ranking(present, ranks, frequencies, mean_kendall_tau(ranks, first))


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

    Evaluations that lack one of their dataset's trainers are left out, then trainers that are not in all others.
    """
    columns = {
        evaluation: pd.Series(ranking.ranks, ranking.trainers)
        for evaluation, ranking in rankings.items()
        if set(ranking.trainers) == set(record.trainers_of(evaluation.dataset))
    }
    table = pd.DataFrame(columns).dropna().rank()
    if len(table) < 2:
        return pd.DataFrame()
    return table.loc[average_ranks(table).sort_values(kind="stable").index]


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
