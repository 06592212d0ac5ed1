"""The figures of a report, each as SVG and PNG."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.ranking import Ranking
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, Results, by_evaluation
from nnunet_plugins.benchmark.report.units import case_values, finished_trainers, unit_values

OF_EVALUATIONS = ("units_", "ranks_")
"""Beginnings of the names of figures that each evaluation has."""
Caption = tuple[str, str]
"""File name without ending, and caption."""
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8c6bb1",
    "#7f7f7f",
)  # distinguishable by the colour-blind
INCHES_PER_LETTER = 0.08  # in the font size below
MARKERS, LINES = "osD^v", ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nnunet-plugins",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Look(NamedTuple):
    """Colour, marker and line of a trainer in all figures."""

    colour: str
    marker: str
    line: str


def look(trainer: str, record: Record) -> Look:
    """Look of a trainer, which depends on its place in the suite alone."""
    turn, index = divmod(record.suite.trainers.index(trainer), len(COLOURS))
    return Look(COLOURS[index], MARKERS[turn % len(MARKERS)], LINES[turn % len(LINES)])


def draw_all(analysis: Analysis, folder: Path) -> list[Caption]:
    """Write every figure that the results allow, as SVG and PNG.

    Returns:
        File name without ending, and caption, of each.
    """
    drawn: list[Caption] = []
    with matplotlib.style.context(STYLE, after_reset=True):  # whatever has been set in this process or by the user
        for name, caption, figure in figures(analysis):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=150)
            drawn.append((name, caption))
    return drawn


def figures(analysis: Analysis) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of everything that the results allow to draw."""
    results, table, rankings = analysis
    record = results.record
    for evaluation, cases in by_evaluation(results.cases):
        if trainers := finished_trainers(cases, record, evaluation.dataset):
            caption = f"{evaluation}: Dice of every unit; boxes are quartiles, diamonds means"
            yield f"units_{'_'.join(evaluation)}", caption, units_figure(cases, trainers, record)
    for evaluation, ranking in rankings.items():
        caption = f"{evaluation}: how often each trainer has each rank when the units are drawn again (10,000 times)"
        yield f"ranks_{'_'.join(evaluation)}", f"{caption}; equal trainers share their ranks", ranks_figure(ranking)
    dice = main_label_rows(table[(table.metric == "Dice") & table["mean"].notna()])
    if dice.p_holm.notna().any():
        caption = "Dice minus the reference's; * p < 0.05, ** p < 0.01, *** p < 0.001 after Holm's correction"
        yield "significance", caption, significance_figure(dice, record)
    accuracy = accuracy_against_cost(dice, results)
    if len(accuracy):
        caption = "Dice against the time of a training epoch, medians over folds"
        yield "accuracy_and_cost", caption, cost_figure(accuracy, record)
    if len(results.curves):
        caption = "Training: nnU-Net's moving average of the Dice on patches of the validation cases, each line a fold"
        yield "training_curves", caption, curves_figure(results.curves, record)


def units_figure(cases: pd.DataFrame, trainers: Sequence[str], record: Record) -> Figure:
    """A box and a strip of dots for each trainer, one dot a unit."""
    values = unit_values(case_values(cases[cases.trainer.isin(trainers)], "Dice"))
    present = [trainer for trainer in trainers if trainer in values.columns]
    figure = Figure(figsize=(7, 0.9 + 0.45 * len(present)), layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    samples = [values[trainer].dropna().to_numpy() for trainer in present]
    positions = np.arange(len(present))[::-1]
    axis.boxplot(
        samples, positions=positions, orientation="horizontal", widths=0.6, showfliers=False, showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 4},
        medianprops={"color": "black"},
    )  # fmt: skip
    for trainer, sample, position in zip(present, samples, positions, strict=True):
        jitter = rng.uniform(-0.18, 0.18, len(sample))
        colour = look(trainer, record).colour
        axis.scatter(sample, position + jitter, s=12, alpha=0.5, color=colour, linewidths=0, zorder=3)
    axis.set(yticks=positions, yticklabels=present, xlabel="Dice", xlim=(-0.02, 1.02))
    return figure


def ranks_figure(ranking: Ranking) -> Figure:
    """Bubbles by trainer and rank, whose area is the share of the resamples."""
    order = np.argsort(ranking.ranks, kind="stable")
    figure = Figure(figsize=(1.8 + 0.7 * len(order) + 1.6, 0.9 + 0.45 * len(order)), layout="constrained")
    axis = figure.subplots()
    for row, index in enumerate(order[::-1]):
        shares = ranking.frequencies[index]
        shown = shares > 0
        axis.scatter(
            np.arange(1, len(shares) + 1)[shown],
            np.full(shown.sum(), row),
            s=330 * shares[shown],
            color=COLOURS[0],
            alpha=0.75,
        )
        for rank in np.flatnonzero(shown):
            axis.annotate(f"{100 * shares[rank]:.0f}", (rank + 1, row), ha="center", va="center", fontsize=7)
    axis.set(yticks=range(len(order)), yticklabels=[ranking.trainers[i] for i in order[::-1]])
    axis.set(
        xticks=range(1, len(order) + 1),
        xlabel="rank (numbers: % of resamples)",
        xlim=(0.4, len(order) + 0.6),
        ylim=(-0.6, len(order) - 0.4),
    )
    return figure


