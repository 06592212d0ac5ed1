"""Time and memory that a benchmark's report takes, as it grows with trainers, datasets and cases.

python speed/report.py --trainers 100 --datasets 28 --cases 100

Made-up results of a quarter of each size, of each size in full alone, and of all three in full: numbers (tests,
intervals, ranks), tables and page. With --disk also `benchmark status` and the dry run, of trainings of five folds
whose files are written into a temporary folder. Seconds are those of one core, whatever else the machine does.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.jobs.engine import dry_run
from nnunet_plugins.benchmark.jobs.receipts import current_split
from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.report.markup import result_files
from nnunet_plugins.benchmark.report.page import render
from nnunet_plugins.benchmark.report.record import DatasetRecord, Machine, Record
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, TRAINING_COLUMNS, Results
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.status import print_status
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.files import write_json

FOLDS = 5
METRICS = list(HIGHER_IS_BETTER)


def made_up_suite(trainers: int, datasets: int) -> Suite:
    names = ("nnUNetTrainer", *(f"Trainer{number:03}" for number in range(1, trainers)))
    data = tuple(Data(number) for number in range(1, datasets + 1))
    return Suite("made_up", names, names[0], 100, data, folds=tuple(range(FOLDS)))


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
    described = {name: DatasetRecord(data.id, None) for name, data in names.items()}
    record = Record(suite, described, "2026-01-01", Machine("Linux", "a processor", 1), {"nnunet-plugins": "0"})
    return Results(every, trainings, pd.DataFrame(), pd.DataFrame(), record)


def measure(trainers: int, datasets: int, cases: int) -> list[str]:
    """Row of the table: sizes, seconds of each part, peak memory of this process, size of the page."""
    results = made_up_results(trainers, datasets, cases)
    analysis, numbers = timed(lambda: analyse(results))
    _, tables = timed(lambda: result_files(analysis))
    page, html = timed(lambda: render(analysis, []))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = [f"{value:.1f}" for value in (numbers, tables, html)]
    return [*map(str, (trainers, datasets, cases)), *seconds, f"{peak:.2f}", f"{len(page) / 2**20:.1f}"]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result of a call, and the seconds of processor time that it took."""
    start = time.process_time()
    return call(), time.process_time() - start


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function in a process of its own, whose peak memory is its own too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# ---- files on the disk -----------------------------------------------------------------------------------------------


def measure_commands(trainers: int, datasets: int, cases: int) -> list[str]:
    """Row of the table of commands: number of trainings, seconds of ``status`` and of the dry run."""
    suite = made_up_suite(trainers, datasets)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({f"nnUNet_{name}": f"{folder}/{name}" for name in ("raw", "preprocessed", "results")})
        for data in suite.datasets:
            write_dataset(Path(folder), f"Dataset{data.id:03}_Set", cases)
        for run in runs(suite):
            write_fold(run, cases)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            _, status = timed(lambda: print_status(survey(suite)))
            _, dry = timed(lambda: dry_run(survey(suite)))
    number = trainers * datasets * FOLDS
    if f"{number} of {number} trainings done" not in shown.getvalue():
        raise SystemExit("The made-up trainings do not count as done: this script no longer fits the benchmark")
    return [str(number), f"{status:.1f}", f"{dry:.1f}"]


def write_dataset(root: Path, name: str, cases: int) -> None:
    names = [f"case{number:05}" for number in range(cases)]
    description = {"channel_names": {"0": "R"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    configuration = {"data_identifier": "nnUNetPlans_2d", "patch_size": [512, 512], "spacing": [1.0, 1.0]}
    folds = [{"train": [], "val": names[fold::FOLDS]} for fold in range(FOLDS)]
    for part in ("raw", "preprocessed"):
        write_json(root / part / name / "dataset.json", description)
    write_json(root / "preprocessed" / name / "splits_final.json", folds)
    write_json(root / "preprocessed" / name / "nnUNetPlans.json", {"configurations": {"2d": configuration}})


def write_fold(run: Run, cases: int) -> None:
    """Files of a finished training, as far as its state depends on them."""
    names = [f"validation/case{number:05}.png" for number in range(run.fold, cases, FOLDS)]
    (run.folder / "validation").mkdir(parents=True)
    (run.model / "plans.json").write_bytes(run.plans_file.read_bytes())
    for name in ("checkpoint_final.pth", *names):
        (run.folder / name).write_bytes(name.encode())
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in names} | {"checkpoint_final.pth": "0"}
    scores = dict.fromkeys(METRICS, 0.123456789)
    rows = [{"part": "validation", "case": Path(name).stem, "label": "cell"} | scores for name in names]
    run.training_receipt.write_text(json.dumps({"parts": ["validation"], "sha256": hashes, "curves": [0.5] * 500}))
    run.validation_receipt.write_text(json.dumps({"tolerance": 1.0, "parts": ["validation"], "cases": rows}))
    run.split_note.write_text(json.dumps(current_split(run)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("trainers", 100), ("datasets", 28), ("cases", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"number of {name} in full ({default})")
    parser.add_argument("--disk", action="store_true", help="measure `benchmark status` and the dry run too")
    options = parser.parse_args(arguments)
    full = options.trainers, options.datasets, options.cases
    quarter = tuple(max(2, number // 4) for number in full)
    sizes = [quarter, *((*quarter[:i], full[i], *quarter[i + 1 :]) for i in range(3)), full]
    print("| trainers | datasets | cases | numbers, s | tables, s | page, s | peak, GiB | page, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in sizes:
        print(f"| {' | '.join(apart(measure, *size))} |", flush=True)
    if options.disk:
        print("\n| trainings | status, s | dry run, s |\n|---:|---:|---:|")
        for size in (quarter, full):
            print(f"| {' | '.join(apart(measure_commands, *size))} |", flush=True)


if __name__ == "__main__":
    main()
