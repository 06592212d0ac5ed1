"""Pictures of the best, the median and the worst case of each dataset, with every trainer's outline."""

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
from nnunet_plugins.benchmark.report.results import Results
from nnunet_plugins.benchmark.report.statistics import case_values, cells, finished_trainers
from nnunet_plugins.benchmark.runs import Run, dataset_json, images_folder, predictions, references
from nnunet_plugins.benchmark.survey import Survey

LABEL_COLOURS = ("#00e060", "#ff4040", "#40a0ff", "#ffd000", "#ff60ff", "#00e0e0", "#ff9030", "#b080ff")


def draw_overlays(survey: Survey, results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write a PNG for each dataset, configuration and part; names without ending, and captions.

    Predictions are those of the first repetition; of a test set, those of its first fold's model.
    """
    drawn = []
    for (dataset, configuration, part), cell in cells(results.cases):
        trainers = finished_trainers(cell, results.record, dataset)
        shown = cell[cell.trainer.isin(trainers) & (cell.repeat == 1)]
        chosen = best_median_worst(shown)
        own = [run for run in survey.runs if (run.dataset, run.configuration) == (dataset, configuration)]
        if chosen and images_folder(own[0], part).is_dir():  # a dataset may be there preprocessed alone
            figure = overlay_figure(chosen, shown, [run for run in own if run.trainer in trainers], part)
            name = f"overlays_{dataset}_{configuration}_{part}"
            figure.savefig(folder / f"{name}.png", dpi=100)
            caption = "lines are the truth, areas the prediction, one colour a label; below: its Dice, mean over labels"
            drawn.append((name, f"{dataset} {configuration} {part}: {caption}"))
    return drawn


def best_median_worst(cell: pd.DataFrame) -> dict[str, str]:
    """Cases by their Dice, averaged over labels and trainers."""
    if cell.empty:
        return {}
    dice = case_values(cell, "Dice").groupby(level="case").mean().mean(axis=1).sort_values(kind="stable")
    positions = {"best": len(dice) - 1, "median": len(dice) // 2, "worst": 0}
    return {name: str(dice.index[position]) for name, position in positions.items()} if len(dice) else {}


def overlay_figure(chosen: dict[str, str], cell: pd.DataFrame, found: list[Run], part: str) -> Figure:
    trainers = list(dict.fromkeys(run.trainer for run in found))
    figure = Figure(figsize=(2.1 * (len(trainers) + 1), 2.5 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), len(trainers) + 1, squeeze=False)
    labels = label_manager(found[0])
    reader = reader_of(found[0], next(iter(references(found[0], part).values())))
    for row, (name, case) in zip(axes, chosen.items(), strict=True):
        scores = cell[(cell.case == case) & (cell.fold == cell[cell.case == case].fold.min())]
        own = {run.trainer: run for run in found if (run.fold, run.repeat) == (scores.fold.iloc[0], 1)}
        image, truth, index = read_slice(own[trainers[0]], case, part, reader, labels)
        row[0].imshow(image, cmap="gray")
        row[0].set_ylabel(f"{name}: {case[:24]}", fontsize=7)
        for axis, trainer in zip(row[1:], trainers, strict=True):
            prediction = reader.read_seg(str(predictions(own[trainer], part)[case]))[0][0][index]
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
    """Each label's true outline and predicted area, where there is a truth."""
    area = np.zeros((*truth.shape, 4))
    for value, colour in zip((label for label in labels.all_labels if label != 0), cycle(LABEL_COLOURS)):
        area[prediction == value] = to_rgba(colour, 0.45)
        if (truth == value).any():
            axis.contour(truth == value, [0.5], colors=colour, linewidths=0.9)
    if labels.has_ignore_label:
        area[truth == labels.ignore_label] = 0
    axis.imshow(area)


def read_slice(run: Run, case: str, part: str, reader: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Image ``(H, W)`` or ``(H, W, 3)``, truth ``(H, W)`` and index: of a volume, the slice with most foreground."""
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
