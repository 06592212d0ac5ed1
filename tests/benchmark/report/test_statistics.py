"""Proves that bootstrap, signed-rank test, Holm's correction and tau are right by hand and by a slow reference."""

import itertools
import math
import statistics as slow
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.benchmark_results import GRID

from nnunet_plugins.benchmark.report.statistics import (
    NUM_RESAMPLES,
    Intervals,
    holm,
    intervals,
    mean_kendall_tau,
    resampled_means,
    signed_rank_test,
    wilcoxon,
)


def bootstrap(values):
    return Intervals(*(float(number) for (number,) in intervals(values[:, None])))


def p_of(differences):
    (p,) = wilcoxon(np.array(differences, float)[:, None]).p
    return p


@pytest.mark.parametrize("num_units", [5, 6, 9])
def test_growing_gap_has_the_smallest_p(num_units):
    assert p_of(0.125 + GRID[:num_units]) == p_of(-0.125 - GRID[:num_units]) == 2 / 2**num_units


def test_ties_of_few_units_are_tested_exactly_in_no_time():
    """Distances in pixels tie often: a report has hundreds of such tests."""
    start = time.process_time()
    assert p_of(np.full(13, 0.125)) == pytest.approx(2 / 2**13)
    assert time.process_time() - start < 0.5


def test_two_units_have_an_interval_between_them():
    """A resample is one unit twice, the other twice, or both, with chances 1/4, 1/4 and 1/2."""
    assert bootstrap(np.array([0.25, 0.75])) == (0.5, 0.25, 0.75, 2)


def test_p_is_that_of_the_signed_rank_test():
    # Differences 1 -2 3 4 5: of the 32 choices of signs, 2 have a rank sum of at most 2 below zero ({}, {1}), and {2}.
    assert p_of([1.0, -2.0, 3.0, 4.0, 5.0]) == 2 * 3 / 32
    assert p_of(np.zeros(5)) == 1


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([1, 2, 3], 1), ([-5, 1], -1 / 3), ([1, 2, -3], 0), ([0, 0], 0), ([0, math.nan, 4], 1), ([math.nan], math.nan)],
)
def test_direction_of_the_signed_ranks(differences, expected):
    (found,) = wilcoxon(np.array(differences, float)[:, None]).rank_biserial
    assert found == pytest.approx(expected, nan_ok=True)


def slow_signed_rank(differences):
    """Share of all choices of signs whose rank sum is at least as far from the middle; zeros dropped, ties averaged."""
    sizes = [abs(difference) for difference in differences if difference]
    ranks = [sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    observed = sum(rank for rank, d in zip(ranks, filter(None, differences), strict=True) if d > 0)
    middle = sum(ranks) / 2
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    return slow.mean(abs(value - middle) >= abs(observed - middle) for value in sums)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_is_exact_for_ties_and_zeros(differences):
    assert p_of(differences) == pytest.approx(slow_signed_rank(differences))


def test_p_of_many_units_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(0.02, 0.1, 60)
    ranks = np.argsort(np.argsort(np.abs(values))) + 1
    z = (ranks[values > 0].sum() - 60 * 61 / 4) / math.sqrt(60 * 61 * 121 / 24)
    assert p_of(values) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))


def test_p_of_many_units_with_ties_and_zeros_is_that_of_scipy():
    values = np.round(np.random.default_rng(1).normal(0.1, 1, (90, 4)), 1)
    expected = stats.wilcoxon(values, method="asymptotic").pvalue
    assert wilcoxon(values).p == pytest.approx(expected, rel=1e-12) and (values == 0).any()


def test_columns_are_tested_apart_without_what_they_lack():
    nothing = np.nan
    columns = np.array([[1.0, 0.0, nothing], [2.0, 0.0, nothing], [-3.0, nothing, nothing], [nothing, 0.0, nothing]])
    assert wilcoxon(columns).p == pytest.approx([slow_signed_rank([1, 2, -3]), 1, nothing], nan_ok=True)
    assert signed_rank_test(np.array([]))[0] == 1


# ---- bootstrap -------------------------------------------------------------------------------------------------------


