"""Statistics of one sample or of two paired ones: bootstrap, signed-rank test, Holm's correction, Kendall's tau."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
NUM_RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A trainer against the reference, unit by unit; differences are the trainer's value minus the reference's."""

    units: int
    difference: Interval
    p: float
    wins: int
    ties: int
    losses: int


def resampled_means(values: Values) -> Values:
    """Means of the units ``(n, ...)`` in each resample: ``(NUM_RESAMPLES, ...)``.

    The resamples depend on n alone, so that differences stay paired. They are drawn in chunks: all 10,000 of 5000 units
    would take 400 MB.
    """
    rng = np.random.default_rng(SEED)
    num_units, chunk = len(values), 100
    draws = (rng.integers(num_units, size=(chunk, num_units)) for _ in range(NUM_RESAMPLES // chunk))
    return np.concatenate([values[drawn].mean(axis=1) for drawn in draws])


def bootstrap(values: Values) -> Interval:
    """Mean of units ``(n,)`` with the percentile bootstrap's interval, which is NaN for a single unit."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.quantile(resampled_means(values), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def compare(values: Values, reference: Values, higher_is_better: bool) -> Comparison:
    """Compare a trainer with the reference on paired units ``(n,)``."""
    difference = values - reference
    better = difference if higher_is_better else -difference
    return Comparison(
        units=len(values),
        difference=bootstrap(difference),
        p=wilcoxon(difference),
        wins=int(np.count_nonzero(better > 0)),
        ties=int(np.count_nonzero(better == 0)),
        losses=int(np.count_nonzero(better < 0)),
    )


def wilcoxon(difference: Values) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test; 1 if all differences are 0.

    Up to 50 units the test is exact, also with ties, for which scipy would draw permutations: p is the share of all
    choices of signs whose sum of ranks is as extreme as the observed one.
    """
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    if len(difference) > 50:
        return float(stats.wilcoxon(difference, method="asymptotic").pvalue)
    ranks = np.round(2 * stats.rankdata(np.abs(difference))).astype(int)  # doubled, as ties have halves
    ways = np.ones(1)  # number of choices of signs for each sum of positive ranks
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    positive = int(ranks[difference > 0].sum())
    extreme = min(positive, int(ranks.sum()) - positive)
    return float(min(1.0, 2 * ways[: extreme + 1].sum() / 2.0 ** len(ranks)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values after Holm's correction, in the given order."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - index) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def mean_kendall_tau(ranks: Values, drawn: NDArray[np.int64]) -> float:
    """Mean Kendall tau-b of the drawn rankings ``(b, k)`` with ``ranks`` ``(k,)``; tau is 0 where all are tied."""
    rankings, counts = np.unique(drawn, axis=0, return_counts=True)
    first, second = np.triu_indices(len(ranks), 1)
    observed = np.sign(ranks[first] - ranks[second])
    others = np.sign(rankings[:, first] - rankings[:, second])
    norm = np.sqrt(np.count_nonzero(observed) * np.count_nonzero(others, axis=1))
    taus = np.divide(others @ observed, norm, out=np.zeros(len(others)), where=norm > 0)
    return float(np.average(taus, weights=counts))
