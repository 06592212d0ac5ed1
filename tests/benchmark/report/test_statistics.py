"""Proves that statistics are right by hand and by a slow reference, and that only finished trainers have numbers."""

import itertools
import math
import statistics as slow
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.benchmark_results import CELLS, OTHER, REFERENCE, THIRD, case_row, case_table, record_of, rows_of, suite_of

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report import statistics
from nnunet_plugins.benchmark.report.statistics import (
    NUM_RESAMPLES,
    NUMBERS,
    agreement,
    average_ranks,
    bootstrap,
    case_values,
    compare,
    finished_rankings,
    holm,
    labels_of,
    mean_kendall_tau,
    of_main_label,
    progress,
    rank_table,
    ranking,
    resampled_means,
    result_table,
    unit_values,
    warnings,
    wilcoxon,
)

GRID = np.arange(16) / 32  # exact in binary: so are their differences and means


ALL_METRICS = dict(HIGHER_IS_BETTER)


@pytest.fixture(autouse=True)
def two_metrics(monkeypatch):
    """All are treated alike, and each takes its time."""
    monkeypatch.setattr(statistics, "HIGHER_IS_BETTER", {"Dice": True, "HD95": False})


@pytest.fixture
def all_metrics(two_metrics, monkeypatch):
    monkeypatch.setattr(statistics, "HIGHER_IS_BETTER", ALL_METRICS)


def record(trainers=(REFERENCE, OTHER), datasets=(CELLS,), **options):
    return record_of(suite_of(trainers, datasets, **options), dict.fromkeys(datasets))


def table_of(rows, trainers=(REFERENCE, OTHER), **options):
    return result_table(case_table(rows), record(trainers, **options))


def cell(table, trainer=OTHER, metric="Dice", label="cell", dataset=CELLS):
    chosen = (table.trainer == trainer) & (table.metric == metric) & (table.label == label) & (table.dataset == dataset)
    (row,) = table[chosen].to_dict("records")
    return row


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.125, 0.1])
@pytest.mark.parametrize("num_units", [5, 6, 9])
def test_constant_gap_is_the_difference_and_its_interval_with_the_smallest_p(gap, num_units):
    values = GRID[:num_units]
    comparison = compare(values + gap, values, higher_is_better=True)
    assert list(comparison.difference) == pytest.approx([gap] * 3)
    assert comparison[2:] == (comparison.p, num_units, 0, 0) and comparison.units == num_units
    assert comparison.p == pytest.approx(2 / 2**num_units)


@pytest.mark.parametrize("num_units", [5, 6, 9])
def test_growing_gap_has_the_smallest_p(num_units):
    assert wilcoxon(0.125 + GRID[:num_units]) == wilcoxon(-0.125 - GRID[:num_units]) == 2 / 2**num_units


def test_constant_gap_is_found_in_every_metric_and_needs_no_warning(all_metrics):
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.1}))
    for metric, higher_is_better in HIGHER_IS_BETTER.items():
        row = cell(table, metric=metric)
        difference = [row[name] for name in ("difference", "difference_low", "difference_high")]
        assert difference == pytest.approx([0.1 if higher_is_better else -10] * 3)
        assert row["p"] == row["p_holm"] < 0.001
        assert (row["wins"], row["ties"], row["losses"], row["units"]) == (16, 0, 0, 16)
        assert row["mean"] == pytest.approx(cell(table, REFERENCE, metric)["mean"] + difference[0])
    assert not warnings(table, REFERENCE)


@pytest.mark.parametrize(("num_units", "few"), [(9, True), (10, False)])
def test_few_units_are_pointed_out(num_units, few):
    gap = 0.125 + np.arange(num_units) / 64
    table = table_of(rows_of({REFERENCE: GRID[:num_units], OTHER: GRID[:num_units] + gap}))
    notes = [f"{CELLS} 2d validation: {OTHER} differs by {gap.mean():+.4f}, over {num_units} units only"]
    assert warnings(table, REFERENCE) == (notes if few else [])


def test_ties_of_few_units_are_tested_exactly_in_no_time():
    """Distances in pixels tie often: a report has hundreds of such tests."""
    start = time.process_time()
    assert wilcoxon(np.full(13, 0.125)) == pytest.approx(2 / 2**13)
    assert time.process_time() - start < 0.5


