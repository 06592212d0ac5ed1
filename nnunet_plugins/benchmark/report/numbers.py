"""Means, intervals and comparisons of all metrics and trainers of an evaluation at once."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.statistics import (
    SIGNIFICANT,
    Intervals,
    SignedRanks,
    Values,
    cannot_tell,
    holm,
    intervals,
    wilcoxon,
)
from nnunet_plugins.benchmark.report.units import CaseArrays, case_arrays

NUMBERS = (
    "units", "pairs", "mean", "sd", "ci_low", "ci_high", "run_sd", "difference", "difference_low", "difference_high",
    "p", "p_holm", "rank_biserial", "wins", "ties", "losses", "p_holm_best", "rank_biserial_best",
)  # fmt: skip
"""Columns of a report's long table that only finished trainers have values in.

The last two belong to the comparison with the trainer that has the best mean.
"""


def numbers_of(cases: pd.DataFrame, arrays: CaseArrays, reference: str) -> dict[str, Values]:
    """Values ``(metrics, trainers)`` of all :data:`NUMBERS`; NaN where there are none.

    Args:
        cases: rows of one evaluation, with one label or all.
        arrays: the values of the trainers in them.
        reference: the trainer that all others are compared with, if it is among them.
    """
    shape = arrays.means.shape[1:]
    found = dict.fromkeys(NUMBERS, np.full(shape, np.nan))
    if not arrays.trainers:
        return found
    units = arrays.units()
    mean = in_shape(intervals(units.reshape(len(units), -1)), shape)
    found |= {"units": mean.units, "mean": mean.mean, "ci_low": mean.low, "ci_high": mean.high}
    found |= {"sd": spread(units), "run_sd": run_spread(cases, arrays)}
    gain = np.where(np.isnan(mean.mean), -np.inf, signs(arrays) * mean.mean)
    best = gain.argmax(axis=1)[:, None]
    to_best = compared_with(arrays, np.broadcast_to(best, shape))
    test = wilcoxon_of(to_best)
    p_best = holm_of_rows(test.p)
    if reference in arrays.trainers:
        place = arrays.trainers.index(reference)
        found |= comparison(arrays, np.full(shape, place))
        p_best[:, place] = np.take_along_axis(found["p_holm"], best, axis=1)[:, 0]  # one verdict about that pair
    pairs = (~np.isnan(to_best)).sum(axis=0).astype(float)
    for metric, row in enumerate(p_best):
        known = np.flatnonzero(~np.isnan(row))
        row[known[cannot_tell(pairs[metric, known])]] = np.nan
    return found | {"p_holm_best": p_best, "rank_biserial_best": test.rank_biserial}


def comparison(arrays: CaseArrays, others: NDArray[np.int64]) -> dict[str, Values]:
    """Comparison of each trainer with another one, by the names of :data:`NUMBERS`.

    Args:
        arrays: the trainers' values.
        others: place of the other trainer, ``(metrics, trainers)``.
    """
    differences = compared_with(arrays, others)
    mean = in_shape(intervals(differences.reshape(len(differences), -1)), others.shape)
    better = signs(arrays) * differences
    counts = {"wins": better > 0, "ties": better == 0, "losses": better < 0}
    test = wilcoxon_of(differences)
    return {
        "pairs": mean.units,
        "difference": mean.mean,
        "difference_low": mean.low,
        "difference_high": mean.high,
        "p": test.p,
        "p_holm": holm_of_rows(test.p),
        "rank_biserial": test.rank_biserial,
    } | {name: np.where(np.isnan(test.p), np.nan, count.sum(axis=0)) for name, count in counts.items()}


def compared_with(arrays: CaseArrays, others: NDArray[np.int64]) -> Values:
    """Differences to another trainer ``(units, metrics, trainers)``; NaN where that is the trainer itself."""
    itself = others == np.arange(others.shape[1])
    return np.where(itself, np.nan, arrays.differences(others))


def signs(arrays: CaseArrays) -> Values:
    """1 where higher is better, -1 where lower is, ``(metrics, 1)``."""
    return np.array([[1.0 if HIGHER_IS_BETTER[metric] else -1.0] for metric in arrays.metrics])


def wilcoxon_of(differences: Values) -> SignedRanks:
    """Signed-rank tests of differences ``(units, ...)``."""
    found = wilcoxon(differences.reshape(len(differences), -1))
    return SignedRanks(*(values.reshape(differences.shape[1:]) for values in found))


def contrary(rows: pd.DataFrame) -> pd.Series:
    """Whether a significant test says the opposite of the mean difference, for rows of a long table."""
    return (rows.p_holm < SIGNIFICANT) & (rows.rank_biserial * rows.difference < 0)


def holm_of_rows(p_values: Values) -> Values:
    """P values ``(metrics, trainers)`` after Holm's correction over the trainers that have one."""
    adjusted = np.full(p_values.shape, np.nan)
    for row, values in enumerate(p_values):
        known = np.flatnonzero(~np.isnan(values))
        adjusted[row, known] = holm(values[known])
    return adjusted


def in_shape(found: Intervals, shape: tuple[int, ...]) -> Intervals:
    return Intervals(*(values.reshape(shape) for values in found))


def spread(values: Values) -> Values:
    """Standard deviation ``(n, ...) -> (...)`` of the values that are no NaN; NaN for fewer than two."""
    return pd.DataFrame(values.reshape(len(values), -1)).std(ddof=1).to_numpy().reshape(values.shape[1:])


def run_spread(cases: pd.DataFrame, arrays: CaseArrays) -> Values:
    """Standard deviation of the mean from repetition to repetition, ``(metrics, trainers)``; NaN without repetitions.

    A repetition does not count where a label is empty everywhere in it, reference and prediction.
    """
    means = []
    for _, repetition in cases.groupby("repeat"):
        units = case_arrays(repetition, arrays.trainers, arrays.metrics).units()
        means.append(pd.DataFrame(units.reshape(len(units), -1)).mean().to_numpy())
    return spread(np.stack(means).reshape(-1, *arrays.means.shape[1:]))
