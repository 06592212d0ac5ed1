"""The figures of a report, each as SVG, PNG and PDF."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.cells import written
from nnunet_plugins.benchmark.report.curves import curves_figure
from nnunet_plugins.benchmark.report.looks import (
    STYLE,
    add_legend,
    broken,
    left_out,
    look,
    panels,
    set_log_scale,
    shown_trainers,
)
from nnunet_plugins.benchmark.report.numbers import contrary
from nnunet_plugins.benchmark.report.ranking import Ranking
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, Results, by_evaluation
from nnunet_plugins.benchmark.report.units import case_values, finished_trainers, unit_values

Caption = tuple[str, str]
"""File name without ending, and caption."""
OF_EVALUATIONS = ("units_", "ranks_")
"""Beginnings of the names of figures that each evaluation has."""
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "png": {"dpi": 150},
    "pdf": {"metadata": {"CreationDate": None}},
}
MOST_DOTS = 300
"""Most dots of a trainer that are drawn one by one; more are a picture within the figure."""
MOST_DETAILED = 12
"""Most evaluations of which each has a dot for every unit, and a map of its ranks."""
MOST_NUMBERS = 20
"""Most ranks with numbers in their cells; more leave no room."""
VISIBLE = 0.5
"""Smallest share, in percent, that a whole number shows."""


def draw_all(analysis: Analysis, folder: Path) -> list[Caption]:
    """Write every figure that the results allow, in all formats.

    Returns:
        File name without ending, and caption, of each.
    """
    drawn: list[Caption] = []
    with matplotlib.style.context(STYLE, after_reset=True):  # whatever has been set in this process or by the user
        for name, caption, figure in figures(analysis):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the same places in all formats, found once
            for ending, options in FORMATS.items():
                figure.savefig(folder / f"{name}.{ending}", **options)
            drawn.append((name, caption))
    return drawn


def figures(analysis: Analysis) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of everything that the results allow to draw."""
    results, table, rankings = analysis
    record, shown, end = results.record, shown_trainers(analysis), left_out(analysis)
    few = len(rankings) <= MOST_DETAILED
    dice = main_label_rows(table[(table.metric == "Dice") & table["mean"].notna() & table.trainer.isin(shown)])
    dice = dice.assign(p_holm=dice.p_holm.mask(contrary(dice), 1.0))
    if dice.p_holm.notna().any():
        caption = (
            "Dice minus the reference's; * p < 0.05, ** p < 0.01, *** p < 0.001 after Holm's correction, where mean "
            "and test agree"
        )
        yield "significance", caption + end, significance_figure(dice, record, shown)
    accuracy = accuracy_against_cost(dice, results)
    if len(accuracy):
        caption = "Dice against the time of a training epoch, medians over folds"
        yield "accuracy_and_cost", caption + end, cost_figure(accuracy, record, shown)
    if len(results.curves):
        caption = "Training: nnU-Net's moving average of the Dice on patches of the validation cases, each line a fold"
        yield "training_curves", caption + end, curves_figure(analysis)
    for evaluation, cases in by_evaluation(results.cases):
        finished = finished_trainers(cases, record, evaluation.dataset)
        name = "_".join(evaluation)
        with_values = set(cases.trainer[cases.Dice.notna()])
        if trainers := [trainer for trainer in shown if trainer in finished and trainer in with_values]:
            caption = (
                f"{evaluation}: Dice of {'every unit' if few else 'the units'}; boxes are quartiles, diamonds means; "
                "the axis begins at the lowest tenth"
            )
            yield f"units_{name}", caption + end, units_figure(cases, trainers, record, with_dots=few)
        if evaluation in rankings and few and set(shown) & set(rankings[evaluation].trainers):
            caption = (
                f"{evaluation}: how often each trainer has each rank when the units are drawn again (10,000 times); "
                "equal trainers share their ranks"
            )
            yield f"ranks_{name}", caption + end, ranks_figure(rankings[evaluation], shown)