def test_trainer_that_is_worse_everywhere_loses_everywhere():
    row = cell(table_of(rows_of({REFERENCE: GRID + 0.125, OTHER: GRID})))
    assert (row["difference"], row["wins"], row["ties"], row["losses"]) == (-0.125, 0, 0, 16)
    assert row["p"] < 0.001


def test_equal_trainers_differ_by_nothing_and_that_is_said():
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID}))
    row = cell(table)
    assert [row[name] for name in ("difference", "difference_low", "difference_high")] == [0, 0, 0]
    assert (row["p"], row["p_holm"], row["wins"], row["ties"], row["losses"]) == (1, 1, 0, 16, 0)
    assert warnings(table, REFERENCE) == [
        f"{CELLS} 2d validation: {OTHER} differs by +0.0000, and the confidence interval holds 0"
    ]


def test_noise_without_gap_is_called_noise():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 0.9, 40)
    table = table_of(rows_of({REFERENCE: values, OTHER: values + rng.normal(0, 0.05, 40)}))
    row = cell(table)
    assert row["difference_low"] < 0 < row["difference_high"] and row["p"] > 0.05
    (note,) = warnings(table, REFERENCE)
    assert note.endswith("the confidence interval holds 0")


def test_reference_is_compared_with_nothing():
    row = cell(table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.125})), REFERENCE)
    assert math.isnan(row["difference"]) and math.isnan(row["p"]) and math.isnan(row["wins"])
    assert row["mean"] == GRID.mean() and row["units"] == 16


def test_single_unit_has_a_mean_and_no_interval():
    row = cell(table_of(rows_of({REFERENCE: [0.5], OTHER: [0.75]})))
    assert (row["units"], row["mean"], row["difference"], row["p"], row["wins"]) == (1, 0.75, 0.25, 1, 1)
    for name in ("sd", "ci_low", "ci_high", "difference_low", "difference_high", "run_sd"):
        assert math.isnan(row[name]), name


def test_two_units_have_an_interval_between_them():
    """A resample is one of them twice, or both, with chances 1/4, 1/4 and 1/2."""
    assert bootstrap(np.array([0.25, 0.75])) == (0.5, 0.25, 0.75)


def test_p_is_that_of_the_signed_rank_test():
    # Differences 1 -2 3 4 5: of the 32 choices of signs, 2 have a rank sum of at most 2 below zero ({}, {1}), and {2}.
    assert wilcoxon(np.array([1.0, -2.0, 3.0, 4.0, 5.0])) == 2 * 3 / 32
    assert wilcoxon(np.zeros(5)) == 1


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
    assert wilcoxon(np.array(differences, float)) == pytest.approx(slow_signed_rank(differences))


def test_p_of_many_units_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(0.02, 0.1, 60)
    ranks = np.argsort(np.argsort(np.abs(values))) + 1
    z = (ranks[values > 0].sum() - 60 * 61 / 4) / math.sqrt(60 * 61 * 121 / 24)
    assert wilcoxon(values) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))


# ---- bootstrap -------------------------------------------------------------------------------------------------------


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap(sample) for sample in rng.normal(3, 2, (400, 40))]
    coverage = np.mean([interval.low <= 3 <= interval.high for interval in intervals])
    assert 0.91 < coverage < 0.98  # 95 % but for few units, and for 400 samples (standard error 0.011)
    assert np.mean([interval.low > 3 for interval in intervals]) == pytest.approx(0.025, abs=0.02)


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
    paired = compare(other, values, True).difference
    unpaired = math.hypot(*(interval.high - interval.low for interval in (bootstrap(values), bootstrap(other))))
    assert paired.high - paired.low < unpaired / 10
    assert 0 < paired.low < 0.02 < paired.high


# ---- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, but no less than the one before.
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    adjusted = holm(p_values)
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == list(p_values)
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {} and holm({"a": 0.2}) == {"a": 0.2}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_between_no_correction_and_bonferroni(values):
    p_values = {str(index): value for index, value in enumerate(values)}
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, len(values) * p) * (1 + 1e-12)
        assert all(adjusted[name] <= adjusted[other] for other in p_values if p < p_values[other])