def test_columns_have_the_intervals_that_each_has_alone():
    values = np.random.default_rng(0).random((12, 6))
    values[:4, 1] = values[5:, 2] = values[1:, 3] = values[:, 4] = np.nan
    found = intervals(values)
    assert found.units == pytest.approx([12, 8, 5, 1, np.nan, 12], nan_ok=True)
    for column in range(6):
        present = values[:, column][~np.isnan(values[:, column])]
        alone = [present.mean(), *slow_interval(present)] if len(present) else [np.nan] * 3
        assert [found.mean[column], found.low[column], found.high[column]] == pytest.approx(alone, nan_ok=True)


def slow_interval(values):
    if len(values) < 2:
        return [np.nan] * 2
    return np.quantile(resampled_means(values), [0.025, 0.975])


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = intervals(rng.normal(3, 2, (400, 40)).T)
    coverage = np.mean((found.low <= 3) & (found.high >= 3))
    assert 0.91 < coverage < 0.98  # 95 % but for few units, and for 400 samples (standard error 0.011)
    assert np.mean(found.low > 3) == pytest.approx(0.025, abs=0.02)


def test_interval_is_that_of_the_normal_distribution_for_many_units():
    values = np.random.default_rng(1).normal(0.7, 0.1, 1000)
    interval = bootstrap(values)
    error = 1.96 * values.std() / math.sqrt(1000)
    assert interval.mean == values.mean()
    assert [interval.low, interval.high] == pytest.approx(
        [values.mean() - error, values.mean() + error], abs=error / 20
    )


def test_resamples_are_drawn_with_replacement_and_always_the_same():
    weights = resampled_means(np.eye(7))
    assert weights.shape == (NUM_RESAMPLES, 7) == (10_000, 7)
    assert np.array_equal(weights * 7, np.round(weights * 7)) and np.allclose(weights.sum(axis=1), 1)
    assert weights.mean(axis=0) == pytest.approx(np.full(7, 1 / 7), abs=0.005)
    assert (weights * 7).var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.05)  # of a binomial
    values = np.random.default_rng(0).random((7, 3))
    means = resampled_means(values)
    assert means == pytest.approx(weights @ values)
    for column in range(3):  # differences of trainers are those of the same resamples
        assert np.array_equal(resampled_means(values[:, column]), means[:, column])


def test_paired_interval_is_narrower_than_that_of_two_samples():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.9, 30)
    other = values + 0.02 + rng.normal(0, 0.01, 30)
    paired = bootstrap(other - values)
    unpaired = math.hypot(*(interval.high - interval.low for interval in (bootstrap(values), bootstrap(other))))
    assert paired.high - paired.low < unpaired / 10
    assert 0 < paired.low < 0.02 < paired.high


# ---- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, but no less than the one before.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == [] and holm(np.array([0.2])).tolist() == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_between_no_correction_and_bonferroni(values):
    adjusted = holm(np.array(values))
    for p, corrected in zip(values, adjusted, strict=True):
        assert p <= corrected <= min(1, len(values) * p) * (1 + 1e-12)
        assert all(corrected <= other for q, other in zip(values, adjusted, strict=True) if p < q)


# ---- Kendall's tau ---------------------------------------------------------------------------------------------------


def slow_tau(first, second):
    """Kendall's tau-b: pairs in the same order less those in the other, over the geometric mean of untied pairs."""
    pairs = list(itertools.combinations(range(len(first)), 2))
    a, b = ([np.sign(ranks[i] - ranks[j]) for i, j in pairs] for ranks in (first, second))
    untied = math.sqrt(sum(map(abs, a)) * sum(map(abs, b)))
    return sum(x * y for x, y in zip(a, b, strict=True)) / untied if untied else 0.0


def test_tau_is_kendalls_averaged_over_the_rankings():
    rng = np.random.default_rng(0)
    drawn = rng.integers(1, 5, (50, 4))
    for ranks in (np.array([1.0, 2, 3, 4]), np.array([1.5, 1.5, 3, 4]), np.array([2.5] * 4)):
        expected = np.mean([slow_tau(ranks, other) for other in drawn])
        assert mean_kendall_tau(ranks, drawn) == pytest.approx(expected, abs=1e-12)
