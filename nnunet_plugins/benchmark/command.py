"""What ``nnunet-plugins benchmark`` does with its options."""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_plugins.benchmark.jobs.locks import is_locked
from nnunet_plugins.benchmark.runs import Run, is_done, log_file, require_folds, require_test_set, runs, work_folder
from nnunet_plugins.benchmark.suite import BadSuite, Suite, read_suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json
from nnunet_plugins.nnunet_folders import RAW, SPLITS, nnunet_folder

NEEDED = ("snakemake", "psutil", "pandas", "jinja2")


def run(options: argparse.Namespace) -> None:
    """
    Raises:
        UserError: an option, the suite or the data will not do, or a training has failed.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The benchmark needs {package}: in a clone, pip install '.[benchmark]'")
    ACTIONS[options.action](options)


def run_benchmark(options: argparse.Namespace) -> None:
    from nnunet_plugins.benchmark.jobs.engine import dry_run, run_suite

    suite = read_suite(options.suite)
    check(suite, options.suite)
    if options.dry_run:
        dry_run(suite)
        return
    gpus = () if options.executor == "slurm" else local_gpus(suite, options.gpus)
    succeeded = run_suite(options.suite.resolve(), options.executor, gpus)
    all_runs = runs(suite)
    left = [run for run in all_runs if not is_done(run)]
    if len(left) < len(all_runs):
        report_to(suite, work_folder(suite) / "report")
    if left or not succeeded:  # another suite may have meddled with a fold
        for run in left:
            print(f"{run}: {state(suite, run)}", file=sys.stderr)
        logs = work_folder(suite) / "logs"
        raise UserError(f"Not everything succeeded: see the messages above and the logs in {logs}; then run this again")


def report(options: argparse.Namespace) -> None:
    suite = read_suite(options.suite)
    report_to(suite, options.output or work_folder(suite) / "report", with_cases=not options.no_cases)


def report_to(suite: Suite, folder: Path, with_cases: bool = True) -> None:
    from nnunet_plugins.benchmark.report.page import write_report

    page = write_report(suite, Path(os.path.abspath(folder)), with_cases)
    print((page.parent / "results.md").read_text(encoding="utf-8"))
    print(f"Report: {page}")


def verify(options: argparse.Namespace) -> None:
    from nnunet_plugins.benchmark.report import page

    if differing := page.verify(options.report):
        raise UserError(
            f"{options.report}: {', '.join(differing)} differ from what its data give: the tables or the data were "
            "changed, or another version of nnunet-plugins made them (see record.json)"
        )
    print(f"{options.report}: the tables and the page are those that its data and figures give, to the byte.")


def cost(options: argparse.Namespace) -> None:
    from nnunet_plugins.benchmark.cost import suite_costs
    from nnunet_plugins.benchmark.report import results, tables

    suite = read_suite(options.suite)
    check(suite, options.suite)
    if options.steps < 1:
        raise UserError(f"--steps {options.steps} must be at least 1")
    target = results.cost_file(suite)
    write_json(target, suite_costs(suite, options.steps))
    print(tables.as_markdown(tables.cost(results.read_costs(suite))))
    print(f"\nAlso in {target}, and in the next report.")


# ---- status ----------------------------------------------------------------------------------------------------------


def status(options: argparse.Namespace) -> None:
    """A line for each training: done, running, failed or waiting."""
    suite = read_suite(options.suite)
    all_runs = runs(suite)
    states = [state(suite, run) for run in all_runs]
    width = max(len(str(run)) for run in all_runs)
    for run, text in zip(all_runs, states, strict=True):
        print(f"{run!s:{width}}  {text}")
    done = sum(text == "done" for text in states)
    print(f"\n{done} of {len(all_runs)} trainings done. Logs: {work_folder(suite) / 'logs'}")


def state(suite: Suite, run: Run) -> str:
    if is_done(run):
        return "done"
    if is_locked(run.folder / ".bench.lock"):
        return f"running, epoch {last_epoch(run)} of {suite.epochs}"
    receipts = {"plan": run.planned, "preprocess": run.preprocessed_receipt, "train": run.trained}
    step, receipt = next((pair for pair in receipts.items() if not pair[1].exists()), ("validate", run.validated))
    log = log_file(suite, step, receipt)
    if not log.exists():
        return "waiting"
    if "Traceback (most recent call last)" in last_attempt(log):
        return f"failed to {step}, see {log}"
    return f"stopped after epoch {last_epoch(run)} of {suite.epochs}" if step == "train" else f"waiting to {step}"


def last_attempt(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rsplit("\n==== ", 1)[-1]


def last_epoch(run: Run) -> int:
    """The last one that nnU-Net's logs of the fold show as finished, from 1; 0: none."""
    logs = sorted(run.folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    epochs = 0
    for log in logs:
        for match in re.finditer(r"Epoch (\d+) *\n|Epoch time:", log.read_text(encoding="utf-8", errors="replace")):
            epochs = int(match[1]) if match[1] else epochs + 1
    return epochs


# ---- checks ----------------------------------------------------------------------------------------------------------


def check(suite: Suite, path: Path) -> None:
    """What reading the file cannot tell: data, trainers, software.

    Raises:
        UserError: something that the suite needs is missing.
    """
    all_runs = runs(suite)
    for run in {(run.dataset, run.configuration): run for run in all_runs}.values():
        has_raw = (nnunet_folder(RAW) / run.dataset / "dataset.json").is_file()
        if not has_raw and not run.preprocessed_receipt.exists():
            raise UserError(f"{run.dataset} has no dataset.json in {nnunet_folder(RAW)}: convert it first")
        if (run.preprocessed / SPLITS).exists():
            require_folds(suite, run)
        for part in ("labelsTr", "labelsTs") if run.data.test else ("labelsTr",):
            for label in (nnunet_folder(RAW) / run.dataset / part).glob("[!.]*"):
                run.data.cluster(label.name.split(".")[0])
        if run.data.test:
            require_test_set(run)
    from nnunet_plugins.compatibility import nnunet_problem

    if problem := nnunet_problem():
        raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    for trainer in suite.trainers:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                found = recursive_find_trainer_class_by_name(suite.trainer_name(trainer))
            except RuntimeError:
                raise BadSuite(
                    f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; 'nnunet-plugins list' prints ours"
                ) from None
        dimensions = getattr(found, "supported_dimensions", (2, 3))
        for run in all_runs:
            if run.trainer == trainer and (2 if run.configuration.startswith("2d") else 3) not in dimensions:
                raise BadSuite(
                    f"{path}: {trainer} works in {dimensions[0]}D only, but dataset {run.data.id} has configuration "
                    f"{run.configuration}: leave one out, or give that dataset a list of trainers"
                )


def local_gpus(suite: Suite, given: str | None) -> tuple[str, ...]:
    """The devices that trainings share."""
    if suite.resources.device != "cuda":
        if given is not None:
            raise UserError(
                f"--gpus {given}: the suite trains on resources.device = {suite.resources.device!r}: leave out one"
            )
        return ()
    import torch

    if not torch.cuda.is_available():
        raise UserError("There is no GPU here: set device = 'cpu' in the suite's [resources], or use --executor slurm")
    if given is not None:
        gpus = tuple(given.split(","))
        if not all(gpu.isalnum() or gpu.startswith(("GPU-", "MIG-")) for gpu in gpus) or len(set(gpus)) < len(gpus):
            raise UserError(f"--gpus {given}: expected different numbers with commas between them, e.g. 0,1")
        return gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",")) if visible else tuple(map(str, range(torch.cuda.device_count())))


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": run_benchmark,
    "status": status,
    "report": report,
    "verify": verify,
    "cost": cost,
}