def test_holm_is_over_the_trainers_of_a_dataset_and_metric():
    noise = np.where(np.arange(16) % 3, 0.125, -0.0625)
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.125, THIRD: GRID + noise}), (REFERENCE, OTHER, THIRD))
    other, third = cell(table), cell(table, THIRD)
    assert other["p_holm"] == 2 * other["p"] < third["p_holm"] == third["p"]


# ---- units -----------------------------------------------------------------------------------------------------------


def test_patient_counts_once_however_many_cases_there_are():
    rows = []
    for trainer, gain in ((REFERENCE, 0), (OTHER, 0.125)):
        rows.append(case_row(trainer, "a1", 0.5 + gain, cluster="a"))
        rows += [case_row(trainer, f"b{number}", dice + gain, cluster="b") for number, dice in enumerate((0, 0.25))]
        rows += [case_row(trainer, f"c{number}", 0.25 + gain, cluster="c") for number in range(7)]
    row = cell(table_of(rows), REFERENCE)
    assert (row["units"], row["mean"]) == (3, (0.5 + 0.125 + 0.25) / 3)
    assert row["sd"] == pytest.approx(slow.stdev([0.5, 0.125, 0.25]))
    row = cell(table_of(rows))
    assert (row["units"], row["pairs"], row["wins"], row["difference"]) == (3, 3, 3, 0.125)


def test_repetitions_are_averaged_and_their_spread_is_shown():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.25], OTHER: [0.5, 0.75]}, repeat=1),
        *rows_of({REFERENCE: [0.75, 0.5], OTHER: [0.5, 0.75]}, repeat=2),
        *rows_of({REFERENCE: [0.0625, 0.0], OTHER: [0.5, 0.75]}, repeat=3),
    ]
    table = table_of(rows, repeats=3)
    reference, other = cell(table, REFERENCE), cell(table)
    assert reference["folds"] == "3/3"
    assert [reference["units"], reference["mean"]] == pytest.approx([2, (1.3125 / 3 + 0.75 / 3) / 2])
    assert reference["run_sd"] == pytest.approx(slow.stdev([0.375, 0.625, 0.03125]))
    assert (other["run_sd"], other["wins"], other["losses"]) == (0, 2, 0)
    assert other["difference"] == pytest.approx(0.625 - 2.0625 / 6)


@pytest.mark.parametrize("unsteady", [REFERENCE, OTHER])
@pytest.mark.parametrize(("shift", "doubted"), [(0.25, True), (0.125, False)])
def test_spread_counts_whosever_it_is(unsteady, shift, doubted):
    """Means move by -shift, 0 and shift: a standard deviation of ``shift``, beside a gap of 0.1875."""
    rows = []
    for repeat, by in enumerate((-shift, 0, shift), start=1):
        dice = {REFERENCE: GRID, OTHER: GRID + 0.1875}
        rows += rows_of(dice | {unsteady: dice[unsteady] + by}, repeat=repeat)
    notes = warnings(table_of(rows, repeats=3), REFERENCE)
    text = f"{CELLS} 2d validation: {OTHER} differs by +0.1875, no more than the spread from run to run (0.2500)"
    assert notes == ([text] if doubted else [])


def test_label_that_one_repetition_alone_has_values_for_is_no_obstacle():
    """In the other one, both masks are empty in all cases."""
    rows = [
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, repeat=1, label="common"),
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, repeat=2, label="common"),
        *rows_of({REFERENCE: [None, None], OTHER: [0.0, None]}, repeat=1, label="rare"),
        *rows_of({REFERENCE: [None, None], OTHER: [None, None]}, repeat=2, label="rare"),
    ]
    table = table_of(rows, repeats=2)
    assert cell(table, label="rare")["mean"] == 0
    assert math.isnan(cell(table, REFERENCE, label="rare")["mean"])


# ---- which cases count -----------------------------------------------------------------------------------------------


