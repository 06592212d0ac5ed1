"""Pictures of the best, the median and the worst case of each dataset, with the predictions of the trainers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.figures import Caption
from nnunet_plugins.benchmark.report.looks import broken
from nnunet_plugins.benchmark.report.results import by_evaluation
from nnunet_plugins.benchmark.report.slices import CaseReader, Label, is_here
from nnunet_plugins.benchmark.report.units import case_values, finished_trainers
from nnunet_plugins.benchmark.runs import Run
from nnunet_plugins.benchmark.survey import Survey

MOST_PREDICTIONS = 6
"""Most trainers whose predictions a picture shows."""


def draw_overlays(survey: Survey, analysis: Analysis, folder: Path) -> list[Caption]:
    """Write a PNG of the best, median and worst case of each evaluation whose images are on this machine.

    Predictions are those of the first repetition; in a test set, those of its first fold's model.

    Returns:
        File name without ending, and caption, of each.
    """
    drawn, results = [], analysis.results
    for evaluation, cases in by_evaluation(results.cases):
        finished = finished_trainers(cases, results.record, evaluation.dataset)
        trainers = [trainer for trainer in analysis.order if trainer in finished][:MOST_PREDICTIONS]
        shown = cases[cases.trainer.isin(finished) & (cases.repeat == 1)]
        chosen = best_median_worst(shown)
        runs = [run for run in survey.runs if (run.dataset, run.configuration) == evaluation[:2]]
        if chosen and runs and is_here(runs[0], evaluation.part):
            run_of = {(run.trainer, run.fold): run for run in runs if run.repeat == 1}
            figure = overlay_figure(chosen, shown, trainers, run_of, evaluation.part)
            name = f"overlays_{'_'.join(evaluation)}"
            figure.savefig(folder / f"{name}.png", dpi=110)
            less = "" if len(trainers) == len(finished) else f" of the best {len(trainers)} of {len(finished)} trainers"
            caption = f"areas are the predictions{less}, lines the truth; below: its Dice, mean over labels"
            drawn.append((name, f"{evaluation}: {caption}"))
    return drawn


def best_median_worst(cases: pd.DataFrame) -> dict[str, str]:
    """The best, the median and the worst case by their Dice, averaged over labels and trainers."""
    if cases.empty:
        return {}
    dice = case_values(cases, "Dice").groupby(level="case").mean().mean(axis=1).sort_values(kind="stable")
    positions = {"best": len(dice) - 1, "median": len(dice) // 2, "worst": 0}
    return {name: str(dice.index[position]) for name, position in positions.items()} if len(dice) else {}


def overlay_figure(
    chosen: dict[str, str], cases: pd.DataFrame, trainers: list[str], run_of: dict[tuple[str, int], Run], part: str
) -> Figure:
    """A row for each chosen case: its image, the truth, then each trainer's prediction.

    Args:
        chosen: case of each row, by the row's name.
        cases: rows of ``cases.csv``.
        trainers: whose predictions are shown.
        run_of: the runs by trainer and fold.
        part: validation or test.
    """
    titles = ["image", "truth", *trainers]
    figure = Figure(figsize=(2 * len(titles), 2.35 * len(chosen) + 0.4), layout="constrained")
    axes = figure.subplots(len(chosen), len(titles), squeeze=False)
    for row, (name, case) in zip(axes, chosen.items(), strict=True):
        scores = cases[cases.case == case]
        scores = scores[scores.fold == scores.fold.min()]
        fold = int(scores.fold.iloc[0])
        reader = CaseReader(run_of[trainers[0], fold], part)
        shown = reader.read(case)
        pictures = [np.zeros_like(shown.truth), shown.truth]
        pictures += [reader.read_prediction(run_of[trainer, fold], case, shown) for trainer in trainers]
        for axis, labels in zip(row, pictures, strict=True):
            axis.imshow(shown.image, cmap="gray")
            axis.imshow(areas(labels, reader.labels))
        for axis, trainer in zip(row[2:], trainers, strict=True):
            draw_outlines(axis, shown.truth, reader.labels)
            dice = scores[scores.trainer == trainer].Dice.mean()
            axis.set_xlabel("" if np.isnan(dice) else f"{dice:.3f}", fontsize=8)
        row[0].set_ylabel(f"{name} mean Dice of all\n{case[:24]}", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(broken(title, 18), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    add_legend(figure, reader.labels)
    return figure


def areas(labels: NDArray[Any], shown: list[Label]) -> NDArray[Any]:
    """Labels ``(H, W)`` as half transparent areas ``(H, W, 4)``."""
    picture = np.zeros((*labels.shape, 4))
    for label in shown:
        picture[labels == label.value] = to_rgba(label.colour, 0.55)
    return picture


def draw_outlines(axis: Axes, truth: NDArray[Any], shown: list[Label]) -> None:
    """Draw the true outline of each label as a white line with a black rim, which is seen on any image."""
    for label in shown:
        mask = truth == label.value
        if mask.any() and not mask.all():
            lines = axis.contour(mask, [0.5], colors="white", linewidths=0.8)
            lines.set_path_effects([Stroke(linewidth=1.8, foreground="black"), Normal()])


def add_legend(figure: Figure, labels: list[Label]) -> None:
    """Add the names of the labels, and what the line is, below all pictures."""
    handles: list[Any] = [Patch(color=label.colour, label=label.name) for label in labels]
    rim = [Stroke(linewidth=2.4, foreground="black"), Normal()]
    handles.append(Line2D([], [], color="white", linewidth=1.2, path_effects=rim, label="outline of the truth"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
