"""The command line ``nnunet-plugins``: parse the arguments, call the command, print its result.

Modules that import torch or nnU-Net are imported by the commands that need them: each of nnU-Net's spawned workers
imports this module again.
"""

import os
import signal
import sys
from collections.abc import Sequence

from nnunet_plugins.cli.commands import COMMANDS, run_nnunet_command
from nnunet_plugins.cli.parser import make_parser
from nnunet_plugins.errors import TRACEBACK_VARIABLE, log_traceback, sentence_of, traceback_is_wanted

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
NO_PROGRESS_VARIABLE = "TQDM_DISABLE"
"""Variable with which tqdm shows no progress bars, also in child processes."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        run(arguments)
        sys.stdout.flush()  # a reader that has gone away must be met here, not when Python ends
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader has closed the pipe, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is not None:
            log_traceback(error)
        if sentence is None or traceback_is_wanted():
            raise
        raise SystemExit(sentence) from error


def run(arguments: list[str]) -> None:
    """Run a command of ours, or nnU-Net's if the name is not ours; without a name, print the help."""
    position = next((i for i, argument in enumerate(arguments) if argument not in (*QUIET, *VERBOSE)), len(arguments))
    name = arguments[position] if position < len(arguments) else None
    if name is None or name in COMMANDS or name.startswith("-"):
        parser = make_parser()
        options = parser.parse_args(arguments)
        apply_loudness(quiet="quiet" in options, verbose="verbose" in options)
        if options.command is None:
            parser.print_help()
        else:
            COMMANDS[options.command](options)
    else:
        before = arguments[:position]
        apply_loudness(quiet=any(o in QUIET for o in before), verbose=any(o in VERBOSE for o in before))
        run_nnunet_command(name, *arguments[position + 1 :])


def apply_loudness(quiet: bool, verbose: bool) -> None:
    """Tell this process and its children how much to print."""
    if quiet:
        os.environ[NO_PROGRESS_VARIABLE] = "1"
    if verbose:
        os.environ[TRACEBACK_VARIABLE] = "1"