def test_cases_without_values_are_left_out_and_counted():
    rows = rows_of({REFERENCE: [0.5, None, 0.25, None], OTHER: [0.75, None, 0.0, 0.0]})
    for row in rows:
        if row["Dice"] == 0:
            row["outcome"] = "missed" if row["case"] == "case02" else "hallucinated"
    table = table_of(rows)
    reference, other = cell(table, REFERENCE), cell(table)
    assert (reference["units"], reference["mean"], reference["both_empty"]) == (2, 0.375, 2)
    assert (other["units"], other["mean"]) == (3, 0.25)
    assert (other["missed"], other["hallucinated"], other["both_empty"]) == (1, 1, 1)
    assert (reference["missed"], reference["hallucinated"]) == (0, 0)
    # In the last case the reference is rightly empty, the best there is: +0.25, -0.25, and 0 - 1.
    assert [other["pairs"], other["difference"]] == pytest.approx([3, -1 / 3])
    assert (other["wins"], other["losses"], other["ties"]) == (1, 2, 0)
    distance = cell(table_of(rows), metric="HD95")
    assert distance["difference"] == pytest.approx((-25 + 25 + 100) / 3)
    assert (distance["wins"], distance["losses"]) == (1, 2)


def test_trainers_are_paired_by_case_and_not_by_position():
    rows = rows_of({REFERENCE: GRID, OTHER: GRID + 0.125})
    row = cell(table_of([*rows[16:][::-1], *rows[:16]]))
    assert [row["difference_low"], row["difference_high"], row["wins"]] == pytest.approx([0.125, 0.125, 16])


def test_labels_of_a_case_are_averaged_and_each_has_rows_of_its_own():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.25], OTHER: [0.5, 0.75]}, label="nucleus"),
        *rows_of({REFERENCE: [1.0, None], OTHER: [0.5, 0.25]}, label="cell"),
    ]
    table = table_of(rows)
    assert list(dict.fromkeys(table.label)) == labels_of(case_table(rows)) == ["mean", "cell", "nucleus"]
    assert [cell(table, REFERENCE, label=label)["mean"] for label in ("mean", "cell", "nucleus")] == [0.5, 1.0, 0.375]
    assert [cell(table, label=label)["mean"] for label in ("mean", "cell", "nucleus")] == [0.5, 0.375, 0.625]
    assert [cell(table, label=label)["units"] for label in ("mean", "cell", "nucleus")] == [2, 2, 2]
    # In the second case there is no cell, as the reference says: 1 against 0.25.
    assert cell(table)["difference"] == (-0.5 + -0.75) / 2
    mean = cell(table, label="mean")
    assert (mean["difference"], mean["wins"], mean["losses"]) == (((1 - 1.5) / 2 + (1 - 1.25) / 2) / 2, 0, 2)
    main = of_main_label(table)
    assert set(main.label) == {"mean"} and len(main) == 2 * 2


def test_only_label_has_no_mean_beside_it(all_metrics):
    table = table_of(rows_of({REFERENCE: [0.5], OTHER: [0.5]}, label="lesion"))
    assert set(table.label) == {"lesion"}
    assert len(of_main_label(table)) == len(table) == 2 * len(HIGHER_IS_BETTER)
    assert list(table.columns[:5]) == ["dataset", "configuration", "part", "label", "metric"]


@pytest.mark.parametrize(
    "missing", [{"fold": 2}, {"fold": 4}, {"fold": 2, "repeat": 2}, {"repeat": 1}], ids=lambda m: str(m)
)
def test_unfinished_trainers_have_no_numbers_and_count_their_folds(missing):
    trainers = (REFERENCE, OTHER, THIRD)
    rows = [
        row
        for repeat in (1, 2)
        for fold in range(5)
        for row in rows_of({trainer: [0.5, 0.25] for trainer in trainers}, repeat=repeat, fold=fold)
        if row["trainer"] != OTHER or any({"fold": fold, "repeat": repeat}[k] != v for k, v in missing.items())
    ]
    table = table_of(rows, trainers, folds=range(5), repeats=2)
    done = {1: 8, 2: 9}[len(missing)] if "fold" in missing else 5
    unfinished = table[table.trainer == OTHER]
    assert set(unfinished.folds) == {f"{done}/10"} and unfinished[list(NUMBERS)].isna().all(axis=None)
    for trainer in (REFERENCE, THIRD):
        assert cell(table, trainer)["mean"] == 0.375 and cell(table, trainer)["folds"] == "10/10"
    assert cell(table, THIRD)["p_holm"] == 1
    (ranked,) = finished_rankings(case_table(rows), record(trainers, folds=range(5), repeats=2)).values()
    assert ranked.trainers == [REFERENCE, THIRD]


