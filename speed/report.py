"""Time and memory that a benchmark's report takes, as it grows with trainers, datasets and cases.

python speed/report.py --trainers 100 --datasets 28 --cases 100

Made-up results of a quarter of each size, of each size in full alone, and of all three in full: numbers (tests,
intervals, ranks), tables, with --figures all figures in all formats, and page. Seconds are those of one core, whatever
else the machine does. Times of `benchmark status` and of the dry run are those of large_suite.py.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report import figures
from nnunet_plugins.benchmark.report.analysis import Analysis, analyse
from nnunet_plugins.benchmark.report.markup import result_files
from nnunet_plugins.benchmark.report.page import all_pictures, pictures, render
from nnunet_plugins.benchmark.report.record import DatasetRecord, Machine, Picture, Record
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, TRAINING_COLUMNS, Results
from nnunet_plugins.benchmark.suite import Data, Suite

FOLDS, EPOCHS = 5, 100


def made_up_suite(trainers: int, datasets: int) -> Suite:
    names = ("nnUNetTrainer", *(f"Trainer{number:03}" for number in range(1, trainers)))
    data = tuple(Data(number) for number in range(1, datasets + 1))
    return Suite("made_up", names, names[0], EPOCHS, data, folds=tuple(range(FOLDS)))


def made_up_results(trainers: int, datasets: int, cases: int) -> Results:
    """Results of trainers that differ a little, on cases that differ much."""
    suite = made_up_suite(trainers, datasets)
    names = {f"Dataset{data.id:03}_Set": data for data in suite.datasets}
    rng = np.random.default_rng(0)
    skill = rng.normal(0, 0.03, trainers)
    frames = []
    for name in names:
        dice = np.clip(rng.beta(8, 3, cases)[:, None] + skill + rng.normal(0, 0.04, (cases, trainers)), 0, 1)
        number, trainer = np.indices(dice.shape).reshape(2, -1)
        frame = pd.DataFrame({"trainer": np.array(suite.trainers)[trainer], "fold": number % FOLDS})
        frame = frame.assign(dataset=name, configuration="2d", part="validation", repeat=1, label="cell")
        frame = frame.assign(case=[f"case{n:05}" for n in number], outcome="segmented")
        for metric, higher_is_better in HIGHER_IS_BETTER.items():
            frame[metric] = dice.ravel() if higher_is_better else 100 * (1 - dice.ravel())
        frames.append(frame.assign(cluster=frame.case))
    every = pd.concat(frames, ignore_index=True)[CASE_COLUMNS]
    trainings = every[["dataset", "configuration", "trainer", "repeat", "fold"]].drop_duplicates(ignore_index=True)
    trainings = trainings.reindex(columns=TRAINING_COLUMNS).assign(epochs=suite.epochs, seconds_per_epoch=60.0)
    described = {name: DatasetRecord(data.id, None, {"validation": "cases"}) for name, data in names.items()}
    record = Record(suite, described, "2026-01-01", Machine("Linux", "a processor", 1), {"nnunet-plugins": "0"})
    return Results(every, trainings, curves_of(trainings), pd.DataFrame(), record)


def curves_of(trainings: pd.DataFrame) -> pd.DataFrame:
    """The same curve for every training, which nnU-Net's moving average follows."""
    about = trainings[["dataset", "configuration", "trainer", "repeat", "fold"]]
    curves = about.loc[about.index.repeat(EPOCHS)].reset_index(drop=True)
    dice = 1 - np.exp(-np.arange(1, EPOCHS + 1) / 30)
    average = pd.Series(dice).ewm(alpha=0.1, adjust=False).mean()
    return curves.assign(
        epoch=np.tile(np.arange(1, EPOCHS + 1), len(about)),
        mean_fg_dice=np.tile(dice, len(about)),
        ema_fg_dice=np.tile(average, len(about)),
    )


def measure(trainers: int, datasets: int, cases: int, with_figures: bool) -> list[str]:
    """Row of the table: sizes, seconds of each part, peak memory of this process, size of the page."""
    results = made_up_results(trainers, datasets, cases)
    analysis, numbers = timed(lambda: analyse(results))
    _, tables = timed(lambda: result_files(analysis))
    images, drawing = timed(lambda: draw(analysis)) if with_figures else ({}, 0.0)
    record = replace(results.record, figures=tuple(images))
    analysis = analysis._replace(results=results._replace(record=record))
    page, html = timed(lambda: render(analysis, [images[picture] for picture in all_pictures(record)]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = [f"{value:.1f}" for value in (numbers, tables, drawing, html)]
    return [*map(str, (trainers, datasets, cases)), *seconds, f"{peak:.2f}", f"{len(page) / 2**20:.1f}"]


def draw(analysis: Analysis) -> dict[Picture, bytes]:
    """Content of all figures, as the page has them."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = figures.draw_all(analysis, Path(folder))
        return {picture: Path(folder, picture.file).read_bytes() for picture in pictures(drawn, Path(folder), ".svg")}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result of a call, and the seconds of processor time that it took."""
    start = time.process_time()
    return call(), time.process_time() - start


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function in a process of its own, whose peak memory is its own too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("trainers", 100), ("datasets", 28), ("cases", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"number of {name} in full ({default})")
    parser.add_argument("--figures", action="store_true", help="draw the figures too")
    options = parser.parse_args(arguments)
    full = options.trainers, options.datasets, options.cases
    quarter = tuple(max(2, number // 4) for number in full)
    sizes = [quarter, *((*quarter[:i], full[i], *quarter[i + 1 :]) for i in range(3)), full]
    print("| trainers | datasets | cases | numbers, s | tables, s | figures, s | page, s | peak, GiB | page, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in sizes:
        print(f"| {' | '.join(apart(measure, *size, options.figures))} |", flush=True)


if __name__ == "__main__":
    main()
