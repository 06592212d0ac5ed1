"""The report: data, tables, figures, and one page with all of it."""

import base64
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from nnunet_plugins.benchmark.report import figures, overlays, tables
from nnunet_plugins.benchmark.report.results import collect
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json

TEMPLATE = Path(__file__).with_name("page.html")
PAGE = "report.html"
CAPTIONS = "figures/captions.json"
MIME = {"svg": "image/svg+xml", "png": "image/png"}  # of diagrams, and of pictures of cases
OWN_FILES = {*tables.DATA, *tables.TABLES, tables.RECORD, PAGE, "figures"}


class Picture(NamedTuple):
    source: str
    """A data URI: the page needs no other file."""
    caption: str


def write_report(survey: Survey, folder: Path, with_cases: bool = True) -> Path:
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
    results = collect(survey)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "figures").mkdir(parents=True)
    try:
        tables.write_data(results, temporary)
        analysis = tables.analyse(tables.read_data(temporary))  # of the files, as verify makes it
        captions = {"svg": figures.draw_all(analysis, temporary / "figures"), "png": []}
        if with_cases:
            captions["png"] = overlays.draw_overlays(survey, analysis.results, temporary / "figures")
        write_json(temporary / CAPTIONS, captions)
        for name, content in made_files(analysis, temporary).items():
            (temporary / name).write_bytes(content)
        replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / PAGE


def verify(folder: Path) -> list[str]:
    """The names of the tables and pages that are not those that the report's data and figures give.

    Raises:
        UserError: the folder holds no report.
    """
    made = made_files(tables.analyse(tables.read_data(folder)), folder)
    return [
        name
        for name, content in made.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def made_files(analysis: tables.Analysis, folder: Path) -> dict[str, bytes]:
    """Tables and page, by name.

    Args:
        folder: where the figures are.

    Raises:
        UserError: a figure is missing.
    """
    try:
        captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        drawn = {kind: list(pictures(folder / "figures", captions[kind], kind)) for kind in MIME}
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{folder} holds no whole report ({error}): write it again with 'benchmark report'") from error
    record = analysis.results.record
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        name=record["suite"]["name"],
        summary=tables.summary(record),
        definitions=tables.DEFINITIONS,
        notices=tables.notices(analysis),
        tables=tables.all_tables(analysis),
        figures=drawn["svg"],
        overlays=drawn["png"],
        record=json.dumps(record, indent=1),
    )
    return tables.result_files(analysis) | {PAGE: page.encode()}


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


def pictures(folder: Path, captions: Iterable[tuple[str, str]], kind: str) -> Iterator[Picture]:
    for name, caption in captions:
        encoded = base64.b64encode((folder / f"{name}.{kind}").read_bytes()).decode()
        yield Picture(f"data:{MIME[kind]};base64,{encoded}", caption)
