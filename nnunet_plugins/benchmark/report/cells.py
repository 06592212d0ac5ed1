"""Cells and tables as a report prints them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd


class Cell(NamedTuple):
    """A cell of a printed table."""

    text: str
    number: float | None = None
    """Number by which the page sorts it; None: the page sorts it by its text."""


EMPTY = Cell("")


class Table(NamedTuple):
    """A printed table."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    remarks: tuple[str, ...] = ()
    """Sentences below the table, numbered from 1; its cells name them by their numbers."""

    @property
    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.rows]


def is_missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def texts(row: pd.Series, names: Sequence[str]) -> list[Cell]:
    return [Cell(row[name]) for name in names]


def number(value: Any, digits: int) -> Cell:
    """Cell of a number with ``digits`` decimals; empty if it is missing."""
    return EMPTY if is_missing(value) else Cell(f"{value:.{digits}f}", float(value))


def interval(value: float, low: float, high: float, format_spec: str) -> Cell:
    """A number with its bounds, if it has any, all in the same format."""
    if is_missing(value):
        return EMPTY
    bounds = "" if is_missing(low) else f" [{low:{format_spec}}, {high:{format_spec}}]"
    return Cell(f"{value:{format_spec}}{bounds}", float(value))


def p_value(p: float) -> Cell:
    return EMPTY if is_missing(p) else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", float(p))


def counts(row: pd.Series, names: Sequence[str]) -> Cell:
    """Numbers with slashes between them, or nothing if they are missing."""
    values = [row[name] for name in names]
    return EMPTY if is_missing(values[0]) else Cell(" / ".join(f"{value:.0f}" for value in values), float(values[0]))


def distinct(values: pd.Series) -> Cell:
    """The different values, without missing ones."""
    return Cell(", ".join(str(value) for value in values.dropna().unique()))
