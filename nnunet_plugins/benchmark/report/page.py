"""Writes a report, one page with all of its tables and figures included, and verifies one."""

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from jinja2 import Environment
from markupsafe import Markup, escape

from nnunet_plugins.benchmark.report import figures, overlays
from nnunet_plugins.benchmark.report.analysis import Analysis, analyse
from nnunet_plugins.benchmark.report.case_page import case_page
from nnunet_plugins.benchmark.report.collection import collect
from nnunet_plugins.benchmark.report.headline import headline
from nnunet_plugins.benchmark.report.looks import words_of
from nnunet_plugins.benchmark.report.markup import TABLE_FILES, result_files
from nnunet_plugins.benchmark.report.notes import DEFINITIONS, describe_suite, notices, number_of
from nnunet_plugins.benchmark.report.record import RECORD, Picture, Record
from nnunet_plugins.benchmark.report.results import DATA_FILES, Results, read_data, write_data
from nnunet_plugins.benchmark.report.tables import all_tables
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import PARTIAL, digest, partial_path, replace_folder

TEMPLATE = Path(__file__).with_name("page.html")
PAGE, CASES = "report.html", "cases.html"
FIGURES = "figures"
FEW_EVALUATIONS, MANY_ROWS = 4, 40
"""A page with more evaluations shows their tables folded, and any page those with more rows."""
OWN_FILES = {*DATA_FILES, *TABLE_FILES, RECORD, PAGE, CASES, FIGURES}
"""Everything that a report's folder may hold; with anything else in it, the folder is refused."""
MIME = {".svg": "image/svg+xml", ".png": "image/png"}
EMBEDDED = re.compile(r'<img src="data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)"')


def write_report(survey: Survey, folder: Path, with_cases: bool = True) -> Analysis:
    """Write the report of all finished runs whole, or leave what is there.

    Args:
        survey: the suite and its runs.
        folder: where to write; a report that is there already is replaced.
        with_cases: whether to show pictures of cases, which may not be yours to publish.

    Returns:
        What it shows.

    Raises:
        UserError: no run is finished yet, or the folder holds something else.
    """
    check_folder(folder)
    results = collect(survey)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(folder)
    temporary = partial_path(folder)
    temporary.mkdir()
    try:
        analysis = write_files(survey, results, temporary, with_cases)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return analysis


def remove_left_over(folder: Path) -> None:
    """Remove what killed processes have left of reports that they were writing; others may write theirs meanwhile."""
    for path in folder.parent.glob(f".{folder.name}.*{PARTIAL}"):
        process = path.name.removesuffix(PARTIAL).rpartition(".")[2]
        alive = process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))
        if not alive:
            shutil.rmtree(path, ignore_errors=True)


def write_files(survey: Survey, results: Results, folder: Path, with_cases: bool) -> Analysis:
    """Write all files of a report into an empty folder, and return what they show."""
    write_data(results, folder)
    analysis = analyse(read_data(folder))  # read back, so that `verify` starts from the same numbers
    drawings = folder / FIGURES
    drawings.mkdir()
    drawn = figures.draw_all(analysis, drawings)
    overlaid = overlays.draw_overlays(survey, analysis, drawings) if with_cases else []
    if with_cases:
        (folder / CASES).write_bytes(case_page(survey, analysis))
    record = replace(
        analysis.results.record,
        case_page=digest(folder / CASES) if with_cases else None,
        figures=tuple(pictures(drawn, drawings, ".svg")),
        case_pictures=tuple(pictures(overlaid, drawings, ".png")),
    )
    analysis = analysis._replace(results=analysis.results._replace(record=record))
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
    images = [(drawings / picture.file).read_bytes() for picture in all_pictures(record)]
    for name, content in (result_files(analysis) | {PAGE: render(analysis, images)}).items():
        (folder / name).write_bytes(content)
    return analysis


