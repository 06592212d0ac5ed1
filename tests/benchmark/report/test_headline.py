"""Proves that the first sentences of a report say what its numbers show, and no more."""

import numpy as np
import pytest
from support.benchmark_results import (
    CELLS,
    GRID,
    OTHER,
    REFERENCE,
    SKIN,
    THIRD,
    TRAINERS,
    results_of,
    rows_of,
    suite_of,
)

from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.report.headline import UNDECIDED, headline
from nnunet_plugins.benchmark.report.markup import result_files
from nnunet_plugins.benchmark.report.notes import notices
from nnunet_plugins.benchmark.report.tables import all_tables

NOISE = np.where(np.arange(16) % 2, 0.0625, -0.0625)


def headline_of(dice, datasets=(CELLS,), **suite):
    rows = [row for name in datasets for row in rows_of(dice, dataset=name)]
    return headline(analyse(results_of(rows, suite_of(TRAINERS, datasets, **suite), dict.fromkeys(datasets))))


def test_one_dataset_names_the_best_and_those_that_are_not_different():
    text = headline_of({REFERENCE: GRID, OTHER: GRID + 0.25, THIRD: GRID + 0.25 + NOISE / 64})
    assert text == (
        f"{OTHER} has the highest mean Dice, {GRID.mean() + 0.25:.4f}; {THIRD} is not different from it (p ≥ 0.05). "
        f"Against {REFERENCE}, at p < 0.05 after Holm's correction, Dice is better with {OTHER} and {THIRD}."
    )


def test_clear_winner_of_two_datasets_has_its_rank():
    text = headline_of({REFERENCE: GRID + 0.125, OTHER: GRID + 0.25, THIRD: GRID}, (CELLS, SKIN))
    assert text.startswith(
        f"{OTHER} leads, with an average rank of 1.00 of 3 and the highest mean Dice on 2 of 2 evaluations. "
    )
    assert f"Dice is better with {OTHER} (on 2 of 2) and worse with {THIRD} (on 2 of 2)." in text


def test_first_of_several_datasets_does_not_lead_where_no_other_is_worse():
    text = headline_of({REFERENCE: GRID, OTHER: GRID + NOISE + 0.001, THIRD: GRID - NOISE / 2}, (CELLS, SKIN))
    assert text.startswith(f"{OTHER} comes first, with ")
    assert ", though nowhere the best beyond chance (p ≥ 0.05). Against " in text
    assert f"Dice is not different with {OTHER} (on 2 of 2) and {THIRD} (on 2 of 2)." in text


def test_a_mean_that_a_few_failures_decide_is_no_verdict():
    """Better in most units, and worse on average: the test and the mean say the opposite."""
    gain = np.where(np.arange(40) < 5, -0.4, 0.01 + np.arange(40) / 4096)
    dice = {REFERENCE: np.full(40, 0.5), OTHER: 0.5 + gain, THIRD: np.full(40, 0.25)}
    analysis = analyse(results_of(rows_of(dice), suite_of(TRAINERS), {CELLS: None}))
    assert headline(analysis) == (
        f"{REFERENCE} has the highest mean Dice, 0.5000; {OTHER} is {UNDECIDED} (p < 0.05). "
        f"Against {REFERENCE}, at p < 0.05 after Holm's correction, Dice is worse with {THIRD} and "
        f"{UNDECIDED}, with {OTHER}."
    )
    assert "**0.500" in result_files(analysis)["results.md"].decode()
    assert all_tables(analysis)[0].lead == f"best Dice: {REFERENCE}, 0.5000; {OTHER} is {UNDECIDED}"
    (told,) = [kind for kind in notices(analysis) if kind.kind == "Differences whose mean and test say the opposite"]
    assert "is better in 35 and worse in 5 units" in told.sentences[0]


@pytest.mark.parametrize(("datasets", "where"), [((CELLS,), ""), ((CELLS, SKIN), " (each on some of 2)")])
def test_many_trainers_are_counted_instead_of_named(datasets, where):
    names = [f"Trainer{number}" for number in range(5)]
    dice = {REFERENCE: GRID} | {name: GRID + 0.125 + place / 64 for place, name in enumerate(names)}
    rows = [row for name in datasets for row in rows_of(dice, dataset=name)]
    text = headline(analyse(results_of(rows, suite_of(tuple(dice), datasets), dict.fromkeys(datasets))))
    assert text.endswith(f"Dice is better with 5 trainers{where}.")


