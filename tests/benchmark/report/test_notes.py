"""Proves that a report says what is unfinished, unequal or doubtful, and what was run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import (
    CELLS,
    CONVERTERS,
    GRID,
    OTHER,
    REFERENCE,
    THIRD,
    results_of,
    row_of,
    rows_of,
    suite_of,
    table_of,
    told,
    warned,
)

from nnunet_plugins.benchmark.report.analysis import Analysis, result_table
from nnunet_plugins.benchmark.report.cells import written
from nnunet_plugins.benchmark.report.notes import describe_suite
from nnunet_plugins.benchmark.report.tables import per_label


@pytest.mark.parametrize(("num_units", "few"), [(9, True), (10, False)])
def test_few_units_are_pointed_out(num_units, few):
    gap = 0.125 + np.arange(num_units) / 64
    table = table_of(rows_of({REFERENCE: GRID[:num_units], OTHER: GRID[:num_units] + gap}))
    notes = [f"{CELLS} 2d validation: {OTHER} differs by {gap.mean():+.4f}, over {num_units} units only"]
    assert warned(table) == (notes if few else [])


@pytest.mark.parametrize("unsteady", [REFERENCE, OTHER])
@pytest.mark.parametrize(("shift", "doubted"), [(0.25, True), (0.125, False)])
def test_spread_counts_whosever_it_is(unsteady, shift, doubted):
    """Means move by -shift, 0 and shift: a standard deviation of ``shift``, beside a gap of 0.1875."""
    rows = []
    for repeat, by in enumerate((-shift, 0, shift), start=1):
        dice = {REFERENCE: GRID, OTHER: GRID + 0.1875}
        rows += rows_of(dice | {unsteady: dice[unsteady] + by}, repeat=repeat)
    notes = warned(table_of(rows, repeats=3))
    text = f"{CELLS} 2d validation: {OTHER} differs by +0.1875, no more than the spread from run to run (0.2500)"
    assert notes == ([text] if doubted else [])


HALLUCINATED = (
    "where only one of both is rightly empty, that counts as Dice 1 against 0 in comparisons, and is left out of its "
    "mean"
)


def gap(table, label="cell"):
    return row_of(table, label=label)["mean"] - row_of(table, REFERENCE, label=label)["mean"]


@pytest.mark.parametrize("empty", [REFERENCE, OTHER])
def test_comparison_over_more_than_the_means_is_explained(empty):
    dice = {REFERENCE: [*GRID + 0.5, 0.0], OTHER: [*GRID + 0.25, 0.0]}
    dice[empty][-1] = None
    table = table_of(rows_of(dice))
    units = {trainer: row_of(table, trainer)["units"] for trainer in dice}
    assert units == {REFERENCE: 17, OTHER: 17} | {empty: 16} and row_of(table)["pairs"] == 17
    difference = (16 * -0.25 + (1 if empty == OTHER else -1)) / 17
    assert row_of(table)["difference"] == pytest.approx(difference)
    assert warned(table) == [
        f"{CELLS} 2d validation: {OTHER} differs by {written(difference, '+.4f')}, its mean by "
        f"{written(gap(table), '+.4f')}: {HALLUCINATED}"
    ]


def test_comparison_of_other_cases_than_the_means_is_explained_if_all_units_have_a_mean():
    """All units have a mean, as their other label has values."""
    rows = [
        *rows_of({REFERENCE: [0.5] * 20, OTHER: [0.5] * 20}, label="a"),
        *rows_of({REFERENCE: [None] * 10 + [0.5] * 10, OTHER: [0.0] * 10 + [0.5] * 10}, label="b"),
    ]
    table = table_of(rows)
    both = row_of(table, label="mean")
    assert both["units"] == both["pairs"] == 20
    assert (both["difference"], gap(table, "mean")) == (-0.25, -0.125)
    assert warned(table) == [f"{CELLS} 2d validation: {OTHER} differs by −0.2500, its mean by −0.1250: {HALLUCINATED}"]


def analysis_of_dice(results):
    """Analysis with the metric that notices are about, without ranks."""
    return Analysis(results, result_table(results.cases, results.record, ["Dice"]), rankings={})


# ---- notices and description -----------------------------------------------------------------------------------------


def test_notices_warn_of_noise_and_of_test_cases():
    rows = [
        *rows_of({REFERENCE: GRID, OTHER: GRID + 0.25}),
        *rows_of({REFERENCE: GRID, OTHER: GRID}, part="test"),
    ]
    results = results_of(rows, suite_of((REFERENCE, OTHER)), {CELLS: None})
    assert told(analysis_of_dice(results)) == [
        f"{CELLS} 2d test: {OTHER} differs by 0.0000, and the confidence interval contains 0",
        "A test case's value is the mean over the folds' models, not that of their ensemble",
    ]


def test_notices_say_that_trainings_were_too_short_to_compare():
    missed = [row | {"outcome": "missed"} for row in rows_of({OTHER: [0.0] * 7})]
    rows = [*rows_of({REFERENCE: [0.0625] * 7}), *missed]
    notes = told(analysis_of_dice(results_of(rows, suite_of((REFERENCE, OTHER)), {CELLS: None})))
    assert notes[:2] == [
        f"{CELLS} 2d validation: the best mean Dice is 0.0625, so the trainers' order says little",
        f"{CELLS} 2d validation: {OTHER} found nothing that is there, in any case",
    ]


def test_notices_name_trainers_of_another_length(results, analysis):
    trainings = results.trainings.assign(epochs=100)
    trainings.loc[trainings.trainer == OTHER, "epochs"] = [7, *[100] * 8, 9]
    notes = told(analysis._replace(results=results._replace(trainings=trainings)))
    assert f"{OTHER} trained 7 to 9 epochs" in notes
    assert len([note for note in notes if "epochs" in note]) == 1


def test_notices_name_what_has_not_begun(results):
    none_of_third = results._replace(
        cases=results.cases[results.cases.trainer != THIRD],
        trainings=results.trainings[results.trainings.trainer != THIRD],
    )
    analysis = analysis_of_dice(none_of_third)
    assert THIRD in set(analysis.table.trainer)
    assert THIRD not in {row[0] for row in per_label(analysis.table).texts}
    notes = told(analysis)
    assert notes[:2] == [f"{name} 2d {THIRD} has 0/5 folds" for name in CONVERTERS]


def test_description_says_what_was_trained_and_where(texts, results):
    text = texts["results.md"].splitlines()[4]
    assert text.startswith("100 epochs of 250 steps for every trainer; folds 0, 1, 2, 3, 4; reference")
    assert "reference nnUNetTrainer" in text and "a processor (2 cores, Linux)" in text
    assert text.endswith("with nnunet-plugins 0.1.0, nnunetv2 2.8.1, torch 2.9.0, python 3.11.7.")
    record, suite = results.record, results.record.suite
    shorter = replace(record, suite=replace(suite, iterations=7))
    assert "100 epochs of 7 steps" in describe_suite(shorter)
    assert describe_suite(replace(record, suite=replace(suite, epochs=1, iterations=1))).startswith(
        "1 epoch of 1 step "
    )
    repeated = replace(record, suite=replace(suite, repeats=3))
    assert "folds 0, 1, 2, 3, 4, each 3 times;" in describe_suite(repeated)


def test_trainers_of_different_lengths_are_told_and_are_not_unequal(results, analysis):
    suite = replace(results.record.suite, epochs_of=((OTHER, 35),))
    record = replace(results.record, suite=suite)
    lengths = f"({REFERENCE} 100, {OTHER} 35, {THIRD} 100)"
    assert describe_suite(record).startswith(f"Different numbers of epochs of 250 steps {lengths}; folds 0, 1, 2, 3, 4")
    trainings = results.trainings.assign(epochs=results.trainings.trainer.map(suite.epochs_for))
    own = analysis._replace(results=results._replace(trainings=trainings, record=record))
    assert not [note for note in told(own) if "epochs" in note]
    trainings.loc[trainings.trainer == OTHER, "epochs"] = 100
    assert f"{OTHER} trained 100 epochs" in told(own)


def test_notices_say_what_an_external_test_set_is(results, analysis):
    elsewhere = results.cases.assign(part="external_Dataset777_Elsewhere")
    both = results._replace(cases=pd.concat([results.cases, elsewhere], ignore_index=True))
    notes = told(analysis._replace(results=both))
    assert "external_Dataset777_Elsewhere is the test set of another dataset, on which nothing was trained" in notes
    assert len([note for note in notes if note.startswith("external")]) == 1
    assert "A test case's value is the mean over the folds' models, not that of their ensemble" in notes
    assert not [note for note in told(analysis) if note.startswith(("external", "A test case"))]


def test_notices_say_that_trainers_were_measured_on_other_cases():
    rows = rows_of({REFERENCE: GRID, OTHER: GRID[:12], THIRD: GRID[:12]})
    results = results_of(rows, suite_of((REFERENCE, OTHER, THIRD)), {CELLS: None})
    (found,) = [
        notice
        for notice in told(Analysis(results, result_table(results.cases, results.record), {}))
        if "of 16" in notice
    ]
    assert found.startswith(f"{CELLS} 2d validation: of 16 cases {OTHER} 12 and {THIRD} 12 only, so means cannot be")
