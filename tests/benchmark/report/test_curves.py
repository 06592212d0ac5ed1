"""Proves that a new stage and an epoch without a value are seen in the training curves, and explained in the figure."""

import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import CELLS, OTHER, REFERENCE, results_of, rows_of, suite_of

from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.report.curves import NEW_STAGE, NO_VALUE, beginnings, curves_figure, gaps


def curve_of(trainer=OTHER, fold=0, anew=(), missing=()):
    """Curve of 20 epochs, whose average begins anew at some epochs, and is missing in others."""
    dice = np.linspace(0.2, 0.9, 20)
    average = []
    for epoch, value in enumerate(dice, start=1):
        average.append(value if epoch in (1, *anew) else 0.9 * average[-1] + 0.1 * value)
    about = {"dataset": CELLS, "configuration": "2d", "trainer": trainer, "repeat": 1, "fold": fold}
    curve = pd.DataFrame({"epoch": range(1, 21), "mean_fg_dice": dice, "ema_fg_dice": average}).assign(**about)
    curve.loc[curve.epoch.isin(missing), ["mean_fg_dice", "ema_fg_dice"]] = np.nan
    return curve


@pytest.mark.parametrize(("anew", "missing"), [((), ()), ((5,), ()), ((5, 9), (13,)), ((), (1,)), ((), (7, 8, 20))])
def test_beginnings_and_gaps_are_found_where_they_are(anew, missing):
    curve = curve_of(anew=anew, missing=missing)
    assert curve.epoch.iloc[beginnings(curve)].tolist() == list(anew)
    last = [epoch - 1 for epoch in missing if epoch > 1 and epoch - 1 not in missing]
    assert curve.epoch.iloc[gaps(curve)].tolist() == last


def figure_of(*curves):
    results = results_of(
        rows_of({REFERENCE: [0.5, 0.25], OTHER: [0.5, 0.75]}), suite_of((REFERENCE, OTHER)), {CELLS: None}
    )
    return curves_figure(analyse(results._replace(curves=pd.concat(curves))))


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_figure_explains_what_is_unusual_and_nothing_else():
    assert legend_of(figure_of(curve_of(REFERENCE), curve_of())) == [OTHER, REFERENCE]
    assert legend_of(figure_of(curve_of(anew=(6,)))) == [OTHER, NEW_STAGE]
    assert legend_of(figure_of(curve_of(missing=(6,)))) == [OTHER, NO_VALUE]
    assert legend_of(figure_of(curve_of(anew=(6,)), curve_of(fold=1, missing=(6,)))) == [OTHER, NEW_STAGE, NO_VALUE]


def test_line_is_broken_where_a_stage_begins():
    figure = figure_of(curve_of(anew=(6,)))
    (axis,) = figure.axes
    line, dotted = axis.lines[:2]
    epochs, values = line.get_data()
    assert epochs[np.isnan(values)].tolist() == [6] and len(epochs) == 21
    assert set(dotted.get_xdata()) == {6} and dotted.get_color() == line.get_color()
