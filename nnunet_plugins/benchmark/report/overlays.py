"""Pictures of the best, the median and the worst case of each dataset, with every trainer's prediction."""

import glob
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_plugins.benchmark.readers import label_manager, reader_of
from nnunet_plugins.benchmark.report.figures import Caption
from nnunet_plugins.benchmark.report.results import Results, by_evaluation
from nnunet_plugins.benchmark.report.units import case_values, finished_trainers
from nnunet_plugins.benchmark.runs import Run, dataset_json, images_folder, predictions, references
from nnunet_plugins.benchmark.survey import Survey

LABEL_COLOURS = ("#00e060", "#ff4040", "#40a0ff", "#ffd000", "#ff60ff", "#00e0e0", "#ff9030", "#b080ff")


def draw_overlays(survey: Survey, results: Results, folder: Path) -> list[Caption]:
    """Write a PNG of the best, median and worst case of each evaluation whose images are on this machine.

    Predictions are those of the first repetition; in a test set, those of its first fold's model.

    Returns:
        File name without ending, and caption, of each.
    """
    drawn = []
    for evaluation, cases in by_evaluation(results.cases):
        trainers = finished_trainers(cases, results.record, evaluation.dataset)
        shown = cases[cases.trainer.isin(trainers) & (cases.repeat == 1)]
        chosen = best_median_worst(shown)
        runs = [run for run in survey.runs if (run.dataset, run.configuration) == evaluation[:2]]
        if chosen and images_folder(runs[0], evaluation.part).is_dir():  # the raw images may be on another machine
            runs = [run for run in runs if run.trainer in trainers and run.repeat == 1]
            figure = overlay_figure(chosen, shown, runs, evaluation.part)
            name = f"overlays_{'_'.join(evaluation)}"
            figure.savefig(folder / f"{name}.png", dpi=100)
            caption = "lines are the truth, areas the prediction, one colour a label; below: its Dice, mean over labels"
            drawn.append((name, f"{evaluation}: {caption}"))
    return drawn


def best_median_worst(cases: pd.DataFrame) -> dict[str, str]:
    """The best, the median and the worst case by their Dice, averaged over labels and trainers."""
    if cases.empty:
        return {}
    dice = case_values(cases, "Dice").groupby(level="case").mean().mean(axis=1).sort_values(kind="stable")
    positions = {"best": len(dice) - 1, "median": len(dice) // 2, "worst": 0}
    return {name: str(dice.index[position]) for name, position in positions.items()} if len(dice) else {}


def overlay_figure(chosen: dict[str, str], cases: pd.DataFrame, runs: list[Run], part: str) -> Figure:
    """A row for each chosen case: its image, then each trainer's prediction over it.

    Args:
        chosen: case of each row, by the row's name.
        cases: rows of ``cases.csv``.
        runs: those of all trainers and folds.
        part: validation or test.
    """
    trainers = list(dict.fromkeys(run.trainer for run in runs))
    figure = Figure(figsize=(2.1 * (len(trainers) + 1), 2.5 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), len(trainers) + 1, squeeze=False)
    labels = label_manager(runs[0])
    reader = reader_of(runs[0], next(iter(references(runs[0], part).values())))
    for row, (name, case) in zip(axes, chosen.items(), strict=True):
        scores = cases[cases.case == case]
        fold = scores.fold.min()
        scores = scores[scores.fold == fold]
        run_of = {run.trainer: run for run in runs if run.fold == fold}
        image, truth, index = read_slice(run_of[trainers[0]], case, part, reader, labels)
        row[0].imshow(image, cmap="gray")
        row[0].set_ylabel(f"{name}: {case[:24]}", fontsize=7)
        for axis, trainer in zip(row[1:], trainers, strict=True):
            prediction = reader.read_seg(str(predictions(run_of[trainer], part)[case]))[0][0][index]
            axis.imshow(image, cmap="gray")
            draw_labels(axis, truth, prediction, labels)
            dice = scores[scores.trainer == trainer].Dice.mean()
            axis.set_xlabel("" if np.isnan(dice) else f"{dice:.3f}", fontsize=7)
    for axis, title in zip(axes[0], ["image", *trainers], strict=True):
        axis.set_title(title, fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def draw_labels(axis: Axes, truth: NDArray[Any], prediction: NDArray[Any], labels: Any) -> None:
    """Draw each label's true outline and predicted area, the latter only where the truth is not ignored."""
    area = np.zeros((*truth.shape, 4))
    for value, colour in zip((label for label in labels.all_labels if label != 0), cycle(LABEL_COLOURS)):
        area[prediction == value] = to_rgba(colour, 0.45)
        if (truth == value).any():
            axis.contour(truth == value, [0.5], colors=colour, linewidths=0.9)
    if labels.has_ignore_label:
        area[truth == labels.ignore_label] = 0
    axis.imshow(area)


def read_slice(run: Run, case: str, part: str, reader: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Read a 2D image, or the slice of a volume with most foreground.

    Returns:
        Image ``(H, W)`` or ``(H, W, 3)``, truth ``(H, W)``, and the index of the slice in the volume.
    """
    truth = reader.read_seg(str(references(run, part)[case]))[0][0]
    foreground = (truth > 0) & (truth != labels.ignore_label)
    index = (int(foreground.sum(axis=(1, 2)).argmax()), slice(None), slice(None))
    description = dataset_json(run)
    names = f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{description['file_ending']}"
    array, _ = reader.read_images(sorted(map(str, images_folder(run, part).glob(names))))
    channels = array[(slice(None), *index)].astype(float)
    low, high = np.percentile(channels, [0.5, 99.5], axis=(1, 2), keepdims=True)
    scaled = ((channels - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    colours = list(description["channel_names"].values()) == ["R", "G", "B"]
    return np.moveaxis(scaled, 0, -1) if colours else scaled[0], truth[index], index
