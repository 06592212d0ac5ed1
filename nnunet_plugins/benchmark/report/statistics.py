"""Statistics of one sample or of two paired ones: bootstrap, signed-rank test, Holm's correction, Kendall's tau."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Values = NDArray[np.float64]
NUM_RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
SIGNIFICANT = 0.05


class Intervals(NamedTuple):
    """Means of the columns of a table, with their confidence intervals and numbers of units: each ``(k,)``."""

    mean: Values
    low: Values
    high: Values
    units: Values


class SignedRanks(NamedTuple):
    """Results of signed-rank tests, each ``(k,)``."""

    p: Values
    """Two-sided p values."""
    rank_biserial: Values
    """Sum of the signed ranks over that of all ranks, from -1 to 1: the test's effect size (Kerby, 2014,
    https://doi.org/10.2466/11.IT.3.1), whose sign is its direction."""


def drawn_counts(num_units: int, chunk: int = 500) -> Iterator[Values]:
    """How often each unit is drawn in each resample, ``(NUM_RESAMPLES, num_units)`` in chunks of some rows.

    The resamples depend on the number of units alone, so that differences stay paired. All at once would take 400 MB
    for 5000 units.
    """
    rng = np.random.default_rng(SEED)
    beginnings = num_units * np.arange(chunk)[:, None]
    for _ in range(NUM_RESAMPLES // chunk):
        drawn = rng.integers(num_units, size=(chunk, num_units)) + beginnings
        yield np.bincount(drawn.ravel(), minlength=chunk * num_units).reshape(chunk, num_units).astype(float)


def resampled_means(values: Values) -> Values:
    """Means of the units ``(n, ...)`` in each resample: ``(NUM_RESAMPLES, ...)``; equal columns have equal means."""
    columns = values.reshape(len(values), -1)
    means = []
    for counts in drawn_counts(len(values)):
        total = np.zeros((len(counts), columns.shape[1]))
        for count, row in zip(counts.T, columns, strict=True):  # matrix products may sum each column in another order
            total += count[:, None] * row
        means.append(total / len(values))
    return np.concatenate(means).reshape(NUM_RESAMPLES, *values.shape[1:])


def intervals(values: Values) -> Intervals:
    """Mean of each column ``(n, k)`` over the units that are no NaN, with the percentile bootstrap's interval.

    A column without units has no mean and no number of units, one of a single unit no interval: NaN.
    """
    present = ~np.isnan(values)
    units = present.sum(axis=0)
    mean, low, high = np.full((3, values.shape[1]), np.nan)
    for number in np.unique(units[units > 0]):
        equally_many = np.flatnonzero(units == number)
        for columns in np.array_split(equally_many, -(-len(equally_many) // 256)):
            chosen = values.T[columns][present.T[columns]].reshape(len(columns), number)
            mean[columns] = chosen.mean(axis=1)
            if number > 1:
                means = np.concatenate([counts @ chosen.T for counts in drawn_counts(int(number))]).T / number
                bounds = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
                low[columns], high[columns] = np.round(bounds, 12)  # processors sum in orders of their own
    return Intervals(mean, low, high, np.where(units > 0, units, np.nan))


def wilcoxon(differences: Values) -> SignedRanks:
    """Wilcoxon's signed-rank test for each column ``(n, k)``.

    NaN are left out; a column of nothing else has no result. Where all differences are 0, p is 1 and the effect 0. Up
    to 50 units the test is exact, also with ties, for which scipy would draw permutations: p is the share of all
    choices of signs whose sum of ranks is as extreme as the observed one. With more, the sum is taken for normally
    distributed.
    """
    found = np.full((2, differences.shape[1]), np.nan)
    for column, difference in enumerate(differences.T):
        difference = difference[~np.isnan(difference)]
        if len(difference):
            found[:, column] = signed_rank_test(difference[difference != 0])
    return SignedRanks(*found)


def signed_rank_test(difference: Values) -> tuple[float, float]:
    """P value and rank-biserial correlation of differences ``(n,)`` without zeros."""
    n = len(difference)
    if not n:
        return 1.0, 0.0
    _, groups, ties = np.unique(np.abs(difference), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[groups]
    positive, every = ranks[difference > 0].sum(), n * (n + 1) / 2
    effect = float((2 * positive - every) / every)
    if n > 50:
        error = np.sqrt((n * (n + 1) * (2 * n + 1) - (ties**3 - ties).sum() / 2) / 24)
        z = (positive - n * (n + 1) / 4) / error
        return float(2 * special.ndtr(-abs(z))), effect
    doubled = np.round(2 * ranks).astype(int)  # as ties have halves
    extreme = int(2 * min(positive, every - positive))
    ways = number_of_ways(tuple(sorted(doubled.tolist())))
    return float(min(1.0, 2 * ways[: extreme + 1].sum() / 2.0**n)), effect


@lru_cache(maxsize=256)
def number_of_ways(ranks: tuple[int, ...]) -> Values:
    """Number of choices of signs for each sum of positive ranks."""
    ways = np.ones(1)
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    return ways


def holm(p_values: Values) -> Values:
    """P values ``(k,)`` after Holm's correction, in the given order."""
    order, number = np.argsort(p_values, kind="stable"), len(p_values)
    adjusted = np.empty(number)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (number - np.arange(number)) * p_values[order]))
    return adjusted


def cannot_tell(num_units: Values) -> NDArray[np.bool_]:
    """Whether signed ranks of so few units cannot be significant, for each of some comparisons ``(k,)``.

    The smallest p of ``n`` units is ``2 ** (1 - n)``; Holm's correction is that over all these comparisons.

    Example:
        >>> [cannot_tell(np.array(units)).tolist() for units in ([5], [6], [6, 6], [7, 7], [6, 7])]
        [[True], [False], [True, True], [False, False], [False, False]]
    """
    return holm(2.0 ** (1 - num_units)) >= SIGNIFICANT


def mean_kendall_tau(ranks: Values, drawn: NDArray[np.int64]) -> float:
    """Mean Kendall tau-b of the drawn rankings ``(b, k)`` with ``ranks`` ``(k,)``; tau is 0 where all are tied."""
    rankings, counts = np.unique(drawn, axis=0, return_counts=True)
    rankings = rankings.astype(np.float32)
    agreeing, untied, num_observed = np.zeros(len(rankings)), np.zeros(len(rankings)), 0.0
    for index in range(len(ranks) - 1):  # all pairs at once would take gigabytes for 100 trainers
        observed = np.sign(ranks[index] - ranks[index + 1 :]).astype(np.float32)
        others = np.sign(rankings[:, index, None] - rankings[:, index + 1 :])
        agreeing += others @ observed
        untied += np.count_nonzero(others, axis=1)
        num_observed += np.count_nonzero(observed)
    norm = np.sqrt(num_observed * untied)
    taus = np.divide(agreeing, norm, out=np.zeros(len(rankings)), where=norm > 0)
    return float(np.average(taus, weights=counts))
