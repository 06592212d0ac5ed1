"""Proves that cases become units as promised: patients, repetitions, labels, and masks that are rightly empty."""

import math
import statistics as slow

import pytest
from support.benchmark_results import (
    GRID,
    OTHER,
    REFERENCE,
    case_row,
    case_table,
    row_of,
    rows_of,
    table_of,
)

from nnunet_plugins.benchmark.report.analysis import main_label_rows
from nnunet_plugins.benchmark.report.results import METRICS
from nnunet_plugins.benchmark.report.units import case_values, labels_of, unit_values


def test_patient_counts_once_however_many_cases_there_are():
    rows = []
    for trainer, gain in ((REFERENCE, 0), (OTHER, 0.125)):
        rows.append(case_row(trainer, "a1", 0.5 + gain, cluster="a"))
        rows += [case_row(trainer, f"b{number}", dice + gain, cluster="b") for number, dice in enumerate((0, 0.25))]
        rows += [case_row(trainer, f"c{number}", 0.25 + gain, cluster="c") for number in range(7)]
    row = row_of(table_of(rows), REFERENCE)
    assert (row["units"], row["mean"]) == (3, (0.5 + 0.125 + 0.25) / 3)
    assert row["sd"] == pytest.approx(slow.stdev([0.5, 0.125, 0.25]))
    row = row_of(table_of(rows))
    assert (row["units"], row["pairs"], row["wins"], row["difference"]) == (3, 3, 3, 0.125)


def test_repetitions_are_averaged_and_their_spread_is_shown():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.25], OTHER: [0.5, 0.75]}, repeat=1),
        *rows_of({REFERENCE: [0.75, 0.5], OTHER: [0.5, 0.75]}, repeat=2),
        *rows_of({REFERENCE: [0.0625, 0.0], OTHER: [0.5, 0.75]}, repeat=3),
    ]
    table = table_of(rows, repeats=3)
    reference, other = row_of(table, REFERENCE), row_of(table)
    assert reference["trainings"] == 3
    assert [reference["units"], reference["mean"]] == pytest.approx([2, (1.3125 / 3 + 0.75 / 3) / 2])
    assert reference["run_sd"] == pytest.approx(slow.stdev([0.375, 0.625, 0.03125]))
    assert (other["run_sd"], other["wins"], other["losses"]) == (0, 2, 0)
    assert other["difference"] == pytest.approx(0.625 - 2.0625 / 6)


def test_label_that_one_repetition_alone_has_values_for_is_no_obstacle():
    """In the other repetition, both masks are empty in all cases."""
    rows = [
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, repeat=1, label="common"),
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, repeat=2, label="common"),
        *rows_of({REFERENCE: [None, None], OTHER: [0.0, None]}, repeat=1, label="rare"),
        *rows_of({REFERENCE: [None, None], OTHER: [None, None]}, repeat=2, label="rare"),
    ]
    table = table_of(rows, repeats=2)
    assert row_of(table, label="rare")["mean"] == 0
    assert math.isnan(row_of(table, REFERENCE, label="rare")["mean"])


def test_mean_over_labels_is_taken_within_the_case_and_then_within_the_unit():
    rows = [
        case_row(REFERENCE, "p1a", 1.0, cluster="p1", label="a"),
        case_row(REFERENCE, "p1a", 0.0, cluster="p1", label="b"),
        case_row(REFERENCE, "p1b", 1.0, cluster="p1", label="a"),
    ]
    assert unit_values(case_values(case_table(rows), "Dice")[REFERENCE]).to_dict() == {"p1": 0.75}  # and not 2/3


# ---- which cases count -----------------------------------------------------------------------------------------------


def test_cases_without_values_are_left_out_and_counted():
    rows = rows_of({REFERENCE: [0.5, None, 0.25, None], OTHER: [0.75, None, 0.0, 0.0]})
    for row in rows:
        if row["Dice"] == 0:
            row["outcome"] = "missed" if row["case"] == "case02" else "hallucinated"
    table = table_of(rows)
    reference, other = row_of(table, REFERENCE), row_of(table)
    assert (reference["units"], reference["mean"], reference["both_empty"]) == (2, 0.375, 2)
    assert (other["units"], other["mean"]) == (3, 0.25)
    assert (other["missed"], other["hallucinated"], other["both_empty"]) == (1, 1, 1)
    assert (reference["missed"], reference["hallucinated"]) == (0, 0)
    # In the last case the reference is rightly empty, the best there is: +0.25, -0.25, and 0 - 1.
    assert [other["pairs"], other["difference"]] == pytest.approx([3, -1 / 3])
    assert (other["wins"], other["losses"], other["ties"]) == (1, 2, 0)
    distance = row_of(table_of(rows), metric="HD95")
    assert distance["difference"] == pytest.approx((-25 + 25 + 100) / 3)
    assert (distance["wins"], distance["losses"]) == (1, 2)


def test_trainers_are_paired_by_case_and_not_by_position():
    rows = rows_of({REFERENCE: GRID, OTHER: GRID + 0.125})
    row = row_of(table_of([*rows[16:][::-1], *rows[:16]]))
    assert [row["difference_low"], row["difference_high"], row["wins"]] == pytest.approx([0.125, 0.125, 16])


def test_labels_of_a_case_are_averaged_and_each_has_rows_of_its_own():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.25], OTHER: [0.5, 0.75]}, label="nucleus"),
        *rows_of({REFERENCE: [1.0, None], OTHER: [0.5, 0.25]}, label="cell"),
    ]
    table = table_of(rows)
    assert list(dict.fromkeys(table.label)) == labels_of(case_table(rows)) == ["mean", "cell", "nucleus"]
    assert [row_of(table, REFERENCE, label=label)["mean"] for label in ("mean", "cell", "nucleus")] == [0.5, 1.0, 0.375]
    assert [row_of(table, label=label)["mean"] for label in ("mean", "cell", "nucleus")] == [0.5, 0.375, 0.625]
    assert [row_of(table, label=label)["units"] for label in ("mean", "cell", "nucleus")] == [2, 2, 2]
    # In the second case there is no cell, as the reference says: 1 against 0.25.
    assert row_of(table)["difference"] == (-0.5 + -0.75) / 2
    mean = row_of(table, label="mean")
    assert (mean["difference"], mean["wins"], mean["losses"]) == (((1 - 1.5) / 2 + (1 - 1.25) / 2) / 2, 0, 2)
    main = main_label_rows(table)
    assert set(main.label) == {"mean"} and len(main) == 2 * 2


def test_only_label_has_no_mean_beside_it():
    table = table_of(rows_of({REFERENCE: [0.5], OTHER: [0.5]}, label="lesion"), metrics=METRICS)
    assert set(table.label) == {"lesion"}
    assert len(main_label_rows(table)) == len(table) == 2 * len(METRICS)
    assert list(table.columns[:5]) == ["dataset", "configuration", "part", "label", "metric"]


def test_label_that_one_trainer_alone_hallucinates_is_compared():
    """Otherwise, whether it is compared would depend on the other trainer having a value in some case."""
    rows = [
        *rows_of({REFERENCE: [0.5, 0.5], OTHER: [0.5, 0.5]}, label="common"),
        *rows_of({REFERENCE: [None, None], OTHER: [0.0, None]}, label="rare"),
    ]
    row = row_of(table_of(rows), label="rare")
    assert (row["pairs"], row["difference"], row["losses"]) == (1, -1, 1)
