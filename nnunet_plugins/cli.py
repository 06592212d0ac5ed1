"""The command line ``nnunet-plugins``: parse the arguments, call the command, print its result.

Modules that import torch or nnU-Net are imported by the commands that need them: each of nnU-Net's spawned workers
imports this module again.
"""

import argparse
import difflib
import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_plugins import __version__, _startup
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError, log_traceback, sentence_of, traceback_is_wanted
from nnunet_plugins.nnunet_folders import refuse_unusable_folders

PREFIX = "nnUNetv2_"
"""Start of the names of nnU-Net's own commands."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
            run_nnunet_command(*arguments)
        else:
            options = parse(arguments)
            COMMANDS[options.command](options)
        sys.stdout.flush()  # a reader that has gone away must be met here, not when Python ends
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader has closed the pipe, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or traceback_is_wanted():
            raise
        log_traceback(error)
        raise SystemExit(sentence) from error


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nnunet-plugins",
        description="Published segmentation methods as nnU-Net v2 trainers.",
        epilog=f"Every other command is nnU-Net's own: 'nnunet-plugins train ...' runs {PREFIX}train with the trainers "
        "of this package, also where they are not found by themselves.",
    )
    parser.add_argument("--version", action="version", version=f"nnunet-plugins {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the trainers, their methods, sizes and papers")
    commands.add_parser("env", help='print what makes nnU-Net find the trainers: eval "$(nnunet-plugins env)"')
    commands.add_parser("doctor", help="check this environment, with a remedy for each problem")
    demo = commands.add_parser("demo", help="run nnU-Net from images to metrics on a small synthetic dataset")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder and leave everything there")
    demo.add_argument("--trainer", default="DCFFSNetTrainer", metavar="NAME", help="default: %(default)s")
    demo.add_argument("--epochs", type=int, metavar="N", help="default: a few, enough for a useful result")
    add_selftest(commands)
    add_convert(commands)
    add_planning(commands)
    add_benchmark(commands)
    return parser.parse_args(arguments)


def add_selftest(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    selftest = commands.add_parser(
        "selftest",
        help="let every main trainer train and predict on this machine, on generated data",
        description="Train each trainer for a few steps on generated data, predict, and print what was measured.",
    )
    add = selftest.add_argument
    add("trainers", nargs="*", metavar="TRAINER", help="names without a length; default: all main trainers")
    add("--device", choices=("cuda", "cpu"), help="default: a GPU if torch sees one")
    add("--json", type=Path, metavar="FILE", help="write the report to this file too")


def add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="turn a download into nnUNet_raw/DatasetNNN_Name",
        description="Turn a download, as its owners publish it, into nnUNet_raw/DatasetNNN_Name. See docs/datasets.md.",
    )
    add = convert.add_argument
    add("name", nargs="?", metavar="NAME", help="of the published dataset (--list), or 'folder'")
    add("source", nargs="?", type=Path, metavar="SOURCE", help="the downloaded folder or archive")
    add("--list", action="store_true", help="print all datasets, with licences and pages")
    add("-d", "--dataset-id", type=int, metavar="N", help="number of the dataset; default: see --list")
    add("--dry-run", action="store_true", help="check everything and write nothing")
    add("--paper-split", action="store_true", help="the published split instead of five folds")
    add("--regions", action="store_true", help="overlapping regions instead of labels (lits17)")
    add("--max-foreground-fraction", type=float, metavar="F", help="leave out cases with this much foreground or more")
    add("--resize", type=int, nargs=2, metavar=("H", "W"), help="resize images, or a volume's slices, and their masks")
    add(
        "--trust-image-geometry",
        action="store_true",
        help="give masks the spacing, origin and direction of their images",
    )
    add("--groups", type=Path, metavar="CSV", help="table of cases and groups; folds never divide a group")
    add("--near-duplicates", action="store_true", help="keep images that look alike in one fold")
    add("--overwrite", action="store_true", help="replace the dataset and its folds if they exist")
    add("-np", type=int, metavar="N", help="number of processes; default: as many as cores")
    add_folder_options(convert)


def add_folder_options(convert: argparse.ArgumentParser) -> None:
    """Add the options of ``convert`` that describe a user's own images and masks."""
    group = convert.add_argument_group("only for 'folder'", "Patterns go in quotes; what * stands for pairs the files.")
    add = group.add_argument
    add("--images", nargs="+", metavar="PATTERN", help="of images, e.g. 'images/*.png'; one per channel")
    add("--masks", metavar="PATTERN", help="of masks, e.g. 'masks/*_mask.png'")
    add("--dataset-name", metavar="NAME", help="the Name in DatasetNNN_Name")
    add("--channels", nargs="+", metavar="NAME", help="e.g. CT; default: R G B, grey or image")
    label_map = "e.g. 0=background 128=polyp 255=tool; default: two classes"
    add("--label-map", nargs="+", metavar="VALUE=NAME", help=label_map)
    add("--threshold", type=float, metavar="T", help="foreground is what is brighter than T")