def units_figure(cases: pd.DataFrame, trainers: Sequence[str], record: Record, with_dots: bool = True) -> Figure:
    """A box and a strip of dots, one dot a unit, for each trainer; the axis begins below the lowest unit."""
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
    for trainer, sample, position in zip(present, samples, positions, strict=True) if with_dots else ():
        jitter = rng.uniform(-0.18, 0.18, len(sample))
        colour = look(trainer, record).colour
        axis.scatter(
            sample, position + jitter, s=12, alpha=0.5, color=colour, linewidths=0, zorder=3,
            rasterized=len(sample) > MOST_DOTS,
        )  # fmt: skip
    axis.set(yticks=positions, yticklabels=present, xlabel="Dice")
    axis.set_xlim(min(0.9, np.floor(10 * np.concatenate(samples).min()) / 10) - 0.02, 1.02)
    return figure


def ranks_figure(ranking: Ranking, order: Sequence[str]) -> Figure:
    """Map of how often (colour, and number in percent) some trainers, in the given order, have each rank.

    It ends with the last rank that one of them has.
    """
    names = [trainer for trainer in order if trainer in ranking.trainers]
    shares = 100 * ranking.frequencies[[ranking.trainers.index(trainer) for trainer in names]]
    shares = shares[:, : max(len(names), 1 + np.flatnonzero(shares.max(axis=0) >= VISIBLE).max())]
    few = shares.shape[1] <= MOST_NUMBERS
    size = (2.2 + (0.42 if few else 0.12) * shares.shape[1], 0.9 + 0.42 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if few and share >= VISIBLE:
            colour = "white" if share > 55 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    ticks = range(shares.shape[1]) if few else range(4, shares.shape[1], 5)
    axis.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="rank")
    figure.colorbar(image, label="% of the resamples", shrink=0.8)
    return figure


def significance_figure(dice: pd.DataFrame, record: Record, order: Sequence[str]) -> Figure:
    """Map of the differences to the reference, with stars for significant ones: a row for each evaluation."""
    where = dice[EVALUATION_COLUMNS].agg(" ".join, axis=1).map(lambda name: broken(name, 26))
    differences = dice.assign(where=where).pivot(index="where", columns="trainer", values="difference")
    p_values = dice.assign(where=where).pivot(index="where", columns="trainer", values="p_holm")
    names = [t for t in order if t in differences.columns and t != record.suite.reference]
    differences, p_values = differences[names], p_values[names]
    columns = [broken(name, 14) for name in names]
    lines = 1 + max(name.count("\n") for name in columns)
    figure = Figure(figsize=(3.2 + 1.0 * len(names), 0.8 + 0.16 * lines + 0.5 * len(differences)), layout="constrained")
    axis = figure.subplots()
    bound = max(0.01, float(np.nanmax(np.abs(differences.to_numpy()))))
    image = axis.imshow(differences, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (row, column), value in np.ndenumerate(differences.to_numpy()):
        if np.isfinite(value):
            stars = "*" * sum(p_values.iat[row, column] < limit for limit in (0.05, 0.01, 0.001))
            colour = "white" if abs(value) > 0.6 * bound else "black"
            text = f"{written(value, '+.3f')}\n{stars}".strip()
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_yticks(range(len(differences)), differences.index, fontsize=8)
    axis.set_xticks(range(len(names)), columns, fontsize=8)
    axis.set_title(f"Dice − {record.suite.reference}")
    figure.colorbar(image)
    return figure


def accuracy_against_cost(dice: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Dice of each trainer, and the seconds that an epoch of its training took."""
    keys = ["dataset", "configuration", "trainer"]
    times = results.trainings.groupby(keys).seconds_per_epoch.median().rename("seconds").reset_index()
    return dice.merge(times, on=keys)[[*keys, "part", "mean", "ci_low", "ci_high", "seconds"]]


def cost_figure(accuracy: pd.DataFrame, record: Record, order: Sequence[str]) -> Figure:
    """A panel for each evaluation: Dice with its interval over seconds per epoch."""
    groups = list(accuracy.groupby(EVALUATION_COLUMNS))
    figure, axes = panels(len(groups), 3.2)
    for axis, (key, group) in zip(axes, groups, strict=True):
        for index, row in enumerate(group.itertuples()):
            y, low, high = group["mean"].iloc[index], row.ci_low, row.ci_high
            error = None if pd.isna(low) else [[max(0, y - low)], [max(0, high - y)]]
            colour, marker, _ = look(row.trainer, record)
            axis.errorbar(row.seconds, y, error, fmt=marker, color=colour, capsize=2, label=row.trainer)
        axis.set(xlabel="seconds per epoch", ylabel="Dice", title=broken(" ".join(key), 36))
        set_log_scale(axis, group.seconds)
    add_legend(figure, order)
    return figure
