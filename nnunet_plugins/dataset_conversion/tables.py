"""Tables of the user's own, which give each case a group, and the names by which they may call a case."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_plugins.dataset_conversion.cases import identifier
from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.source import Source, composed, relative_path, without_ending
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.wording import counted, enumeration

Rows = Sequence[tuple[str, str]]
"""First two cells of each row of a table."""


def read_table(path: Path, what: str) -> Rows:
    """Read the first two columns of a table, separated by commas, semicolons or tabs.

    Args:
        path: the file, with or without a header.
        what: word for the second column, for the sentence on a file that is no such table.

    Raises:
        UserError: the file cannot be read, or a row has no second cell.
    """
    form = f"give a CSV file with an image and its {what} in each row, e.g. 'image,{what}' and then 'img00.png,p1'"
    try:
        text = composed(path.read_text(encoding="utf-8-sig"))
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist in {Path.cwd()}, the current folder: {form}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is no table of images and their {what} ({reason(error)}): {form}") from error
    for row in rows:
        if len(row) < 2 or not row[0] or not row[1]:
            raise UserError(f"{path} has the row {separator.join(row)!r}, which lacks an image or its {what}: {form}")
    if not rows:
        raise UserError(f"{path} has no rows: {form}")
    return [(row[0], row[1]) for row in rows]


class Names:
    """All names by which a table may call a case: its own, and its image's path or file name, with or without ending.

    A case's own name, or nnU-Net's for it, stands for no other. Further names that several cases share, such as
    ``1.png`` in two folders, stand for none of them.
    """

    def __init__(self, cases: Iterable[Case], root: Path):
        self._own: dict[str, str] = {}
        self._cases: dict[str, set[str]] = {}
        for case in cases:
            self._own |= {composed(case.name): case.name, identifier(case.name): case.name}
            path = relative_path(case.images[0], root)
            for name in (case.name, path, case.images[0].name):
                for form in (name, without_ending(name)):
                    self._cases.setdefault(composed(form), set()).add(case.name)

    def find(self, name: str) -> str | None:
        """Name of the case that is called so, if there is exactly one."""
        name = composed(name.replace("\\", "/").removeprefix("./"))
        found = self._cases.get(name, set())
        return self._own.get(name) or (next(iter(found)) if len(found) == 1 else None)


def look_up(rows: Rows, cases: Sequence[Case], source: Source, path: Path, what: str) -> dict[str, str]:
    """Find the cases that a table names, and note a problem of the source for those that it lacks.

    Returns:
        The second cell by the names of the cases.

    Raises:
        UserError: the table names no case, or gives one of them two values.
    """
    names = Names(cases, source.path)
    found: dict[str, str] = {}
    foreign = []
    for name, value in rows:
        case = names.find(name)
        if case is None:
            foreign.append(name)
        elif found.setdefault(case, value) != value:
            raise UserError(f"{path} has two {what}s for {name!r}, {found[case]!r} and {value!r}: keep one")
    if not found:
        image = relative_path(cases[0].images[0], source.path)
        raise UserError(
            f"{path} names none of the {len(cases)} images: its first column has {rows[-1][0]!r}, but one is {image!r}"
        )
    if foreign and rows[0][0] == foreign[0]:  # the header
        foreign = foreign[1:]
    strange = f"{counted(len(foreign), 'row')} of no image, such as {enumeration(foreign[:3])}" if foreign else ""
    if lacking := [case.name for case in cases if case.name not in found]:
        but = f", but {strange}" if strange else ""
        images = f"{counted(len(lacking), 'image')}, such as {enumeration(lacking[:3])}"
        source.problem(f"{path} has no row for {images}{but}: add them")
    elif strange:
        source.note(f"{path} has {strange}")
    return found


def group_by_table(cases: Sequence[Case], path: Path, source: Source) -> list[Case]:
    """Give each case its group in a table."""
    groups = look_up(read_table(path, "group"), cases, source, path, "group")
    return [replace(case, group=groups.get(case.name, "")) for case in cases]


def group_by_name(cases: Sequence[Case], expression: str, source: Source) -> list[Case]:
    """Give each case the part of its image's path, in the source, that a regular expression finds.

    Raises:
        UserError: it is no regular expression.
    """
    try:
        pattern = re.compile(composed(expression))
    except re.error as error:
        raise UserError(
            f"--group {expression!r} is no regular expression ({error}): give e.g. 'patient[0-9]+'"
        ) from error
    groups: dict[str, str] = {}
    lacking = []
    for case in cases:
        path = composed(relative_path(case.images[0], source.path))
        if (match := pattern.search(path)) and (group := match[1 if pattern.groups else 0]):
            groups[case.name] = group
        else:
            lacking.append(path)
    if lacking:
        source.problem(
            f"--group {expression!r} finds nothing in {len(lacking)} paths, such as {lacking[0]!r}: change it"
        )
    elif len(set(groups.values())) == 1:
        source.problem(f"--group {expression!r} finds {min(groups.values())!r} in every path: folds need two groups")
    return [replace(case, group=groups.get(case.name, "")) for case in cases]


def group_by_folder(cases: Sequence[Case], source: Source) -> list[Case]:
    """Keep the folders that are the cases' groups and say so, if there are several folders and several cases in one."""
    names = {case.group for case in cases}
    if not 1 < len(names) < len(cases):
        return [replace(case, group="") for case in cases]
    source.note(
        f"Each of the {len(names)} folders that the first * stands for, such as {min(names)}, is one group, which "
        "folds never divide; --group '.+' makes each image a group, and --groups takes a table"
    )
    return list(cases)