def check_folder(folder: Path) -> None:
    """Check that a report may be written to the folder.

    Raises:
        UserError: it is a file, or holds something that is no part of a report.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another place for the report")
    if foreign := sorted({path.name for path in folder.glob("*")} - OWN_FILES):
        raise UserError(
            f"{folder} holds {foreign[0]!r}, which is no part of a report: choose another folder, or move that"
        )


def verify(folder: Path) -> list[str]:
    """List the files of a report that differ from what its data give.

    The pictures are not drawn again: those on the page, and in the folder of figures unless that was left out, must
    have the hashes of the record.

    Raises:
        UserError: the folder holds no report, or one that another version of this package wrote.
    """
    analysis = analyse(read_data(folder))
    recorded = all_pictures(analysis.results.record)
    images = embedded_images(folder / PAGE)
    differing = [name for name, content in result_files(analysis).items() if content_of(folder / name) != content]
    are_recorded = [hashlib.sha256(image).hexdigest() for image in images] == [picture.sha256 for picture in recorded]
    if content_of(folder / RECORD) != analysis.results.record.to_json().encode():
        differing.append(RECORD)
    if not (are_recorded and content_of(folder / PAGE) == render(analysis, images)):
        differing.append(PAGE)
    case_page_hash = analysis.results.record.case_page
    if case_page_hash and not ((folder / CASES).is_file() and digest(folder / CASES) == case_page_hash):
        differing.append(CASES)
    if (folder / FIGURES).is_dir():
        files = [folder / FIGURES / picture.file for picture in recorded]
        differing += [
            f"{FIGURES}/{path.name}"
            for path, picture in zip(files, recorded, strict=True)
            if not path.is_file() or digest(path) != picture.sha256
        ]
    return differing


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


# ---- the page --------------------------------------------------------------------------------------------------------


def render(analysis: Analysis, images: Sequence[bytes]) -> bytes:
    """Render the page as HTML.

    Args:
        analysis: what the tables and sentences show.
        images: content of all pictures of the record, in its order.
    """
    record, found = analysis.results.record, notices(analysis)
    sources = {
        picture.file: data_uri(picture, image) for picture, image in zip(all_pictures(record), images, strict=True)
    }
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {"breakable": breakable, "with_bounds": with_bounds}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=record.suite.name,
        headline=headline(analysis),
        description=describe_suite(record),
        definitions=DEFINITIONS,
        notices=found,
        number_of_notices=number_of(found),
        tables=all_tables(analysis),
        many=len(analysis.rankings) > FEW_EVALUATIONS,
        many_rows=MANY_ROWS,
        pictures=picture_groups(record),
        sources=sources,
        record=record.to_json(),
        case_page=record.case_page and CASES,
    )
    return page.encode()


def breakable(name: str) -> Markup:
    """Name that a narrow column may break where its words end."""
    return Markup("<wbr>").join(words_of(name))


def with_bounds(text: str) -> Markup:
    """Number whose interval a narrow page shows below it."""
    number, bracket, rest = text.partition(" [")
    return Markup('{} <span class="bounds">[{}</span>').format(number, rest) if bracket else escape(text)


def picture_groups(record: Record) -> list[tuple[str, tuple[Picture, ...]]]:
    """Titles and pictures of the page's groups, without empty ones: all of them in the order of the record."""
    overall = tuple(picture for picture in record.figures if not picture.file.startswith(figures.OF_EVALUATIONS))
    others = tuple(picture for picture in record.figures if picture not in overall)
    groups = (("Figures", overall), ("Figures of each dataset", others), ("Cases", record.case_pictures))
    return [(title, chosen) for title, chosen in groups if chosen]


def all_pictures(record: Record) -> tuple[Picture, ...]:
    """All pictures of the page, in its order."""
    return tuple(picture for _, chosen in picture_groups(record) for picture in chosen)


def pictures(captions: Sequence[figures.Caption], folder: Path, ending: str) -> Iterator[Picture]:
    """Record each drawn picture: name, caption, hash."""
    for name, caption in captions:
        yield Picture(f"{name}{ending}", caption, digest(folder / f"{name}{ending}"))


def data_uri(picture: Picture, image: bytes) -> str:
    """Address that holds the whole picture, so that the page needs no other file."""
    return f"data:{MIME[Path(picture.file).suffix]};base64,{base64.b64encode(image).decode()}"


def embedded_images(page: Path) -> list[bytes]:
    """Content of all pictures of a page, in its order; none if one cannot be decoded."""
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    try:
        return [base64.b64decode(encoded) for encoded in EMBEDDED.findall(text)]
    except ValueError:
        return []
