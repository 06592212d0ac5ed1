"""Figure of the training curves, with what would puzzle a reader of them: new stages, and epochs without a value."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.looks import add_legend, broken, look, panels, shown_trainers

SHARE_OF_NEW = 0.1
"""Weight of the newest epoch in nnU-Net's moving average."""
NEW_STAGE = "a new stage begins, and the average anew"
NO_VALUE = "no value after this epoch"


def curves_figure(analysis: Analysis) -> Figure:
    """A panel for each dataset and configuration: Dice over epochs, one line a training."""
    shown, curves = shown_trainers(analysis), analysis.results.curves
    groups = list(curves[curves.trainer.isin(shown)].groupby(["dataset", "configuration"]))
    figure, axes = panels(len(groups), 3.2)
    explained: set[str] = set()
    for axis, (key, group) in zip(axes, groups, strict=True):
        for trainer in shown:
            colour, _, line = look(trainer, analysis.results.record)
            for _, curve in group[group.trainer == trainer].groupby(["repeat", "fold"]):
                explained |= draw_curve(axis, curve, colour, line, trainer)
        axis.set(xlabel="epoch", ylabel="Dice, moving average", title=broken(" ".join(key), 36))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for label, look_alike in ((NEW_STAGE, ":"), (NO_VALUE, "x")):
        if label in explained:
            axes[0].plot([], [], look_alike, color="grey", label=label)
    add_legend(figure, shown)
    return figure


def draw_curve(axis: Axes, curve: pd.DataFrame, colour: str, line: str, label: str) -> set[str]:
    """Draw a training's line, and what explains its breaks.

    Returns:
        The explanations that the legend must have.
    """
    epochs, values = curve.epoch.to_numpy(float), curve.ema_fg_dice.to_numpy(float)
    places, last = beginnings(curve), gaps(curve)
    broken = np.insert(epochs, places, epochs[places]), np.insert(values, places, np.nan)
    axis.plot(*broken, line, color=colour, lw=1, marker="." if len(curve) < 5 else "", label=label)
    if len(last):
        axis.plot(epochs[last], values[last], "x", color=colour)
    for place in places:
        axis.axvline(epochs[place], color=colour, linestyle=":", lw=1)
    return {text for text, found in ((NEW_STAGE, len(places)), (NO_VALUE, len(last))) if found}


def beginnings(curve: pd.DataFrame) -> list[int]:
    """Places of a training's curve at which the moving average is not that of the epochs before."""
    average, new = curve.ema_fg_dice.to_numpy(float), curve.mean_fg_dice.to_numpy(float)
    expected = (1 - SHARE_OF_NEW) * average[:-1] + SHARE_OF_NEW * new[1:]
    return [int(place) for place in 1 + np.flatnonzero(np.abs(average[1:] - expected) > 1e-4)]


def gaps(curve: pd.DataFrame) -> list[int]:
    """Places of the last value before each gap in a training's curve."""
    missing = np.isnan(curve.ema_fg_dice.to_numpy(float))
    return [int(place) for place in np.flatnonzero(missing[1:] & ~missing[:-1])]