def test_second_of_a_set_does_not_lead_by_what_the_best_of_it_has_shown():
    """The third trainer is best on the cells beyond chance; the second comes first on average, and nowhere so."""
    clear = {REFERENCE: GRID, OTHER: GRID + 0.125, THIRD: GRID + 0.25}
    noise = {REFERENCE: GRID + 0.001, OTHER: GRID + NOISE / 2 + 0.004, THIRD: GRID - NOISE / 2}
    rows = [*rows_of(clear, dataset=CELLS), *rows_of(noise, dataset=SKIN)]
    text = headline(analyse(results_of(rows, suite_of(TRAINERS, (CELLS, SKIN)), dict.fromkeys((CELLS, SKIN)))))
    assert text.startswith(
        f"{OTHER} comes first, with an average rank of 1.50 of 3 and the highest mean Dice on 1 of 2"
    )
    assert "though nowhere the best beyond chance (p ≥ 0.05)" in text and f"better with {OTHER} (on 1 of 2)" in text


def test_a_comparison_over_more_units_than_others_is_told():
    """One trainer hallucinates where the others are rightly empty: it has seven pairs, the other has six."""
    dice = {REFERENCE: [*GRID[:6], None], OTHER: [*(GRID[:6] + 0.25), None], THIRD: [*(GRID[:6] - 1 / 64), 0.0]}
    text = headline(analyse(results_of(rows_of(dice), suite_of(TRAINERS), {CELLS: None})))
    assert f"better with {OTHER} and worse with {THIRD}." in text


def test_noise_has_no_winner_against_the_reference():
    text = headline_of({REFERENCE: GRID, OTHER: GRID + NOISE, THIRD: GRID - NOISE / 2})
    assert f"correction, Dice is not different with {OTHER} and {THIRD}." in text
    assert "not different from it" in text


def test_unfinished_trainings_are_counted_and_nobody_leads():
    text = headline_of({REFERENCE: GRID, OTHER: GRID}, folds=(0, 1))
    assert text == "No trainer has finished all of its trainings yet. 2 of 6 trainings are done."


def test_single_finished_trainer_is_not_called_the_best():
    text = headline_of({REFERENCE: GRID})
    assert text.startswith(f"{REFERENCE} alone has finished all trainings of a dataset") and text.endswith(
        "1 of 3 trainings are done."
    )


@pytest.mark.parametrize("found", [[0.0, None, 0.0], [None] * 3])
def test_trainers_are_finished_where_there_is_nothing_to_be_found(found):
    text = headline_of({REFERENCE: [None] * 3, OTHER: found, THIRD: found})
    assert "finished" not in text and "trainings are done" not in text
    assert ("No two trainers have a Dice to compare" in text) == (found[0] is None)


# ---- too few units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_units", "too_few"), [(2, True), (6, True), (7, False)])
def test_with_too_few_units_for_three_trainers_nothing_is_claimed_and_nothing_marked(num_units, too_few):
    dice = {REFERENCE: GRID[:num_units], OTHER: GRID[:num_units] + 0.25, THIRD: GRID[:num_units] + 0.125}
    results = results_of(rows_of(dice), suite_of(TRAINERS), {CELLS: None})
    analysis = analyse(results)
    shown = all_tables(analysis)[0]
    marked = {cell.mark for row in shown.rows for cell in row} - {""}
    if too_few:
        text = f"Too few units to tell trainers apart: {num_units} units, and no test can tell with so few."
        assert headline(analysis) == text and not marked and "Bold" not in shown.note
        assert shown.lead == "Dice: too few units to tell"
    else:
        assert headline(analysis).startswith(f"{OTHER} has the highest mean Dice") and "best" in marked


def test_datasets_with_too_few_units_are_counted_apart():
    dice = {REFERENCE: GRID + 0.125, OTHER: GRID + 0.25, THIRD: GRID}
    rows = [*rows_of(dice, dataset=CELLS), *rows_of({name: values[:4] for name, values in dice.items()}, dataset=SKIN)]
    text = headline(analyse(results_of(rows, suite_of(TRAINERS, (CELLS, SKIN)), dict.fromkeys((CELLS, SKIN)))))
    assert text.startswith(
        f"On {CELLS} 2d validation, {OTHER} has the highest mean Dice, {GRID.mean() + 0.25:.4f}; all others are worse "
        "(p < 0.05); on 1 more there are too few units to tell. "
    )
    assert text.endswith(f"Dice is better with {OTHER} and worse with {THIRD}.")


def test_trainers_that_are_alone_on_their_datasets_are_all_named():
    rows = [*rows_of({REFERENCE: GRID}, dataset=CELLS), *rows_of({OTHER: GRID}, dataset=SKIN)]
    text = headline(analyse(results_of(rows, suite_of(TRAINERS, (CELLS, SKIN)), dict.fromkeys((CELLS, SKIN)))))
    assert text.startswith(f"{REFERENCE} and {OTHER} alone have finished all trainings of a dataset")