def test_nothing_is_compared_with_an_unfinished_reference():
    rows = [*rows_of({OTHER: GRID}, fold=0), *rows_of({REFERENCE: GRID, OTHER: GRID}, fold=1)]
    table = table_of(rows, folds=(0, 1))
    assert math.isnan(cell(table, REFERENCE)["mean"]) and cell(table, REFERENCE)["folds"] == "1/2"
    assert cell(table)["mean"] == GRID.mean() and math.isnan(cell(table)["difference"])
    assert not warnings(table, REFERENCE)


def test_trainer_that_has_not_begun_has_a_row_too():
    table = table_of(rows_of({REFERENCE: GRID}), folds=(0,))
    assert cell(table)["folds"] == "0/1" and math.isnan(cell(table)["units"])
    assert progress(case_table(rows_of({REFERENCE: GRID})), OTHER, record()["suite"]) == (0, 1)


def test_trainers_of_a_dataset_are_those_that_the_suite_gives_it():
    described = record()
    described["datasets"][CELLS]["trainers"] = [OTHER]
    table = result_table(case_table(rows_of({REFERENCE: GRID, OTHER: GRID})), described)
    assert set(table.trainer) == {OTHER}


def test_datasets_configurations_and_parts_have_rows_of_their_own():
    second = "Dataset002_Cells"
    rows = [
        *rows_of({REFERENCE: [0.5]}),
        *rows_of({REFERENCE: [0.25]}, part="test"),
        *rows_of({REFERENCE: [0.125]}, configuration="3d_fullres"),
        *rows_of({REFERENCE: [1.0]}, dataset=second),
    ]
    table = table_of(rows, (REFERENCE,), datasets=(CELLS, second))
    dice = table[table.metric == "Dice"]
    assert dice[["dataset", "configuration", "part", "mean"]].to_numpy().tolist() == [
        [CELLS, "2d", "test", 0.25],
        [CELLS, "2d", "validation", 0.5],
        [CELLS, "3d_fullres", "validation", 0.125],
        [second, "2d", "validation", 1.0],
    ]


# ---- against a slow reference ----------------------------------------------------------------------------------------


def mean_of(values):
    return sum(values) / len(values)


def slow_units(rows, trainer, metric, labels, partner=None):
    """Value of each cluster: repetitions are averaged first, then labels, then cases."""
    found = {}
    if partner:
        rows = [row for row in rows if row["trainer"] in (trainer, partner)]
        some = {(row["case"], row["label"]) for row in rows if row[metric] is not None}
        best = {metric: 1 if HIGHER_IS_BETTER[metric] else 0}
        empty = [row for row in rows if row[metric] is None and (row["case"], row["label"]) in some]
        rows = [*(row for row in rows if row[metric] is not None), *(row | best for row in empty)]
    for row in rows:
        if row["label"] in labels and row[metric] is not None:
            found.setdefault(row["trainer"], {}).setdefault((row["cluster"], row["case"], row["label"]), []).append(
                row[metric]
            )
    own, others = found[trainer], found[partner or trainer]
    cases = {}
    for (cluster, case, label), values in own.items():
        if (cluster, case, label) in others:
            cases.setdefault((cluster, case), []).append(mean_of(values))
    clusters = {}
    for (cluster, _), values in cases.items():
        clusters.setdefault(cluster, []).append(mean_of(values))
    return {cluster: mean_of(values) for cluster, values in clusters.items()}


