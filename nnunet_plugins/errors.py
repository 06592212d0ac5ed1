"""The error for problems that the user can solve, and how it is told when it ends a program."""

import os
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

TRACEBACK_VARIABLE = "NNUNET_PLUGINS_TRACEBACK"
OF_A_RANK = re.compile(r"\nnnunet_plugins\.[\w.]+: (?P<sentence>.+)\s*\Z")
"""End of a rank's traceback, which torch hands to the process that has started the ranks."""


class UserError(ValueError):
    """Bad input or a bad environment, told in one sentence: the value, what was expected, and the remedy.

    The command line, and nnU-Net's commands once :func:`print_sentences` was called, print this sentence without a
    traceback and exit with 1.
    """


def print_sentences(explain: Callable[[BaseException], str | None] = lambda error: None) -> None:
    """Let an exception of this package that ends this program print its sentence; all others are told as before.

    Args:
        explain: gives a sentence for an exception of others, or None to leave it as it is.
    """
    told_otherwise = sys.excepthook
    if getattr(told_otherwise, "prints_sentences", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = sentence_of(error) or explain(error)
        if sentence is not None:
            log_traceback(error)
        if sentence is None or traceback_is_wanted():
            told_otherwise(kind, error, trace)
        else:
            print(sentence, file=sys.stderr)

    hook.prints_sentences = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def sentence_of(error: BaseException) -> str | None:
    """The sentence of an exception of this package, raised here or in a rank of a training on several GPUs."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "ProcessRaisedException" and (match := OF_A_RANK.search(str(error))):
        return match["sentence"]
    return None


def reason(error: Exception) -> str:
    """The words of an exception, without the number and the path of an :class:`OSError`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def traceback_is_wanted() -> bool:
    """Whether the user wants to see where an error comes from."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def log_traceback(error: BaseException) -> None:
    """Append the traceback to the log of the training that the error has ended, if one had begun its log."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name in ("self", "nnunet_trainer"):
            log = getattr(frame.f_locals.get(name), "__dict__", {}).get("log_file")
            if isinstance(log, str) and os.path.isfile(log):
                with open(log, "a", encoding="utf-8") as file:
                    traceback.print_exception(error, file=file)
                return
