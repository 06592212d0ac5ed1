"""The commands of ``nnunet-plugins``, ours and nnU-Net's."""

import argparse
import difflib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nnunet_plugins
from nnunet_plugins import _startup
from nnunet_plugins.cli.listing import list_trainers
from nnunet_plugins.cli.parser import PREFIX, nnunet_commands
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError, sentence_of
from nnunet_plugins.nnunet_folders import (
    PREPROCESSED,
    RESULTS,
    find_nnunet_folder,
    model_names,
    refuse_unusable_folders,
)
from nnunet_plugins.planning.names import FITTED, planner_option, planning_command

SEARCHING = ("train", "predict", "predict_from_modelfolder")
"""nnU-Net's commands that search for a trainer."""
PACKAGE = Path(nnunet_plugins.__file__).resolve().parent


def print_environment(_: argparse.Namespace) -> None:
    assignments = {_startup.SEARCH_PATH_VARIABLE: _startup.search_path(os.environ.get(_startup.SEARCH_PATH_VARIABLE))}
    if not importable_by_itself():
        ours = str(PACKAGE.parent)
        inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != ours]
        assignments["PYTHONPATH"] = os.pathsep.join([ours, *inherited])
    print("export", *(f"{name}={shlex.quote(value)}" for name, value in assignments.items()))


def importable_by_itself() -> bool:
    """Whether Python finds this installation of the package without PYTHONPATH and the current directory."""
    command = "import nnunet_plugins; print(nnunet_plugins.__file__)"
    found = subprocess.run([sys.executable, "-EPc", command], capture_output=True, text=True).stdout.strip()
    return bool(found) and Path(found).resolve().parent == PACKAGE


def doctor(options: argparse.Namespace) -> None:
    from nnunet_plugins.doctor import report

    if report(quiet="quiet" in options):
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


def evaluate(options: argparse.Namespace) -> None:
    require_nnunet()
    from nnunet_plugins.benchmark.evaluation import run

    run(options)


def export(options: argparse.Namespace) -> None:
    require_nnunet()
    from nnunet_plugins.export.command import export_model

    export_model(options.model, options.output, options.format, options.folds, options.checkpoint)


def predict_exported(options: argparse.Namespace) -> None:
    from nnunet_plugins.deployed.command import predict_exported

    if not predict_exported(options.model, options.images, options.output):
        raise SystemExit(1)


def print_completion(options: argparse.Namespace) -> None:
    from nnunet_plugins.cli.completion import completion_script

    print(completion_script(options.shell))


def benchmark(options: argparse.Namespace) -> None:
    if options.action is None:
        options.print_help()
        return
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
    "evaluate": evaluate,
    "benchmark": benchmark,
    "export": export,
    "predict-exported": predict_exported,
    "completion": print_completion,
}


def run_nnunet_command(command: str, *arguments: str) -> None:
    """Run one of nnU-Net's commands in this process, with our trainers on its search path.

    Raises:
        UserError: nnU-Net has no such command, or this nnU-Net cannot be used.
    """
    require_nnunet()
    entry_points = nnunet_commands()
    if command not in entry_points:
        near = near_commands(command.removeprefix(PREFIX), [*COMMANDS, *entry_points])
        hint = f"Did you mean {' or '.join(near)}?" if near else "'nnunet-plugins --help' lists all."
        raise UserError(f"There is no command {command!r}. {hint}")
    refuse_unusable_folders()
    _startup.extend()
    if command in SEARCHING and not {"-h", "--help"}.intersection(arguments):
        from nnunet_plugins import quiet_timm  # noqa: F401
    sys.argv = [f"nnunet-plugins {command}", *arguments]
    try:
        entry_points[command].load()()
    except Exception as error:
        if sentence_of(error) is None:
            found = _startup.explain_misspelt_trainer(error) or explain_missing_file(error)
            if found is not None:
                raise UserError(found) from error
        raise


def explain_missing_file(error: Exception) -> str | None:
    """Sentence on a file of nnU-Net's folders that a step before would have written; None for other errors."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
        return None
    path = Path(os.path.abspath(error.filename))
    preprocessed, results = map(find_nnunet_folder, (PREPROCESSED, RESULTS))
    if preprocessed and path.is_relative_to(preprocessed):
        number = path.relative_to(preprocessed).parts[0].removeprefix("Dataset")[:3]
        if FITTED.fullmatch(path.stem):
            return f"{path} is not there: make it first, with {planning_command(int(number), path.stem)}"
        option = planner_option(path.stem if path.suffix == ".json" and "Plans" in path.stem else "nnUNetPlans")
        command = f"nnunet-plugins plan_and_preprocess -d {number} --verify_dataset_integrity{option}"
        return f"{path} is not there: plan and preprocess the dataset first, with {command}"
    if results and path.is_relative_to(results):
        if path.name.startswith("checkpoint_"):
            return f"{path} is not there: train that fold to its end first, or correct -f (folds) or -chk (checkpoint)"
        models = model_names(path.parents[1])
        there = f"; there are {', '.join(models[:5])}" if models else ""
        return f"{path.parent} holds no trained model: train it first, or correct -d, -tr, -p or -c{there}"
    return None


def near_commands(command: str, known: list[str]) -> list[str]:
    """Commands that were probably meant: those that begin so, or else those that are spelt almost so.

    Example:
        >>> near_commands("eval", ["train", "evaluate"]), near_commands("trian", ["train"]), near_commands("x", ["env"])
        (['evaluate'], ['train'], [])
    """
    beginning = [name for name in known if len(command) > 2 and name.startswith(command)]
    return beginning or difflib.get_close_matches(command, known, cutoff=0.75)
