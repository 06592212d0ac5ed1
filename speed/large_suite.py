"""Time that ``benchmark status`` and ``benchmark run --dry-run`` take for suites of thousands of trainings.

python speed/large_suite.py --trainers 10 30 100 --datasets 28 --folds 5

Both read the files of an imaginary benchmark in a temporary folder: of three trainings two are done, with the receipts
and predictions of a training of ``--epochs`` epochs and ``--cases`` validation cases, and every fourth of the others
was interrupted. Printed are seconds of the processor, imports left out, and files opened for each training.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from nnunet_plugins.benchmark.command import run
from nnunet_plugins.benchmark.jobs.sources import current_split
from nnunet_plugins.benchmark.jobs.states import plan_receipt
from nnunet_plugins.benchmark.runs import Run, predictions, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.files import digest
from nnunet_plugins.planning.source import find_trainer_class
from nnunet_plugins.trainers import TRAINERS

ENDINGS = ("", "_earlyStop5", "_earlyStop10", "_earlyStop20")
LABELS = 2


def write(path: Path, content: Any) -> None:
    """Write what ``files.write_json`` writes, without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def write_suite(root: Path, trainers: int, datasets: int, folds: int) -> Path:
    """Suite of trainers that nnU-Net finds, on datasets that are only described."""
    names = ["nnUNetTrainer", *(name + ending for ending, name in itertools.product(ENDINGS, TRAINERS))][:trainers]
    if len(names) < trainers:
        raise SystemExit(f"--trainers {trainers}: this script knows {len(names)}")
    lines = [f'name = "large"\ntrainers = {names}\nreference = "nnUNetTrainer"\nepochs = 1000']
    lines += [f'folds = {list(range(folds))}\nresources = {{ device = "cpu" }}']
    lines += [f"[[datasets]]\nid = {number}" for number in range(1, datasets + 1)]
    path = root / "large.toml"
    path.write_text("\n".join(lines))
    return path


def write_dataset(root: Path, number: int, folds: int, cases: int) -> None:
    """A dataset as planning and preprocessing leave it, with empty images."""
    name = f"Dataset{number:03}_Large"
    raw, preprocessed = root / "nnUNet_raw" / name, root / "nnUNet_preprocessed" / name
    names = [[f"fold{fold}_{case:04}" for case in range(cases)] for fold in range(folds)]
    described = {"channel_names": {"0": "R"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".png"}
    for folder in (raw, preprocessed):
        write(folder / "dataset.json", described | {"numTraining": folds * cases})
    everyone = set(itertools.chain(*names))
    write(
        preprocessed / "splits_final.json",
        [{"train": sorted(everyone - {*val}), "val": val} for val in names],
    )
    write(preprocessed / "nnUNetPlans.json", {"configurations": {"2d": {"data_identifier": "nnUNetPlans_2d"}}})
    for folder in (raw / "labelsTr", preprocessed / "gt_segmentations", preprocessed / "nnUNetPlans_2d"):
        folder.mkdir(parents=True)
        for case in everyone:
            (folder / f"{case}.{'pkl' if folder.name == 'nnUNetPlans_2d' else 'png'}").write_text(case)


def write_training(run: Run, epochs: int) -> None:
    """Receipts and predictions of a training that is done."""
    files = list(predictions(run, "validation").values())
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{run} {file.name}")
    checkpoint = run.folder / "checkpoint_final.pth"
    checkpoint.touch()
    (run.model / "plans.json").write_text(run.plans_file.read_text())
    write(run.split_note, current_split(run))
    curve = [(epoch * 0.7548776662466927) % 1 for epoch in range(epochs)]
    trained = {"parts": ["validation"], "epoch_seconds": curve, "measured": {}, "machine": {}}
    trained["curves"] = dict.fromkeys(("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"), curve)
    trained["sha256"] = {str(path.relative_to(run.folder)): digest(path) for path in (checkpoint, *files)}
    write(run.training_receipt, trained)
    os.utime(run.training_receipt, (time.time() + 1,) * 2)  # written long after its files, unlike here
    rows = [{"part": "validation", "case": file.stem, "label": label, "Dice": 0.5, "HD95": 1.5, "NSD": 0.75}
            for file in files for label in ("a", "b")]  # fmt: skip
    write(run.validation_receipt, {"tolerance": 1.0, "parts": ["validation"], "cases": rows})


def write_interrupted(run: Run, epochs: int) -> None:
    """Log and checkpoint of a training that was interrupted halfway."""
    run.folder.mkdir(parents=True)
    (run.folder / "checkpoint_latest.pth").touch()
    (run.folder / ".bench.lock").touch()
    lines = "2026-01-01 00:00:00: Epoch {} \n2026-01-01: Pseudo dice [0.5, 0.7] \n2026-01-01: Epoch time: 30.5 s \n"
    (run.folder / "training_log_2026_1_1_00_00_00.txt").write_text("".join(map(lines.format, range(epochs // 2))))


def write_benchmark(root: Path, suite_file: Path, datasets: int, folds: int, cases: int, epochs: int) -> int:
    """Write all files of a suite that is under way; the number of its trainings."""
    for number in range(1, datasets + 1):
        write_dataset(root, number, folds, cases)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(root / variable)
    all_runs = runs(read_suite(suite_file))
    for first in {found.dataset: found for found in all_runs}.values():
        write(first.plan_receipt, plan_receipt(first))
        write(first.preprocessing_receipt, {"configurations": ["2d"]})
    for number, found in enumerate(all_runs):
        if number % 3:
            write_training(found, epochs)
        elif number % 12 == 0:
            write_interrupted(found, epochs)
    return len(all_runs)


def timed(call: Callable[[], object], root: Path) -> tuple[float, int]:
    """Seconds of the processor, and number of files of a folder that were opened through pathlib."""
    start = time.process_time()
    with mock.patch("io.open", side_effect=io.open) as opened, contextlib.redirect_stdout(io.StringIO()):
        call()
    seconds = time.process_time() - start
    return seconds, sum(str(arguments[0]).startswith(str(root)) for arguments, _ in opened.call_args_list)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trainers", type=int, nargs="+", default=[10, 30, 100])
    add("--datasets", type=int, default=28)
    add("--folds", type=int, default=5)
    add("--cases", type=int, default=20, help="validation cases of a fold")
    add("--epochs", type=int, default=1000)
    options = parser.parse_args(arguments)
    find_trainer_class("nnUNetTrainer")  # imports all of nnU-Net's
    print("| trainings | status, s | files for each | dry run, s | files for each |\n|---|---|---|---|---|")
    for trainers in options.trainers:
        with tempfile.TemporaryDirectory() as folder:
            suite = write_suite(Path(folder), trainers, options.datasets, options.folds)
            number = write_benchmark(
                Path(folder), suite, options.datasets, options.folds, options.cases, options.epochs
            )
            cells = []
            for action in ("status", "run"):
                chosen = argparse.Namespace(action=action, suite=suite, dry_run=True, executor="local", gpus=None)
                seconds, files = timed(lambda chosen=chosen: run(chosen), Path(folder))
                cells += [f"{seconds:.1f}", f"{files / number:.1f}"]
            print(f"| {number} |", *(f"{cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
