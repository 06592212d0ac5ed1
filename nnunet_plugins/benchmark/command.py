"""The actions of ``nnunet-plugins benchmark``: run, status, report, verify, cost."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_plugins.benchmark.checks import examined
from nnunet_plugins.benchmark.progress import progress_of
from nnunet_plugins.benchmark.runs import work_folder
from nnunet_plugins.benchmark.status import in_words, print_status
from nnunet_plugins.benchmark.suite import Suite, read_suite
from nnunet_plugins.benchmark.survey import Survey, survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json

NEEDED = ("snakemake", "psutil", "rich", "pandas", "jinja2", "tabulate")


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        UserError: an option, the suite or the data will not do, or a training has failed.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The benchmark needs {package}: in a clone, pip install '.[benchmark]'")
    if "quiet" not in options and sys.stderr.isatty():  # large suites and busy machines take a while
        about = options.report if options.action == "verify" else options.suite
        print(f"Looking at {about} ...", file=sys.stderr, flush=True)
    ACTIONS[options.action](options)


def run_benchmark(options: argparse.Namespace) -> None:
    from nnunet_plugins.benchmark.jobs.engine import run_suite
    from nnunet_plugins.benchmark.jobs.remaining import dry_run

    before, faults = examined(options.suite, thorough=not options.dry_run)
    gpus: tuple[str, ...] = ()
    if options.dry_run and not faults.found:
        dry_run(before)
    with faults.noted():
        gpus = () if options.executor == "slurm" else local_gpus(before.suite, options.gpus)
    faults.end_command()
    if options.dry_run:
        return
    succeeded = run_suite(before, options.suite.resolve(), options.executor, gpus)
    after = before.again()
    if after.done:
        report_to(after, work_folder(after.suite) / "report")
    left = [run for run in after.runs if run not in after.done]
    if left or not succeeded:  # another suite may have changed a fold
        for run in left:
            print(f"{run}: {in_words(after.suite.epochs_for(run.trainer), progress_of(after, run))}", file=sys.stderr)
        logs = work_folder(after.suite) / "logs"
        raise UserError(f"Not everything succeeded: see the messages above and the logs in {logs}; then run this again")


def status(options: argparse.Namespace) -> None:
    print_status(survey(read_suite(options.suite), thorough=False))


def report(options: argparse.Namespace) -> None:
    suite = read_suite(options.suite)
    report_to(survey(suite), options.output or work_folder(suite) / "report", with_cases=not options.no_cases)


def report_to(survey: Survey, folder: Path, with_cases: bool = True) -> None:
    from nnunet_plugins.benchmark.report.markup import in_short
    from nnunet_plugins.benchmark.report.page import PAGE, write_report

    folder = Path(os.path.abspath(folder))
    analysis = write_report(survey, folder, with_cases)
    print(f"{in_short(analysis)}\n\nTables: {folder / 'results.md'}\nReport: {folder / PAGE}")


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
    from nnunet_plugins.benchmark.report.collection import cost_file, read_costs
    from nnunet_plugins.benchmark.report.markup import markdown_table
    from nnunet_plugins.benchmark.report.tables import measured_cost

    found, faults = examined(options.suite)
    faults.end_command()
    if options.steps < 1:
        raise UserError(f"--steps {options.steps} must be at least 1")
    target = cost_file(found.suite)
    write_json(target, suite_costs(found, options.steps))
    print(markdown_table(measured_cost(read_costs(found))))
    print(f"\nAlso in {target}, and in the next report.")


def local_gpus(suite: Suite, given: str | None) -> tuple[str, ...]:
    """Devices that local trainings share: those given with ``--gpus``, or all that are visible."""
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
