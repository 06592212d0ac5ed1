"""Pictures of the best, the median and the worst case of each dataset, with every trainer's outline."""

import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_plugins.benchmark.figures import finished_trainers
from nnunet_plugins.benchmark.results import Results
from nnunet_plugins.benchmark.runs import RAW, TEST, VALIDATION, Run, nnunet_folder, read_json, runs
from nnunet_plugins.benchmark.statistics import case_values, cells
from nnunet_plugins.benchmark.suite import Suite


def draw_overlays(suite: Suite, results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write a PNG for each dataset, configuration and part; names without ending, and captions."""
    drawn = []
    for (dataset, configuration, part), cell in cells(results.cases):
        trainers = finished_trainers(cell, results.record, dataset)
        chosen = best_median_worst(cell[cell.trainer.isin(trainers)])
        # a dataset may be there preprocessed alone
        if chosen and (nnunet_folder(RAW) / dataset / ("imagesTs" if part == TEST else "imagesTr")).is_dir():
            found = [
                run
                for run in runs(suite)
                if (run.dataset, run.configuration, run.repeat) == (dataset, configuration, 1)
            ]
            figure = overlay_figure(chosen, cell, [run for run in found if run.trainer in trainers], part)
            name = f"overlays_{dataset}_{configuration}_{part}"
            figure.savefig(folder / f"{name}.png", dpi=100)
            drawn.append((name, f"{dataset} {configuration} {part}: truth green, prediction red; Dice below"))
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
    for row, (name, case) in zip(axes, chosen.items(), strict=True):
        folds = {int(fold) for fold in cell[cell.case == case].fold}
        own = {run.trainer: run for run in found if run.fold == min(folds)}
        image, truth, index = read_slice(next(iter(own.values())), case, part)
        row[0].imshow(image, cmap="gray")
        row[0].set_ylabel(f"{name}: {case[:24]}", fontsize=7)
        for axis, trainer in zip(row[1:], trainers, strict=True):
            prediction = read_labels(own[trainer].folder / part / f"{case}{ending(own[trainer])}", own[trainer])[index]
            axis.imshow(image, cmap="gray")
            for mask, colour in ((truth, "#00e060"), (prediction, "#ff3030")):
                if mask.any():
                    axis.contour(mask > 0, [0.5], colors=colour, linewidths=0.9)
            dice = cell[(cell.case == case) & (cell.trainer == trainer)].Dice.mean()
            axis.set_xlabel("" if np.isnan(dice) else f"{dice:.3f}", fontsize=7)
    for axis, title in zip(axes[0], ["image", *trainers], strict=True):
        axis.set_title(title, fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def read_slice(run: Run, case: str, part: str) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Image ``(H, W)`` or ``(H, W, 3)``, truth ``(H, W)`` and index: of a volume, the slice with most foreground."""
    folder = (
        run.preprocessed / "gt_segmentations" if part == VALIDATION else nnunet_folder(RAW) / run.dataset / "labelsTs"
    )
    truth = read_labels(folder / f"{case}{ending(run)}", run)
    index = (int((truth > 0).sum(axis=(1, 2)).argmax()), slice(None), slice(None))
    images = nnunet_folder(RAW) / run.dataset / ("imagesTs" if part == TEST else "imagesTr")
    array, _ = reader(run).read_images(
        sorted(map(str, images.glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{ending(run)}")))
    )
    channels = array[(slice(None), *index)].astype(float)
    low, high = np.percentile(channels, [0.5, 99.5], axis=(1, 2), keepdims=True)
    scaled = ((channels - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    return np.moveaxis(scaled, 0, -1) if len(scaled) == 3 else scaled[0], truth[index], index


def read_labels(path: Path, run: Run) -> NDArray[Any]:
    """Label map ``(D, H, W)``; D = 1 for images."""
    return reader(run).read_seg(str(path))[0][0]


def reader(run: Run) -> Any:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    references = run.preprocessed / "gt_segmentations"
    example = next(references.glob(f"*{ending(run)}"))
    return determine_reader_writer_from_dataset_json(
        read_json(run.preprocessed / "dataset.json"), str(example), verbose=False
    )()


def ending(run: Run) -> str:
    return read_json(run.preprocessed / "dataset.json")["file_ending"]
