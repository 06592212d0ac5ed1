"""Completion of commands, options, names of trainers and files by bash, zsh and fish.

The script that a shell reads has all names in it: at a TAB no Python starts.
"""

import argparse
import ast
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import shtab

from nnunet_plugins.cli.parser import make_parser, nnunet_commands
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.trainers import TRAINERS

NAMES = {
    "names": tuple(TRAINERS),
    "trainer": tuple(TRAINERS),
    "trainers": tuple(TRAINERS),
    "tr": ("nnUNetTrainer", *TRAINERS),
    "name": tuple(CONVERTERS),
}
"""Names to be completed, by the attribute of an option."""


def completion_script(shell: str) -> str:
    """Script with which a shell completes ``nnunet-plugins``.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, entry_point in nnunet_commands().items():
        add_arguments(commands.add_parser(name, help="nnU-Net's own"), entry_point)
    add_completions(parser)
    script = shtab.complete(parser, shell)
    # shtab takes -tr for one of fish's short options, which have one letter, instead of an "old" one.
    return re.sub(r" -s (?=\w{2,} )", " -o ", script) if shell == "fish" else script


def add_arguments(command: argparse.ArgumentParser, entry_point: EntryPoint) -> None:
    """Give a command the arguments of one of nnU-Net's, as the code of its entry point names them.

    That is read and not run: importing nnU-Net takes seconds.
    """
    assert entry_point.dist is not None
    file = Path(str(entry_point.dist.locate_file(f"{entry_point.module.replace('.', '/')}.py")))
    code = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    functions = [node for node in code.body if isinstance(node, ast.FunctionDef) and node.name == entry_point.attr]
    for call in (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            add_argument(command, call)


def add_argument(command: argparse.ArgumentParser, call: ast.Call) -> None:
    names = [str(value.value) for value in call.args if isinstance(value, ast.Constant)]
    given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
    kept: dict[str, Any] = {key: given[key] for key in ("nargs", "action", "dest") if key in given}
    if "action" not in kept and "-tr" not in names:
        kept["type"] = Path  # files and folders are offered for any value but trainers
    command.add_argument(*names, **kept)


def add_completions(parser: argparse.ArgumentParser) -> None:
    """Tell shtab which options are files and folders, and which have names to choose from."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for line in action._choices_actions:
                action.choices[line.dest].description = line.help  # which shells show beside the name
                add_completions(action.choices[line.dest])
        elif action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        elif action.choices is None and action.dest in NAMES:
            action.choices = NAMES[action.dest]
