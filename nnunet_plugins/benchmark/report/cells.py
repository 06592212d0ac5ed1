"""Cells and tables as a report prints them."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

Mark = Literal["", "best", "alike", "opposite"]
"""Place of a cell in its column: the best, not different from it, or better by the test and not by the mean."""


class Cell(NamedTuple):
    """A cell of a printed table."""

    text: str
    number: float | None = None
    """Number by which the page sorts it; None: the page sorts it by its text."""
    mark: Mark = ""


EMPTY = Cell("")


class Table(NamedTuple):
    """A printed table."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    remarks: tuple[str, ...] = ()
    """Sentences below the table, numbered from 1; its cells name them by their numbers."""
    lead: str = ""
    """Few words that say what stands out."""

    @property
    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.rows]

    @property
    def alignments(self) -> list[str]:
        """Side of each column to which it is aligned: numbers right, names left."""
        columns = zip(*self.rows, strict=True)
        return ["right" if all(c.number is not None or not c.text for c in column) else "left" for column in columns]

    def without(self, dropped: Sequence[int]) -> "Table":
        """The table without the columns at some places."""
        kept = [index for index in range(len(self.columns)) if index not in dropped]
        rows = [[row[index] for index in kept] for row in self.rows]
        return self._replace(columns=[self.columns[index] for index in kept], rows=rows)

    def without_empty_columns(self) -> "Table":
        return self.without([i for i in range(len(self.columns)) if not any(row[i].text for row in self.rows)])

    def with_constants_in_note(self, names: Sequence[str]) -> "Table":
        """The table without those named columns that say the same in all rows, which the note then says."""
        constant = [
            index
            for index, name in enumerate(self.columns)
            if name in names and len({row[index].text for row in self.rows}) == 1 and self.rows[0][index].text
        ]
        if not constant or len(self.rows) == 1:
            return self
        said = "; ".join(f"{self.columns[index]}: {self.rows[0][index].text}" for index in constant)
        return self.without(constant)._replace(note=f"{self.note} In all rows: {said}.".strip())


def is_missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def texts(row: pd.Series, names: Sequence[str]) -> list[Cell]:
    return [Cell(row[name]) for name in names]


def written(value: float, format_spec: str) -> str:
    """A number in figures, with a true minus sign, and with none where it is zero to the last digit.

    Example:
        >>> written(-0.25, "+.3f"), written(-0.0001, "+.3f")
        ('−0.250', '0.000')
    """
    text = f"{value:{format_spec}}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def number(value: Any, digits: int) -> Cell:
    """Cell of a number with ``digits`` decimals; empty if it is missing."""
    return EMPTY if is_missing(value) else Cell(written(value, f".{digits}f"), float(value))


def interval(value: float, low: float, high: float, format_spec: str, mark: Mark = "") -> Cell:
    """A number with its bounds, if it has any, all in the same format."""
    if is_missing(value):
        return EMPTY
    bounds = "" if is_missing(low) else f" [{written(low, format_spec)}, {written(high, format_spec)}]"
    return Cell(f"{written(value, format_spec)}{bounds}", float(value), mark)


def p_value(p: float) -> Cell:
    return EMPTY if is_missing(p) else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", float(p))


def counts(row: pd.Series, names: Sequence[str]) -> Cell:
    """Numbers with slashes between them, or nothing if they are missing."""
    values = [row[name] for name in names]
    return EMPTY if is_missing(values[0]) else Cell(" / ".join(f"{value:.0f}" for value in values), float(values[0]))
