"""What ``nnunet-plugins benchmark`` does with its options."""

import argparse
import importlib.util
import os
from pathlib import Path

from nnunet_plugins.benchmark.engine import Executor, dry_run, run_suite
from nnunet_plugins.benchmark.runs import nnunet_folder, read_json, runs, work_folder
from nnunet_plugins.benchmark.suite import BadSuite, Suite, read_suite
from nnunet_plugins.errors import UserError


def run(options: argparse.Namespace) -> None:
    """
    Raises:
        UserError: an option, the suite or the data will not do.
    """
    ACTIONS[options.action](options)


def run_benchmark(options: argparse.Namespace) -> None:
    suite = read_suite(options.suite)
    check(suite, options.suite)
    if options.dry_run:
        dry_run(options.suite)
        return
    gpus = () if options.executor == "slurm" else local_gpus(suite, options.gpus)
    succeeded = run_suite(options.suite, options.executor, gpus)
    write_report(suite, work_folder(suite) / "report")
    if not succeeded:
        raise UserError(f"Some trainings have failed: see the logs named above, in {work_folder(suite) / 'logs'}; then run this again")


def check(suite: Suite, path: Path) -> None:
    """What reading the file cannot tell: data, trainers, software.

    Raises:
        UserError: something that the suite needs is missing.
    """
    for package in ("snakemake", "psutil"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The benchmark needs {package}: pip install 'nnunet-plugins[benchmark]', in a clone '.[benchmark]'")
    all_runs = runs(suite)
    for run in all_runs:
        has_raw = (nnunet_folder("nnUNet_raw") / run.dataset / "dataset.json").is_file()
        if not has_raw and not run.preprocessed_receipt.exists():
            raise UserError(f"{run.dataset} has no dataset.json in {nnunet_folder('nnUNet_raw')}: convert it first")
    from nnunet_plugins.trainers.compatibility import nnunet_problem

    if problem := nnunet_problem():
        raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    import contextlib, io

    for trainer in suite.trainers:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                found = recursive_find_trainer_class_by_name(suite.trainer_name(trainer))
            except RuntimeError:
                raise BadSuite(f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; 'nnunet-plugins list' prints ours") from None
        dimensions = getattr(found, "supported_dimensions", (2, 3))
        for run in all_runs:
            if run.trainer == trainer and (2 if run.configuration == "2d" else 3) not in dimensions:
                raise BadSuite(
                    f"{path}: {trainer} works in {dimensions[0]}D only, but dataset {run.data.id} has configuration "
                    f"{run.configuration}: leave one out, or give that dataset a list of trainers"
                )


def local_gpus(suite: Suite, given: str | None) -> tuple[str, ...]:
    """The devices that trainings share."""
    if suite.resources.device != "cuda":
        if given is not None:
            raise UserError(f"--gpus {given}: the suite trains on resources.device = {suite.resources.device!r}: leave out one")
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