@pytest.mark.parametrize("seed", range(2))
def test_numbers_are_those_of_a_slow_reference(seed):
    rng = np.random.default_rng(seed)
    trainers = (REFERENCE, OTHER, THIRD)
    rows = []
    for trainer in trainers:
        for repeat in (1, 2):
            for number in range(14):
                for label in ("a", "b", "c"):
                    dice = None if rng.random() < 0.2 else round(rng.random(), 1)
                    about = {"repeat": repeat, "fold": number % 2, "label": label, "cluster": f"p{number // 3}"}
                    rows.append(case_row(trainer, f"case{number}", dice, **about))
    table = table_of([rows[index] for index in rng.permutation(len(rows))], trainers, folds=(0, 1), repeats=2)
    assert len(table) == 4 * 2 * 3
    for row in table.to_dict("records"):
        labels = ("a", "b", "c") if row["label"] == "mean" else (row["label"],)
        metric, trainer = row["metric"], row["trainer"]
        units = slow_units(rows, trainer, metric, labels)
        assert row["folds"] == "4/4" and row["units"] == len(units)
        assert [row["mean"], row["sd"]] == pytest.approx([mean_of(list(units.values())), slow.stdev(units.values())])
        assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        runs = [
            mean_of(list(slow_units([r for r in rows if r["repeat"] == repeat], trainer, metric, labels).values()))
            for repeat in (1, 2)
        ]
        assert row["run_sd"] == pytest.approx(slow.stdev(runs))
        empty = sum(r["trainer"] == trainer and r["label"] in labels and r["Dice"] is None for r in rows)
        assert row["both_empty"] == empty
        if trainer == REFERENCE:
            assert math.isnan(row["difference"])
            continue
        ours = slow_units(rows, trainer, metric, labels, REFERENCE)
        theirs = slow_units(rows, REFERENCE, metric, labels, trainer)
        gaps = [ours[cluster] - theirs[cluster] for cluster in ours]
        better = [gap if HIGHER_IS_BETTER[metric] else -gap for gap in gaps]
        assert row["difference"] == pytest.approx(mean_of(gaps))
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["wins"] + row["ties"] + row["losses"] == len(gaps) == row["pairs"]
        assert row["wins"] >= sum(gap > 1e-9 for gap in better) and row["losses"] >= sum(gap < -1e-9 for gap in better)
        others = [r for r in table.to_dict("records") if all(r[k] == row[k] for k in ("label", "metric"))]
        assert row["p_holm"] == holm({r["trainer"]: r["p"] for r in others if r["trainer"] != REFERENCE})[trainer]


def test_mean_over_labels_is_taken_within_the_case_and_then_within_the_unit():
    rows = [
        case_row(REFERENCE, "p1a", 1.0, cluster="p1", label="a"),
        case_row(REFERENCE, "p1a", 0.0, cluster="p1", label="b"),
        case_row(REFERENCE, "p1b", 1.0, cluster="p1", label="a"),
    ]
    assert unit_values(case_values(case_table(rows), "Dice")[REFERENCE]).to_dict() == {"p1": 0.75}  # and not 2/3


# ---- ranks -----------------------------------------------------------------------------------------------------------


def test_stable_ranking_is_certain():
    trainers = (OTHER, REFERENCE, THIRD)
    cases = case_table(rows_of({REFERENCE: GRID, OTHER: GRID + 0.25, THIRD: GRID + 0.125}))
    result = ranking(cases, trainers)
    assert result.trainers == list(trainers)
    assert result.ranks.tolist() == [1, 3, 2]
    assert result.frequencies.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert result.kendall_tau == 1
    assert ranking(cases, trainers, "HD95").ranks.tolist() == [1, 3, 2]
    assert ranking(cases, [REFERENCE, OTHER]).kendall_tau == 1


def test_frequencies_of_ranks_are_shares_and_uncertainty_lowers_tau():
    rng = np.random.default_rng(0)
    dice = {name: rng.uniform(0, 1, 15) for name in (REFERENCE, OTHER, THIRD)}
    dice[THIRD] = np.zeros(15)
    result = ranking(case_table(rows_of(dice)), list(dice))
    assert result.frequencies.sum(axis=1) == pytest.approx([1, 1, 1])
    assert result.frequencies.sum(axis=0) == pytest.approx([1, 1, 1])
    assert result.frequencies[2].tolist() == [0, 0, 1]
    certain = result.frequencies.max(axis=1)[0]
    assert 0.5 < certain < 1
    # Where the first two change places, tau of the three falls from 1 to 1/3.
    assert result.kendall_tau == pytest.approx(certain + (1 - certain) / 3)


def test_equal_trainers_share_a_rank():
    result = ranking(
        case_table(rows_of({REFERENCE: GRID / 3, OTHER: GRID / 3, THIRD: GRID / 7})), (REFERENCE, OTHER, THIRD)
    )
    assert result.ranks.tolist() == [1.5, 1.5, 3]
    assert result.frequencies[:2] == pytest.approx(np.array([[0.5, 0.5, 0]] * 2), abs=1e-3)
    assert result.frequencies[2] == pytest.approx([0, 0, 1], abs=1e-3)
    assert result.frequencies.sum(axis=0) == pytest.approx([1, 1, 1])


