"""Completion of commands, options, names of trainers and files by bash, zsh and fish.

The script that a shell reads has all names in it: at a TAB no Python starts.
"""

import argparse
import re
from pathlib import Path

import shtab

from nnunet_plugins.cli.parser import make_parser, nnunet_commands
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.trainers import TRAINERS

NAMES = {
    "names": tuple(TRAINERS),
    "trainer": tuple(TRAINERS),
    "trainers": tuple(TRAINERS),
    "name": ("folder", *CONVERTERS),
}
"""Names to be completed, by the attribute of an option."""


def completion_script(shell: str) -> str:
    """Script with which a shell completes ``nnunet-plugins``.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name in nnunet_commands():
        commands.add_parser(name, help="nnU-Net's own", add_help=False).add_argument("arguments", nargs="*", type=Path)
    add_completions(parser)
    script = shtab.complete(parser, shell)
    # shtab takes -tr for one of fish's short options, which have one letter, instead of an "old" one.
    return re.sub(r" -s (?=\w{2,} )", " -o ", script) if shell == "fish" else script


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
