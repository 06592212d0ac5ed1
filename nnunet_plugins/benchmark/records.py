"""Records from the tables of a suite file, each value of the type that its record declares."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

from nnunet_plugins.benchmark.faults import BadSuite, Faults

MAX_SHOWN = 200
"""Characters of a bad value that a message shows."""


class Bad:
    """Keys with faults, some of which are the reason for others."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        """Keys that are missing or of another type, for which others stand in."""
        self.values: set[str] = set()

    def explains(self, key: str) -> bool:
        """Whether a further fault at a key would be none but for these."""
        name = key.rpartition(".")[2]
        if key in self.types or (key == "datasets" and any(bad.endswith("].id") for bad in self.types)):
            return True
        of_others = name in ("reference", "plans") or (name == "trainers" and key != "trainers")
        return of_others and not {"trainers", "reference"}.isdisjoint((self.types | self.values) - {key})


EXAMPLES = {
    "name": "'nuclei'",
    "trainers": "['nnUNetTrainer', 'DCFFSNetTrainer']",
    "reference": "'nnUNetTrainer'",
    "epochs": "100",
    "id": "501",
}
"""Values of the required keys, as a file has them."""
STAND_INS: dict[Any, Any] = {str: "x", int: 1, tuple[str, ...]: ()}
"""Values in the place of required ones that are missing or of another type, so that the others can be checked."""


def build(record: type, table: Mapping[str, Any], prefix: str, faults: Faults, bad: Bad) -> Any:
    """Record from a table of the file, each value of the type that the record declares, or a default in its place."""
    known = {f.name: f for f in fields(record)}
    for key in table:
        if key not in known:
            similar = get_close_matches(key, known, cutoff=0.6)
            hint = f"did you mean {' or '.join(similar)}?" if similar else f"the keys here are {', '.join(known)}"
            faults.note(BadSuite(f"{prefix}{key[:MAX_SHOWN]}: there is no such key; {hint}"))
    values = {}
    for name, f in known.items():
        required = f.default is MISSING and f.default_factory is MISSING
        try:
            if name in table:
                values[name] = converted(table[name], f.type, f"{prefix}{name}")
            elif required:
                raise BadSuite(f"{prefix}{name} is missing: add it, e.g. {name} = {EXAMPLES[name]}")
        except BadSuite as error:
            bad.types.add(f"{prefix}{name}")
            if required:
                values[name] = STAND_INS[f.type]
            faults.note(error)
    return record(**values)


def converted(value: Any, kind: Any, key: str) -> Any:
    """The value, if it is of the type; lists become tuples."""
    if kind == float | None:
        kind = float
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise BadSuite(f"{key} = {shown(value)}: expected a smaller number") from error
    if kind in (int, int | None, float, bool, str):
        expected = int if kind == int | None else kind
        if type(value) is not expected:
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
            raise BadSuite(f"{key} = {shown(value)}: expected {words[expected]}")
        return value
    for items, expected_items in ((str, "texts in quotes"), (int, "whole numbers")):
        if kind == tuple[items, ...]:  # type: ignore[valid-type]
            if not isinstance(value, list) or any(type(item) is not items for item in value):
                raise BadSuite(f"{key} = {shown(value)}: expected a list of {expected_items}")
            return tuple(value)
    if kind == tuple[tuple[str, int], ...]:
        if not isinstance(value, dict) or any(type(number) is not int for number in value.values()):
            raise BadSuite(f"{key} = {shown(value)}: expected a table with a whole number for each name")
        return tuple(value.items())
    return value


def shown(value: Any) -> str:
    """A value as a message shows it, which may be longer, or nested deeper, than Python can print."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a number of thousands of digits" if isinstance(value, int) else "a value of thousands of parts"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