def add_planning(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    plan = commands.add_parser(
        "plan",
        help="write plans with which a trainer fits your GPU",
        description="Write plans with which a trainer fits your GPU: the batch gives way first, then the patch. They "
        "lie beside the dataset's plans, which stay, and use the same preprocessed data. See docs/planning.md.",
    )
    memory = commands.add_parser(
        "memory",
        help="what trainers need on a dataset's plans, and whether your GPU has it",
        description="What trainers need on a dataset's plans, and whether your GPU has it. See docs/planning.md.",
    )
    plan.add_argument("-tr", dest="trainer", required=True, metavar="NAME", help="any trainer that nnU-Net finds")
    plan.add_argument("--gpu-memory", required=True, metavar="GIB", help="the GPU's memory, e.g. 24")
    memory.add_argument(
        "-tr", dest="trainers", nargs="+", metavar="NAME", help="default: nnU-Net's and the main ones here"
    )
    memory.add_argument("--gpu-memory", metavar="GIB", help="default: this machine's GPU's, or 8")
    for command in (plan, memory):
        add = command.add_argument
        add("-d", "--dataset-id", type=int, required=True, metavar="N", help="number of the dataset")
        add("-c", dest="configurations", nargs="+", default=[], metavar="NAME", help="e.g. 2d; default: all")
        add("-p", dest="plans", default="nnUNetPlans", metavar="NAME", help="plans to start from; default: %(default)s")


def add_benchmark(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    benchmark = commands.add_parser(
        "benchmark",
        help="train and compare many trainers on many datasets",
        description="Train and compare the trainers of a suite file. See docs/benchmarking.md; suites/ has examples.",
    )
    actions = benchmark.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="plan, preprocess, train, validate and report all that is not done yet")
    run.add_argument("--executor", choices=("local", "slurm"), default="local", help="default: %(default)s")
    run.add_argument(
        "--gpus", metavar="0,1", help="devices for local trainings, one each; default: all that are visible"
    )
    run.add_argument("--dry-run", action="store_true", help="say what is left to do and write nothing")
    status = actions.add_parser("status", help="what is done, running and failed")
    report = actions.add_parser("report", help="write tables, figures and a page of what is done")
    report.add_argument("--output", type=Path, metavar="DIR", help="default: report, in the suite's folder")
    report.add_argument(
        "--no-cases", action="store_true", help="no pictures of cases, e.g. of data that you may not share"
    )
    verify = actions.add_parser("verify", help="make a report's tables again from its cases and compare the bytes")
    cost = actions.add_parser("cost", help="parameters, FLOPs, times and memory of all trainers, without training")
    cost.add_argument("--steps", type=int, default=10, metavar="N", help="turns of each trainer; default: %(default)s")
    for action in (run, status, report, cost):
        action.add_argument("suite", type=Path, metavar="SUITE", help="the suite file")
    verify.add_argument("report", type=Path, metavar="REPORT", help="the folder of a report")


def list_trainers(_: argparse.Namespace) -> None:
    require_nnunet()
    import torch

    from nnunet_plugins.trainers import TRAINERS, find_trainer

    rows = [("TRAINER", "METHOD", "DIMENSIONS", "PARAMETERS", "WHAT IT VARIES")]
    papers: dict[str, str] = {}
    for name, variant in TRAINERS.items():
        trainer = find_trainer(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in trainer.reference_network().parameters())
        dimensions = ", ".join(f"{d}D" for d in trainer.supported_dimensions)
        rows.append((name, trainer.method, dimensions, f"{parameters / 1e6:.2f} M", variant.varies))
        papers[trainer.method] = trainer.paper
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for method, paper in papers.items():
        print(f"{method}: {paper}")
    print(
        "\nAdd to any name, in this order: _pretrained (the encoder starts from ImageNet weights), _earlyStop<N> (ends"
        "\nafter N epochs without a better validation loss), _<N>epochs, _<M>iterations (of a training epoch), e.g."
        f"\n{PREFIX}train DATASET 2d 0 -tr {next(iter(TRAINERS))}_pretrained_100epochs"
    )


def print_environment(_: argparse.Namespace) -> None:
    assignments = {_startup.SEARCH_PATH_VARIABLE: _startup.search_path(os.environ.get(_startup.SEARCH_PATH_VARIABLE))}
    if not importable_by_itself():
        ours = str(Path(__file__).resolve().parents[1])
        inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != ours]
        assignments["PYTHONPATH"] = os.pathsep.join([ours, *inherited])
    print("export", *(f"{name}={shlex.quote(value)}" for name, value in assignments.items()))


