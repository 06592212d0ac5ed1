"""Findings of the doctor, and how exceptions and sentences become some."""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

GB = 1e9


class Finding(NamedTuple):
    """The result of one check: its level, what was found, and how to put it right."""

    level: Literal["ok", "note", "PROBLEM"]
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8}{self.text}" + (f" -> {self.remedy}" if self.remedy else "")


def problem_from(sentence: str) -> Finding:
    """Turn a sentence of ``compatibility``, which ends with the remedy after a colon, into a finding."""
    text, _, remedy = sentence.rpartition(": ")
    return Finding("PROBLEM", text, remedy)


def summary(error: BaseException) -> str:
    """Type and first line of an exception."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def disk_finding(what: str, folder: Path | str, minimum_free: float, remedy: str, found: str = "") -> Finding:
    """Whether a folder's disk has enough free space.

    Args:
        what: the folder, for the line.
        folder: where it is.
        minimum_free: fewer free bytes are a problem.
        remedy: against too few.
        found: further words of the line if all is well.
    """
    free = shutil.disk_usage(folder).free
    if free < minimum_free:
        text = f"{what} has {free / GB:.1f} GB of free disk, less than {minimum_free / GB:.0f}"
        return Finding("PROBLEM", text, remedy)
    return Finding("ok", f"{what} {found}{free / GB:.0f} GB free")