def test_rightly_empty_is_ranked_above_hallucinated():
    """By its mean alone, the reference would be second: what it rightly leaves empty has no value."""
    dice = {REFERENCE: [0.5, 0.5, None, None], OTHER: [0.625, 0.625, 0.5, None], THIRD: [0.0, 0.0, 0.0, None]}
    cases = case_table(rows_of(dice))
    result = ranking(cases, list(dice))
    assert result.ranks.tolist() == [1, 2, 3]
    assert ranking(cases[cases.case != "case02"], list(dice)).ranks.tolist() == [2, 1, 3]
    assert ranking(cases, list(dice), "HD95").ranks.tolist() == [1, 2, 3]


@pytest.mark.parametrize("empty", [REFERENCE, OTHER])
def test_comparison_over_more_than_the_means_is_explained(empty):
    dice = {REFERENCE: [*GRID + 0.5, 0.0], OTHER: [*GRID + 0.25, 0.0]}
    dice[empty][-1] = None
    table = table_of(rows_of(dice))
    units = {trainer: cell(table, trainer)["units"] for trainer in dice}
    assert units == {REFERENCE: 17, OTHER: 17} | {empty: 16} and cell(table)["pairs"] == 17
    difference = (16 * -0.25 + (1 if empty == OTHER else -1)) / 17
    assert cell(table)["difference"] == pytest.approx(difference)
    assert warnings(table, REFERENCE) == [
        f"{CELLS} 2d validation: {OTHER} differs by {difference:+.4f}, its mean by {gap(table):+.4f}: {HALLUCINATED}"
    ]


HALLUCINATED = (
    "where only one of both is empty as it should be, that counts as Dice 1 against 0 in comparisons, and is left out "
    "of its mean"
)


def gap(table, label="cell"):
    return cell(table, label=label)["mean"] - cell(table, REFERENCE, label=label)["mean"]


def test_comparison_of_other_cases_than_the_means_is_explained_if_all_units_have_a_mean():
    """The unit's other label has values."""
    rows = [
        *rows_of({REFERENCE: [0.5] * 20, OTHER: [0.5] * 20}, label="a"),
        *rows_of({REFERENCE: [None] * 10 + [0.5] * 10, OTHER: [0.0] * 10 + [0.5] * 10}, label="b"),
    ]
    table = table_of(rows)
    both = cell(table, label="mean")
    assert both["units"] == both["pairs"] == 20
    assert (both["difference"], gap(table, "mean")) == (-0.25, -0.125)
    assert warnings(table, REFERENCE) == [
        f"{CELLS} 2d validation: {OTHER} differs by -0.2500, its mean by -0.1250: {HALLUCINATED}"
    ]


def test_label_that_one_trainer_alone_hallucinates_is_compared():
    """As it is where the other one has a value in a single case."""
    rows = [
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, label="common"),
        *rows_of({REFERENCE: [None, None], OTHER: [0.0, None]}, label="rare"),
    ]
    row = cell(table_of(rows), label="rare")
    assert (row["pairs"], row["difference"], row["losses"]) == (1, -1, 1)


def test_one_trainer_or_one_unit_is_no_ranking():
    cases = case_table(rows_of({REFERENCE: GRID, OTHER: GRID}))
    assert ranking(cases, [REFERENCE]) is None
    assert ranking(cases[cases.case == "case03"], [REFERENCE, OTHER]) is None
    assert ranking(cases, []) is None
    empty = case_table(rows_of({REFERENCE: [None, None], OTHER: [None, None]}))
    assert ranking(empty, [REFERENCE, OTHER]) is None


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


def three_datasets():
    """The third dataset turns the first one's order round."""
    names = ("Dataset001_A", "Dataset002_B", "Dataset003_C")
    gains = ((0.25, 0.125, 0), (0.25, 0, 0.125), (0, 0.125, 0.25))
    rows = [
        row
        for name, gain in zip(names, gains, strict=True)
        for row in rows_of({t: GRID + g for t, g in zip((REFERENCE, OTHER, THIRD), gain, strict=True)}, dataset=name)
    ]
    return rows, record((REFERENCE, OTHER, THIRD), names)


