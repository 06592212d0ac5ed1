"""Proves that ranks, their stability and the agreement of datasets are right, and that only like ranks are averaged."""

import numpy as np
import pytest
from support.benchmark_results import CELLS, GRID, OTHER, REFERENCE, THIRD, case_table, plain_record, rows_of

from nnunet_plugins.benchmark.report.ranking import (
    agreement,
    average_ranks,
    finished_rankings,
    rank_table,
    rank_trainers,
)


def test_stable_ranking_is_certain():
    trainers = (OTHER, REFERENCE, THIRD)
    cases = case_table(rows_of({REFERENCE: GRID, OTHER: GRID + 0.25, THIRD: GRID + 0.125}))
    result = rank_trainers(cases, trainers)
    assert result.trainers == list(trainers)
    assert result.ranks.tolist() == [1, 3, 2]
    assert result.frequencies.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert result.kendall_tau == 1
    assert rank_trainers(cases, trainers, "HD95").ranks.tolist() == [1, 3, 2]
    assert rank_trainers(cases, [REFERENCE, OTHER]).kendall_tau == 1


def test_frequencies_of_ranks_are_shares_and_uncertainty_lowers_tau():
    rng = np.random.default_rng(0)
    dice = {name: rng.uniform(0, 1, 15) for name in (REFERENCE, OTHER, THIRD)}
    dice[THIRD] = np.zeros(15)
    result = rank_trainers(case_table(rows_of(dice)), list(dice))
    assert result.frequencies.sum(axis=1) == pytest.approx([1, 1, 1])
    assert result.frequencies.sum(axis=0) == pytest.approx([1, 1, 1])
    assert result.frequencies[2].tolist() == [0, 0, 1]
    certain = result.frequencies.max(axis=1)[0]
    assert 0.5 < certain < 1
    # Where the first two change places, tau of the three falls from 1 to 1/3.
    assert result.kendall_tau == pytest.approx(certain + (1 - certain) / 3)


def test_equal_trainers_share_a_rank():
    result = rank_trainers(
        case_table(rows_of({REFERENCE: GRID / 3, OTHER: GRID / 3, THIRD: GRID / 7})), (REFERENCE, OTHER, THIRD)
    )
    assert result.ranks.tolist() == [1.5, 1.5, 3]
    assert result.frequencies[:2] == pytest.approx(np.array([[0.5, 0.5, 0]] * 2), abs=1e-3)
    assert result.frequencies[2] == pytest.approx([0, 0, 1], abs=1e-3)
    assert result.frequencies.sum(axis=0) == pytest.approx([1, 1, 1])


def test_rightly_empty_is_ranked_above_hallucinated():
    """The reference would be second by its mean alone, in which rightly empty cases have no value."""
    dice = {REFERENCE: [0.5, 0.5, None, None], OTHER: [0.625, 0.625, 0.5, None], THIRD: [0.0, 0.0, 0.0, None]}
    cases = case_table(rows_of(dice))
    result = rank_trainers(cases, list(dice))
    assert result.ranks.tolist() == [1, 2, 3]
    assert rank_trainers(cases[cases.case != "case02"], list(dice)).ranks.tolist() == [2, 1, 3]
    assert rank_trainers(cases, list(dice), "HD95").ranks.tolist() == [1, 2, 3]


def test_one_trainer_or_one_unit_is_no_ranking():
    cases = case_table(rows_of({REFERENCE: GRID, OTHER: GRID}))
    assert rank_trainers(cases, [REFERENCE]) is None
    assert rank_trainers(cases[cases.case == "case03"], [REFERENCE, OTHER]) is None
    assert rank_trainers(cases, []) is None
    empty = case_table(rows_of({REFERENCE: [None, None], OTHER: [None, None]}))
    assert rank_trainers(empty, [REFERENCE, OTHER]) is None


def test_rankings_are_kept_apart_by_dataset_configuration_and_part():
    rows = [*rows_of({REFERENCE: GRID, OTHER: GRID / 2}), *rows_of({REFERENCE: GRID / 2, OTHER: GRID}, part="test")]
    found = finished_rankings(case_table(rows), plain_record())
    assert {name: result.ranks.tolist() for name, result in found.items()} == {
        (CELLS, "2d", "test"): [2, 1],
        (CELLS, "2d", "validation"): [1, 2],
    }


