"""The report: data, tables, figures, and one page with all of it."""

import base64
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from nnunet_plugins.benchmark import figures, overlays, tables
from nnunet_plugins.benchmark.results import collect
from nnunet_plugins.benchmark.statistics import result_table
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.errors import UserError

TEMPLATE = Path(__file__).with_name("page.html")
PAGE = "report.html"
OWN_FILES = {*tables.DATA, *tables.TABLES, tables.RECORD, PAGE, "figures"}


class Picture(NamedTuple):
    source: str
    """A data URI: the page needs no other file."""
    caption: str


def write_report(suite: Suite, folder: Path, with_cases: bool = True) -> Path:
    """Write the report whole, or leave what is there.

    Args:
        folder: is replaced if an earlier report is in it.
        with_cases: show pictures of cases, which may not be yours to publish.

    Returns:
        The page.

    Raises:
        UserError: nothing is done yet, or the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another place for the report")
    if foreign := sorted({path.name for path in folder.glob("*")} - OWN_FILES):
        raise UserError(
            f"{folder} holds {foreign[0]!r}, which is no part of a report: choose another folder, or move that"
        )
    results = collect(suite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "figures").mkdir(parents=True)
    try:
        tables.write_data(results, temporary)
        results = tables.read_data(temporary)  # tables are made from the files, as verify makes them
        for name, content in tables.result_files(results).items():
            (temporary / name).write_bytes(content)
        table = result_table(results.cases, results.record)
        drawn = figures.draw_all(results, table, temporary / "figures")
        cases = overlays.draw_overlays(suite, results, temporary / "figures") if with_cases else []
        template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
        page = template.render(
            name=suite.name,
            summary=tables.summary(results.record),
            definitions=tables.DEFINITIONS,
            notices=tables.notices(results, table),
            tables=tables.all_tables(results, table),
            figures=list(pictures(temporary / "figures", drawn, "svg")),
            overlays=list(pictures(temporary / "figures", cases, "png")),
            record=json.dumps(results.record, indent=1),
        )
        (temporary / PAGE).write_text(page, encoding="utf-8")
        replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / PAGE


def replace(folder: Path, new: Path) -> None:
    """Rename ``new`` to ``folder``; what was there stays if that fails."""
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    try:
        new.rename(folder)
    except OSError:
        if before.exists():
            before.rename(folder)
        raise
    shutil.rmtree(before, ignore_errors=True)


def pictures(folder: Path, names: Iterable[tuple[str, str]], kind: str) -> Iterable[Picture]:
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    for name, caption in names:
        encoded = base64.b64encode((folder / f"{name}.{kind}").read_bytes()).decode()
        yield Picture(f"data:{mime};base64,{encoded}", caption)
