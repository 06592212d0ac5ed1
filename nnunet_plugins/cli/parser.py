"""The options of ``nnunet-plugins`` and its help, with nnU-Net's commands too and an example of each of ours."""

import argparse
import importlib.metadata
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from nnunet_plugins import __version__
from nnunet_plugins.cli.folder_options import add_folder_options
from nnunet_plugins.nnunet_folders import CHECKPOINTS

PREFIX = "nnUNetv2_"
"""Start of the names of nnU-Net's own commands."""
SHELLS = ("bash", "zsh", "fish")
Commands = argparse._SubParsersAction  # its name is underlined, its methods are documented


class Command(argparse.ArgumentParser):
    """A command that tells in one sentence which of its arguments is wrong, without all of its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; '{self.prog} --help' has all options and an example\n")

    def parse_known_args(self, *arguments: Any) -> Any:  # type: ignore[override]
        known, unknown = super().parse_known_args(*arguments)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def make_parser() -> argparse.ArgumentParser:
    parser = Command(
        prog="nnunet-plugins",
        description="Published segmentation methods as nnU-Net v2 trainers.",
        epilog=nnunet_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunet-plugins {__version__}")
    add_loudness(parser)
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=Command)
    add_trainers(commands)
    add_environment(commands)
    add_demo(commands)
    add_selftest(commands)
    add_convert(commands)
    add_planning(commands)
    add_evaluate(commands)
    add_benchmark(commands)
    add_export(commands)
    add_completion(commands)
    return parser


def nnunet_help() -> str:
    """Paragraphs of the help on nnU-Net's own commands, which are passed on."""
    names = ", ".join(nnunet_commands()) or "none, because nnU-Net is not installed"
    names = textwrap.fill(names, 76, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return (
        "nnU-Net's own commands, which find these trainers when they are run from here:\n"
        f"{names}\n\nexamples:\n  nnunet-plugins demo\n  nnunet-plugins train --help\n"
        "  nnunet-plugins train 123 2d 0 -tr DCFFSNetTrainer\n\n"
        "'nnunet-plugins COMMAND --help' has the options of a command and an example."
    )


def nnunet_commands() -> dict[str, importlib.metadata.EntryPoint]:
    """nnU-Net's commands by their names without ``nnUNetv2_``; none if it is not installed."""
    try:
        entry_points = importlib.metadata.distribution("nnunetv2").entry_points
    except importlib.metadata.PackageNotFoundError:
        return {}
    ours = (point for point in entry_points if point.name.startswith(PREFIX))
    return {point.name.removeprefix(PREFIX): point for point in sorted(ours, key=lambda point: point.name)}


def add_loudness(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has, which stand before or after its name."""
    group = parser.add_mutually_exclusive_group()
    add = group.add_argument
    add("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress; only what matters")
    add("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="details, and tracebacks of errors")


def add_command(
    commands: "Commands[Command]", name: str, help: str, example: str, description: str = ""
) -> argparse.ArgumentParser:
    """Add a command with the options that all have.

    Args:
        commands: to which it is added.
        name: of the command.
        help: its line in the list of all commands.
        example: one or more lines, of which the user's shell could run each.
        description: first paragraph of its own help; default: the line of the list.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(description or f"{help[0].upper()}{help[1:]}.", 78, break_on_hyphens=False),
        epilog="example:\n" + textwrap.indent(example, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_loudness(command)
    return command


def add_trainers(commands: "Commands[Command]") -> None:
    trainers = add_command(
        commands,
        "list",
        "the trainers, their methods, sizes and papers",
        "nnunet-plugins list DLKUNet",
        "The trainers, their methods, dimensions, parameters and papers, and what can be added to their names.",
    )
    add = trainers.add_argument
    add("names", nargs="*", metavar="NAME", help="of trainers or methods; default: all")
    add("--json", action="store_true", help="print a list of objects in JSON")


def add_environment(commands: "Commands[Command]") -> None:
    evaluated = 'eval "$(nnunet-plugins env)"'
    add_command(commands, "env", f"print what makes nnU-Net find the trainers: {evaluated}", evaluated)
    help = "check this environment, with a remedy for each problem"
    add_command(commands, "doctor", help, "nnunet-plugins doctor -q   # only what is not well")


def add_demo(commands: "Commands[Command]") -> None:
    demo = add_command(
        commands,
        "demo",
        "run nnU-Net from images to metrics on a small synthetic dataset",
        "nnunet-plugins demo --keep my_demo",
    )
    add = demo.add_argument
    add("--keep", type=Path, metavar="DIR", help="work in this folder and leave everything there")
    add("--trainer", default="DCFFSNetTrainer", metavar="NAME", help="default: %(default)s")
    add("--epochs", type=int, metavar="N", help="default: a few, enough for a useful result")


def add_selftest(commands: "Commands[Command]") -> None:
    selftest = add_command(
        commands,
        "selftest",
        "let every main trainer train and predict on this machine, on generated data",
        "nnunet-plugins selftest DCFFSNetTrainer DLKUNetTrainer",
        "Train each trainer for a few steps on generated data, predict, and print what was measured.",
    )
    add = selftest.add_argument
    add("trainers", nargs="*", metavar="TRAINER", help="names without a length; default: all main trainers")
    add("--device", choices=("cuda", "cpu"), help="default: a GPU if torch sees one")
    add("--json", type=Path, metavar="FILE", help="write the report to this file too")


def add_convert(commands: "Commands[Command]") -> None:
    convert = add_command(
        commands,
        "convert",
        "turn a download, or your own images and masks, into nnUNet_raw/DatasetNNN_Name",
        "nnunet-plugins convert folder my_data -d 123 --dataset-name Mine --images 'images/*' --masks 'masks/*'",
        "Turn a download, as its owners publish it, or a folder of yours into nnUNet_raw/DatasetNNN_Name. See "
        "docs/datasets.md.",
    )
    add = convert.add_argument
    add("name", nargs="?", metavar="NAME", help="of the published dataset (--list), or 'folder'")
    add("source", nargs="?", type=Path, metavar="SOURCE", help="the downloaded folder or archive")
    add("--list", action="store_true", help="print all datasets, with licences and pages")
    add("-d", "--dataset-id", type=int, metavar="N", help="number of the dataset; default: see --list")
    add("--dry-run", action="store_true", help="check everything and write nothing")
    add("--paper-split", action="store_true", help="the published split instead of five folds")
    add("--regions", action="store_true", help="overlapping regions instead of labels: a class contains the next")
    add("--max-foreground-fraction", type=float, metavar="F", help="leave out cases with this much foreground or more")
    add("--resize", type=int, nargs=2, metavar=("H", "W"), help="resize images, or a volume's slices, and their masks")
    add(
        "--trust-image-geometry",
        action="store_true",
        help="give masks the spacing, origin and direction of their images",
    )
    add("--threshold", type=float, metavar="T", help="foreground is what is brighter than T, for masks with grey edges")
    add("--groups", type=Path, metavar="CSV", help="table of images and groups; folds never divide a group")
    add("--group", metavar="REGEX", help="the group is what this finds in an image's path, e.g. 'patient[0-9]+'")
    add(
        "--splits",
        type=Path,
        metavar="FILE",
        help="your folds: splits_final.json, or a table of images and train/val/test",
    )
    add("--near-duplicates", action="store_true", help="keep images that look alike in one fold")
    add("--overwrite", action="store_true", help="replace an earlier conversion and its folds")
    add("-np", type=int, metavar="N", help="number of processes; default: as many as cores")
    add_folder_options(convert)


def add_planning(commands: "Commands[Command]") -> None:
    plan = add_command(
        commands,
        "plan",
        "write plans with which a trainer fits your GPU",
        "nnunet-plugins plan -d 123 -tr DCFFSNetTrainer --gpu-memory 8",
        "Write plans with which a trainer fits your GPU: the batch gives way first, then the patch. They "
        "lie beside the dataset's plans, which stay, and use the same preprocessed data. See docs/planning.md.",
    )
    memory = add_command(
        commands,
        "memory",
        "what trainers need on a dataset's plans, and whether your GPU has it",
        "nnunet-plugins memory -d 123 -c 2d --gpu-memory 8",
        "What trainers need on a dataset's plans, and whether your GPU has it. See docs/planning.md.",
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


def add_evaluate(commands: "Commands[Command]") -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        "measure predictions with all metrics of the benchmark",
        "nnunet-plugins evaluate predictions my_labels -o metrics.csv",
        "Measure any folder of predicted segmentations against their references with all metrics of the benchmark, and "
        "its rules for empty masks. See docs/evaluating.md.",
    )
    add = evaluate.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted segmentations")
    add("references", type=Path, metavar="REFERENCES", help="folder of true ones, whose files have the same names")
    labels = "dataset.json with the labels or regions; default: that in PREDICTIONS, or all labels that are found"
    add("-djfile", type=Path, metavar="FILE", help=labels)
    add("-o", dest="output", type=Path, metavar="CSV", help="write a row for each case and label to this file")
    add("--tolerance", type=float, default=1.0, metavar="T", help="of NSD, in mm or pixels; default: %(default)s")
    add(
        "-np",
        dest="processes",
        type=int,
        metavar="N",
        help="number of processes; default: as many as cores, if it takes long",
    )
    add("--chill", action="store_true", help="leave out cases that only one of the folders has")


def add_benchmark(commands: "Commands[Command]") -> None:
    benchmark = add_command(
        commands,
        "benchmark",
        "train and compare many trainers on many datasets",
        "nnunet-plugins benchmark run suites/condseg.toml --dry-run",
        "Train and compare the trainers of a suite file. See docs/benchmarking.md, which begins with one.",
    )
    benchmark.set_defaults(print_help=benchmark.print_help)
    actions = benchmark.add_subparsers(dest="action", title="actions", metavar="ACTION", parser_class=Command)
    example = "nnunet-plugins benchmark {} suites/condseg.toml"
    help = "plan, preprocess, train, validate and report all that is not done yet"
    run = add_command(actions, "run", help, example.format("run --dry-run"))
    run.add_argument("--executor", choices=("local", "slurm"), default="local", help="default: %(default)s")
    run.add_argument(
        "--gpus", metavar="0,1", help="devices for local trainings, one each; default: all that are visible"
    )
    run.add_argument("--dry-run", action="store_true", help="say what is left to do and write nothing")
    status = add_command(actions, "status", "what is done, running and failed", example.format("status"))
    help = "write tables, figures and a page of what is done"
    report = add_command(actions, "report", help, example.format("report --output my_report"))
    report.add_argument("--output", type=Path, metavar="DIR", help="default: report, in the suite's folder")
    report.add_argument(
        "--no-cases", action="store_true", help="no pictures of cases, e.g. of data that you may not share"
    )
    help = "make a report's tables again from its cases and compare the bytes"
    verify = add_command(actions, "verify", help, "nnunet-plugins benchmark verify my_report")
    help = "parameters, FLOPs, times and memory of all trainers, without training"
    cost = add_command(actions, "cost", help, example.format("cost"))
    cost.add_argument("--steps", type=int, default=10, metavar="N", help="turns of each trainer; default: %(default)s")
    for action in (run, status, report, cost):
        action.add_argument("suite", type=Path, metavar="SUITE", help="the suite file")
    verify.add_argument("report", type=Path, metavar="REPORT", help="the folder of a report")


def add_export(commands: "Commands[Command]") -> None:
    help = "write a trained model as files that predict without nnU-Net and torch"
    results = "nnUNet_results/Dataset123_Mine/DCFFSNetTrainer__nnUNetPlans__2d"
    export = add_command(commands, "export", help, f"nnunet-plugins export {results} -o my_model")
    add = export.add_argument
    add("model", type=Path, metavar="DIR", help="folder Trainer__Plans__configuration in nnU-Net's results")
    add("-o", dest="output", type=Path, required=True, metavar="DIR", help="new folder for the files")
    add("--format", choices=("onnx", "pt2"), default="onnx", help="of the networks; default: %(default)s")
    add("-f", dest="folds", nargs="+", default=[], metavar="FOLD", help="folds; default: all that are finished")
    add("--checkpoint", default=CHECKPOINTS[0], metavar="NAME", help="file of each fold; default: %(default)s")
    predict = add_command(
        commands,
        "predict-exported",
        "segment images with an exported model, without nnU-Net and torch",
        "nnunet-plugins predict-exported my_model -i images -o segmentations",
        "Segment images with an exported model as nnUNetv2_predict does, without nnU-Net and torch. See "
        "docs/deployment.md.",
    )
    add = predict.add_argument
    add("model", type=Path, metavar="DIR", help="folder that 'export' has written")
    add("-i", dest="images", type=Path, required=True, metavar="DIR", help="images, CASE_0000 and so on")
    add("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder for the segmentations")


def add_completion(commands: "Commands[Command]") -> None:
    completion = add_command(
        commands,
        "completion",
        "print what lets your shell complete these commands",
        'eval "$(nnunet-plugins completion bash)"   # in ~/.bashrc\n'
        'eval "$(nnunet-plugins completion zsh)"    # in ~/.zshrc, after compinit\n'
        "nnunet-plugins completion fish | source    # in ~/.config/fish/config.fish",
        "Print a script with which a shell completes commands, options and names of trainers and datasets at a TAB. "
        "Print it again after an upgrade.",
    )
    completion.add_argument("shell", choices=SHELLS, help="your shell")