def significance_figure(dice: pd.DataFrame, record: Record) -> Figure:
    """Map of the differences to the reference, with stars for significant ones."""
    where = dice.dataset.map(wrapped) + "\n" + dice.configuration + " " + dice.part
    differences = dice.assign(where=where).pivot(index="trainer", columns="where", values="difference")
    p_values = dice.assign(where=where).pivot(index="trainer", columns="where", values="p_holm")
    names = [t for t in record.suite.trainers if t in differences.index and t != record.suite.reference]
    differences, p_values = differences.loc[names], p_values.loc[names]
    scale = f"Dice − {record.suite.reference}"
    width = 1.3 + 1.5 * differences.shape[1] + INCHES_PER_LETTER * max(map(len, names))
    lines = 1 + max(column.count("\n") for column in differences.columns)
    height = 0.4 + 0.15 * lines + max(0.45 * len(names), INCHES_PER_LETTER * len(scale))
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    bound = max(0.01, float(np.nanmax(np.abs(differences.to_numpy()))))
    image = axis.imshow(differences, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (row, column), value in np.ndenumerate(differences.to_numpy()):
        if np.isfinite(value):
            p = p_values.iat[row, column]
            stars = "*" * sum(p < limit for limit in (0.05, 0.01, 0.001))
            dark = abs(value) > 0.6 * bound
            axis.text(
                column,
                row,
                f"{value:+.3f}\n{stars}".strip(),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    axis.set(yticks=range(len(names)), yticklabels=names)
    axis.set_xticks(range(differences.shape[1]), differences.columns, fontsize=8)
    figure.colorbar(image, label=scale)
    return figure


def wrapped(dataset: str) -> str:
    """Name in lines of up to 20 letters, broken after underscores."""
    return "\n".join(textwrap.wrap(dataset.replace("_", "_ "), 20)).replace("_ ", "_")


def accuracy_against_cost(dice: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Dice of each trainer, and the seconds that an epoch of its training took."""
    keys = ["dataset", "configuration", "trainer"]
    times = results.trainings.groupby(keys).seconds_per_epoch.median().rename("seconds").reset_index()
    return dice.merge(times, on=keys)[[*keys, "part", "mean", "ci_low", "ci_high", "seconds"]]


def cost_figure(accuracy: pd.DataFrame, record: Record) -> Figure:
    """A panel for each evaluation: Dice with its interval over seconds per epoch."""
    groups = list(accuracy.groupby(EVALUATION_COLUMNS))
    figure, axes = panels(len(groups), 3.4)
    for axis, (key, group) in zip(axes, groups, strict=True):
        for index, row in enumerate(group.itertuples()):
            y, low, high = group["mean"].iloc[index], row.ci_low, row.ci_high
            error = None if pd.isna(low) else [[max(0, y - low)], [max(0, high - y)]]
            colour, marker, _ = look(row.trainer, record)
            axis.errorbar(row.seconds, y, error, fmt=marker, color=colour, capsize=2, label=row.trainer)
        axis.set(xlabel="seconds per epoch", ylabel="Dice", title=" ".join(key), xscale="log")
    add_legend(figure)
    return figure


def curves_figure(curves: pd.DataFrame, record: Record) -> Figure:
    """A panel for each dataset and configuration: Dice over epochs, one line a training."""
    groups = list(curves.groupby(["dataset", "configuration"]))
    figure, axes = panels(len(groups), 3.2)
    for axis, (key, group) in zip(axes, groups, strict=True):
        for (trainer, _, _), curve in group.groupby(["trainer", "repeat", "fold"]):
            colour, _, line = look(trainer, record)
            marker = "." if len(curve) < 5 else ""
            axis.plot(curve.epoch, curve.ema_fg_dice, line, color=colour, lw=1, marker=marker, label=trainer)
        axis.set(xlabel="epoch", ylabel="Dice, moving average", title=" ".join(key))
    add_legend(figure)
    return figure


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with so many panels, two in a row, each of the height in inches."""
    rows, columns = -(-count // 2), min(2, count)
    figure = Figure(figsize=(4.6 * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def add_legend(figure: Figure) -> None:
    """Add one legend for all panels, below them."""
    shown: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3, fontsize=7)
