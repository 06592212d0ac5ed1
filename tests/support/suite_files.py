"""Suite files, with one value as a test wants it."""

from pathlib import Path

from nnunet_plugins.benchmark.suite import Data, Suite

TOP = {"name": "'cells'", "trainers": "['A', 'B']", "reference": "'A'", "epochs": "100"}

NUCLEI = Data(2, ("2d", "3d_fullres"), trainers=("A",))
TWO_DATASETS = Suite("cells", ("A", "B"), "A", 100, (Data(1), NUCLEI), folds=(0, 3))
"""A suite of two datasets, of which the second has two configurations and one of the trainers."""


def lines(table: dict[str, str | None]) -> str:
    """Lines of TOML, without keys whose value is None."""
    return "".join(f"{key} = {value}\n" for key, value in table.items() if value is not None)


def write_short_suite(folder: Path, section: str = "", key: str = "", value: str | None = None) -> Path:
    """Write a short valid suite with one value, in TOML, that may not be valid; without the key if it is None."""
    sections: dict[str, dict[str, str | None]] = {"": dict(TOP), "datasets[0].": {"id": "501"}, "resources.": {}}
    if key:
        sections[section][key] = value
    top, data, resources = map(lines, sections.values())
    path = folder / "cells.toml"
    path.write_text(f"{top}\n[[datasets]]\n{data}\n[resources]\n{resources}", encoding="utf-8")
    return path