# ---- over several datasets -------------------------------------------------------------------------------------------


def three_datasets(trainers_of=None):
    """Cases of three trainers on three datasets, and their record; the third dataset reverses the first one's order."""
    names = ("Dataset001_A", "Dataset002_B", "Dataset003_C")
    gains = ((0.25, 0.125, 0), (0.25, 0, 0.125), (0, 0.125, 0.25))
    rows = [
        row
        for name, gain in zip(names, gains, strict=True)
        for row in rows_of({t: GRID + g for t, g in zip((REFERENCE, OTHER, THIRD), gain, strict=True)}, dataset=name)
    ]
    return rows, plain_record((REFERENCE, OTHER, THIRD), names, trainers_of=trainers_of)


def ranks_of(rows, record):
    return rank_table(finished_rankings(case_table(rows), record), record)


def columns_of(record):
    return [(name, "2d", "validation") for name in record.datasets]


def test_ranks_are_averaged_over_datasets_best_first():
    rows, record = three_datasets()
    table = ranks_of(rows, record)
    columns = columns_of(record)
    assert list(table.columns) == columns
    assert table.index.tolist() == [REFERENCE, THIRD, OTHER]
    assert table.to_numpy().tolist() == [[1, 1, 3], [3, 2, 1], [2, 3, 2]]
    assert average_ranks(table).to_dict() == pytest.approx({REFERENCE: 5 / 3, THIRD: 2, OTHER: 7 / 3})
    # tau of the pairs: A and B 1/3, A and C -1, B and C -1/3
    assert agreement(table) == pytest.approx((1 / 3 - 1 - 1 / 3) / 3)
    assert agreement(table[columns[:2]]) == pytest.approx(1 / 3)
    assert agreement(table[columns[:1]]) is None


def test_no_dataset_counts_more_for_its_configurations_and_parts():
    """The second trainer wins four evaluations of the first dataset, and the reference wins on the second dataset."""
    first, second = "Dataset001_A", "Dataset002_B"
    parts = [(configuration, part) for configuration in ("2d", "3d_fullres") for part in ("validation", "test")]
    won = rows_of({REFERENCE: GRID, OTHER: GRID / 2}, dataset=second)
    lost = [
        row
        for configuration, part in parts
        for row in rows_of({REFERENCE: GRID / 2, OTHER: GRID}, dataset=first, configuration=configuration, part=part)
    ]
    table = ranks_of([*won, *lost], plain_record(datasets=(first, second)))
    assert table.shape == (2, 5)
    assert average_ranks(table).tolist() == [1.5, 1.5]
    assert agreement(table) == -1  # not raised by the evaluations of one dataset, which agree
    assert agreement(table[[column for column in table.columns if column[0] == first]]) is None


def test_ranks_are_of_trainers_on_every_dataset_and_of_datasets_with_every_trainer():
    """A rank among three and a rank among two must not be averaged."""
    rows, record = three_datasets()
    unfinished = [row for row in rows if (row["dataset"], row["trainer"]) != ("Dataset002_B", OTHER)]
    table = ranks_of(unfinished, record)
    assert list(table.columns) == [column for column in columns_of(record) if column[0] != "Dataset002_B"]
    assert set(table.index) == {REFERENCE, OTHER, THIRD}
    record = three_datasets({"Dataset002_B": (REFERENCE, THIRD)})[1]  # the suite does not want that one there
    table = ranks_of(unfinished, record)
    assert list(table.columns) == columns_of(record) and set(table.index) == {REFERENCE, THIRD}
    assert all(sorted(table[column]) == [1, 2] for column in table.columns)


def test_trainers_that_never_met_have_no_ranks():
    pairs = ((REFERENCE, OTHER), (REFERENCE, THIRD), (OTHER, THIRD))
    rows, record = three_datasets(dict(zip(three_datasets()[1].datasets, pairs, strict=True)))
    assert ranks_of(rows, record).empty


def test_without_finished_trainers_there_are_no_ranks():
    record = plain_record(folds=(0, 1))
    rows = rows_of({REFERENCE: GRID, OTHER: GRID})
    assert ranks_of(rows, record).empty and finished_rankings(case_table(rows), record) == {}