def ranks_of(rows, described):
    return rank_table(finished_rankings(case_table(rows), described), described)


def columns_of(described):
    return [(name, "2d", "validation") for name in described["datasets"]]


def test_ranks_are_averaged_over_datasets_best_first():
    rows, described = three_datasets()
    table = ranks_of(rows, described)
    columns = columns_of(described)
    assert list(table.columns) == columns
    assert table.index.tolist() == [REFERENCE, THIRD, OTHER]
    assert table.to_numpy().tolist() == [[1, 1, 3], [3, 2, 1], [2, 3, 2]]
    assert average_ranks(table).to_dict() == pytest.approx({REFERENCE: 5 / 3, THIRD: 2, OTHER: 7 / 3})
    # tau of the pairs: A and B 1/3, A and C -1, B and C -1/3
    assert agreement(table) == pytest.approx((1 / 3 - 1 - 1 / 3) / 3)
    assert agreement(table[columns[:2]]) == pytest.approx(1 / 3)
    assert agreement(table[columns[:1]]) is None


def test_no_dataset_counts_more_for_its_configurations_and_parts():
    """The second trainer wins the first dataset twice or six times, and the first one the other dataset."""
    first, second = "Dataset001_A", "Dataset002_B"
    cells = [(configuration, part) for configuration in ("2d", "3d_fullres") for part in ("validation", "test")]
    won = rows_of({REFERENCE: GRID, OTHER: GRID / 2}, dataset=second)
    lost = [
        row
        for configuration, part in cells
        for row in rows_of({REFERENCE: GRID / 2, OTHER: GRID}, dataset=first, configuration=configuration, part=part)
    ]
    table = ranks_of([*won, *lost], record(datasets=(first, second)))
    assert table.shape == (2, 5)
    assert average_ranks(table).tolist() == [1.5, 1.5]
    assert agreement(table) == -1  # not raised by the cells of one dataset, which agree
    assert agreement(table[[column for column in table.columns if column[0] == first]]) is None


def test_ranks_are_of_trainers_on_every_dataset_and_of_datasets_with_every_trainer():
    """A rank among three and a rank among two must not be averaged."""
    rows, described = three_datasets()
    unfinished = [row for row in rows if (row["dataset"], row["trainer"]) != ("Dataset002_B", OTHER)]
    table = ranks_of(unfinished, described)
    assert list(table.columns) == [column for column in columns_of(described) if column[0] != "Dataset002_B"]
    assert set(table.index) == {REFERENCE, OTHER, THIRD}
    described["datasets"]["Dataset002_B"]["trainers"] = [REFERENCE, THIRD]  # the suite does not want that one there
    table = ranks_of(unfinished, described)
    assert list(table.columns) == columns_of(described) and set(table.index) == {REFERENCE, THIRD}
    assert all(sorted(table[column]) == [1, 2] for column in table.columns)


def test_trainers_that_never_met_have_no_ranks():
    rows, described = three_datasets()
    for name, trainers in zip(
        described["datasets"], ([REFERENCE, OTHER], [REFERENCE, THIRD], [OTHER, THIRD]), strict=True
    ):
        described["datasets"][name]["trainers"] = trainers
    assert ranks_of(rows, described).empty


def test_without_finished_trainers_there_are_no_ranks():
    described = record(folds=(0, 1))
    rows = rows_of({REFERENCE: GRID, OTHER: GRID})
    assert ranks_of(rows, described).empty and finished_rankings(case_table(rows), described) == {}


def test_rankings_are_kept_apart_by_dataset_configuration_and_part():
    rows = [*rows_of({REFERENCE: GRID, OTHER: GRID / 2}), *rows_of({REFERENCE: GRID / 2, OTHER: GRID}, part="test")]
    found = finished_rankings(case_table(rows), record())
    assert {name: result.ranks.tolist() for name, result in found.items()} == {
        (CELLS, "2d", "test"): [2, 1],
        (CELLS, "2d", "validation"): [1, 2],
    }


def test_all_numbers_of_the_table_are_floats():
    table = table_of(rows_of({REFERENCE: GRID}))
    assert all(pd.api.types.is_float_dtype(table[name]) for name in NUMBERS)
