"""Proves that the table's numbers are right by hand and by a slow reference, and of finished trainers alone."""

import math
import statistics as slow

import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import (
    CELLS,
    GRID,
    OTHER,
    REFERENCE,
    THIRD,
    case_row,
    case_table,
    plain_record,
    row_of,
    rows_of,
    table_of,
    warned,
)

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import NUMBERS
from nnunet_plugins.benchmark.report.ranking import finished_rankings
from nnunet_plugins.benchmark.report.statistics import holm
from nnunet_plugins.benchmark.report.units import num_finished_trainings


def test_constant_gap_is_found_in_every_metric_and_needs_no_warning():
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.1}), metrics=HIGHER_IS_BETTER)
    for metric, higher_is_better in HIGHER_IS_BETTER.items():
        row = row_of(table, metric=metric)
        difference = [row[name] for name in ("difference", "difference_low", "difference_high")]
        assert difference == pytest.approx([0.1 if higher_is_better else -10] * 3)
        assert row["p"] == row["p_holm"] < 0.001
        assert (row["wins"], row["ties"], row["losses"], row["units"]) == (16, 0, 0, 16)
        assert row["mean"] == pytest.approx(row_of(table, REFERENCE, metric)["mean"] + difference[0])
    assert not warned(table)


def test_trainer_that_is_worse_everywhere_loses_everywhere():
    row = row_of(table_of(rows_of({REFERENCE: GRID + 0.125, OTHER: GRID})))
    assert (row["difference"], row["wins"], row["ties"], row["losses"]) == (-0.125, 0, 0, 16)
    assert row["p"] < 0.001


def test_equal_trainers_differ_by_nothing_and_that_is_said():
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID}))
    row = row_of(table)
    assert [row[name] for name in ("difference", "difference_low", "difference_high")] == [0, 0, 0]
    assert (row["p"], row["p_holm"], row["wins"], row["ties"], row["losses"]) == (1, 1, 0, 16, 0)
    assert warned(table) == [
        f"{CELLS} 2d validation: {OTHER} differs by 0.0000, and the confidence interval contains 0"
    ]


def test_noise_without_gap_is_called_noise():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 0.9, 40)
    table = table_of(rows_of({REFERENCE: values, OTHER: values + rng.normal(0, 0.05, 40)}))
    row = row_of(table)
    assert row["difference_low"] < 0 < row["difference_high"] and row["p"] > 0.05
    (note,) = warned(table)
    assert note.endswith("the confidence interval contains 0")


def test_reference_is_compared_with_nothing():
    row = row_of(table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.125})), REFERENCE)
    assert math.isnan(row["difference"]) and math.isnan(row["p"]) and math.isnan(row["wins"])
    assert row["mean"] == GRID.mean() and row["units"] == 16


def test_single_unit_has_a_mean_and_no_interval():
    row = row_of(table_of(rows_of({REFERENCE: [0.5], OTHER: [0.75]})))
    assert (row["units"], row["mean"], row["difference"], row["p"], row["wins"]) == (1, 0.75, 0.25, 1, 1)
    for name in ("sd", "ci_low", "ci_high", "difference_low", "difference_high", "run_sd"):
        assert math.isnan(row[name]), name


def test_holm_is_over_the_trainers_of_a_dataset_and_metric():
    noise = np.where(np.arange(16) % 3, 0.125, -0.0625)
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID + 0.125, THIRD: GRID + noise}), (REFERENCE, OTHER, THIRD))
    other, third = row_of(table), row_of(table, THIRD)
    assert other["p_holm"] == 2 * other["p"] < third["p_holm"] == third["p"]


def test_every_trainer_is_compared_with_the_best_one():
    noise = np.where(np.arange(16) % 2, 0.0625, -0.0625)
    dice = {REFERENCE: GRID, OTHER: GRID + 0.25, THIRD: GRID + 0.25 + noise / 64}
    table = table_of(rows_of(dice), tuple(dice), metrics=("Dice", "HD95"))
    for metric in ("Dice", "HD95"):
        p = {trainer: row_of(table, trainer, metric)["p_holm_best"] for trainer in dice}
        assert math.isnan(p[OTHER]) and p[THIRD] > 0.05 > p[REFERENCE]
        assert p[REFERENCE] == row_of(table, OTHER, metric)["p_holm"]  # one verdict about a pair


def test_trainers_of_a_dataset_are_those_that_the_suite_gives_it():
    table = table_of(rows_of({REFERENCE: GRID, OTHER: GRID}), trainers_of={CELLS: (OTHER,)})
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


def test_all_numbers_of_the_table_are_floats():
    table = table_of(rows_of({REFERENCE: GRID}))
    assert all(pd.api.types.is_float_dtype(table[name]) for name in NUMBERS)


# ---- unfinished trainers ---------------------------------------------------------------------------------------------


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
    assert set(unfinished.trainings) == {done} and unfinished[list(NUMBERS)].isna().all(axis=None)
    for trainer in (REFERENCE, THIRD):
        assert row_of(table, trainer)["mean"] == 0.375 and row_of(table, trainer)["trainings"] == 10
    assert row_of(table, THIRD)["p_holm"] == 1
    (ranked,) = finished_rankings(case_table(rows), plain_record(trainers, folds=range(5), repeats=2)).values()
    assert ranked.trainers == [REFERENCE, THIRD]


def test_nothing_is_compared_with_an_unfinished_reference():
    rows = [*rows_of({OTHER: GRID}, fold=0), *rows_of({REFERENCE: GRID, OTHER: GRID}, fold=1)]
    table = table_of(rows, folds=(0, 1))
    assert math.isnan(row_of(table, REFERENCE)["mean"]) and row_of(table, REFERENCE)["trainings"] == 1
    assert row_of(table)["mean"] == GRID.mean() and math.isnan(row_of(table)["difference"])
    assert not warned(table)


def test_trainer_that_has_not_begun_has_a_row_too():
    table = table_of(rows_of({REFERENCE: GRID}), folds=(0,))
    assert row_of(table)["trainings"] == 0 and math.isnan(row_of(table)["units"])
    assert OTHER not in num_finished_trainings(case_table(rows_of({REFERENCE: GRID})))


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
        assert row["trainings"] == 4 and row["units"] == len(units)
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
        p = {r["trainer"]: r["p"] for r in others if r["trainer"] != REFERENCE}
        assert row["p_holm"] == holm(np.array([*p.values()]))[[*p].index(trainer)]
