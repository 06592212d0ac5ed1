"""Proves that the first sentences of a report say what its numbers show, and no more."""

import numpy as np
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
from nnunet_plugins.benchmark.report.headline import headline

NOISE = np.where(np.arange(16) % 2, 0.0625, -0.0625)


def headline_of(dice, datasets=(CELLS,), **suite):
    rows = [row for name in datasets for row in rows_of(dice, dataset=name)]
    return headline(analyse(results_of(rows, suite_of(TRAINERS, datasets, **suite), dict.fromkeys(datasets))))


def test_one_dataset_names_the_best_and_those_that_are_not_different():
    text = headline_of({REFERENCE: GRID, OTHER: GRID + 0.25, THIRD: GRID + 0.25 + NOISE / 64})
    assert text == (
        f"{OTHER} has the highest mean Dice, {GRID.mean() + 0.25:.4f}; {THIRD} is not different from it (p ≥ 0.05). "
        f"Against {REFERENCE}, Dice is better in 2, worse in 0 and not different in 0 of 2 comparisons "
        "(p < 0.05 after Holm's correction)."
    )


def test_clear_winner_of_two_datasets_has_its_rank():
    text = headline_of({REFERENCE: GRID + 0.125, OTHER: GRID + 0.25, THIRD: GRID}, (CELLS, SKIN))
    assert text.startswith(
        f"{OTHER} leads, with an average rank of 1.00 of 3 and the highest mean Dice on 2 of 2 evaluations. "
    )
    assert "better in 2, worse in 2 and not different in 0 of 4 comparisons" in text


def test_noise_has_no_winner_against_the_reference():
    text = headline_of({REFERENCE: GRID, OTHER: GRID + NOISE, THIRD: GRID - NOISE / 2})
    assert "2" in text and "better in 0, worse in 0 and not different in 2 of 2 comparisons" in text
    assert "not different from it" in text


def test_unfinished_trainings_are_counted_and_nobody_leads():
    text = headline_of({REFERENCE: GRID, OTHER: GRID}, folds=(0, 1))
    assert text == "No trainer has finished all of its trainings yet. 2 of 6 trainings are done."


def test_single_finished_trainer_is_not_called_the_best():
    text = headline_of({REFERENCE: GRID})
    assert text.startswith(f"{REFERENCE} alone has finished all of its trainings") and text.endswith(
        "1 of 3 trainings are done."
    )