def importable_by_itself() -> bool:
    """Whether Python finds this installation of the package without PYTHONPATH and the current directory."""
    command = "import nnunet_plugins; print(nnunet_plugins.__file__)"
    found = subprocess.run([sys.executable, "-EPc", command], capture_output=True, text=True).stdout.strip()
    return bool(found) and Path(found).resolve().parent == Path(__file__).resolve().parent


def doctor(_: argparse.Namespace) -> None:
    from nnunet_plugins.doctor import report

    if report():
        raise SystemExit(1)


def demo(options: argparse.Namespace) -> None:
    from nnunet_plugins.demo import DEFAULT_EPOCHS, run_demo

    epochs = DEFAULT_EPOCHS if options.epochs is None else options.epochs
    run_demo(keep=options.keep, trainer=options.trainer, epochs=epochs)


def selftest(options: argparse.Namespace) -> None:
    from nnunet_plugins.selftest.command import run_selftest

    if not run_selftest(options.trainers, options.device, options.json):
        raise SystemExit(1)


def convert(options: argparse.Namespace) -> None:
    from nnunet_plugins.dataset_conversion.command import list_converters, run

    if options.list:
        list_converters()
    else:
        run(options)


def plan(options: argparse.Namespace) -> None:
    require_nnunet()
    from nnunet_plugins.planning.command import plan

    plan(options)


def memory(options: argparse.Namespace) -> None:
    require_nnunet()
    from nnunet_plugins.planning.command import memory

    memory(options)


def benchmark(options: argparse.Namespace) -> None:
    from nnunet_plugins.benchmark.command import run

    run(options)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": list_trainers,
    "env": print_environment,
    "doctor": doctor,
    "demo": demo,
    "selftest": selftest,
    "convert": convert,
    "plan": plan,
    "memory": memory,
    "benchmark": benchmark,
}


def run_nnunet_command(command: str, *arguments: str) -> None:
    """Run one of nnU-Net's commands in this process, with our trainers on its search path.

    Raises:
        UserError: nnU-Net has no such command, or this nnU-Net cannot be used.
    """
    require_nnunet()
    entry_points = {
        entry_point.name.removeprefix(PREFIX): entry_point
        for entry_point in importlib.metadata.distribution("nnunetv2").entry_points
        if entry_point.name.startswith(PREFIX)
    }
    if command not in entry_points:
        known = [*COMMANDS, *entry_points]
        similar = difflib.get_close_matches(command.removeprefix(PREFIX), known, cutoff=0.5) or known
        raise UserError(f"There is no command {command!r}. Did you mean {' or '.join(similar)}?")
    refuse_unusable_folders()
    _startup.extend()
    sys.argv = [f"nnunet-plugins {command}", *arguments]
    entry_points[command].load()()
