"""Proves that no change of a report goes unnoticed, and that what is no report is refused in a sentence."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from support.benchmark_results import CELLS, OTHER, REFERENCE, SURVEY, results_of, rows_of, suite_of

from nnunet_plugins.benchmark.report import figures, page
from nnunet_plugins.benchmark.report.record import RECORD, SCHEMA
from nnunet_plugins.benchmark.report.results import DATA_FILES
from nnunet_plugins.errors import UserError

pytestmark = pytest.mark.usefixtures("analysed_once")
FIGURE = "<svg/>"
FIGURE_ON_PAGE, BETTER = (
    f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"'
    for svg in (FIGURE, "<svg>better</svg>")
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small report, with a picture instead of figures."""
    rows = rows_of({REFERENCE: [0.125, 0.25, 0.5, 0.75], OTHER: [0.375, 0.5, 0.625, 0.75]})
    results = results_of(rows, suite_of((REFERENCE, OTHER)), {CELLS: None})

    def draw(analysis, folder):
        (folder / "a.svg").write_text(FIGURE)
        return [("a", "A figure")]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(page, "collect", lambda _: results)
        monkeypatch.setattr(figures, "draw_all", draw)
        folder = tmp_path_factory.mktemp("verify") / "report"
        page.write_report(SURVEY, folder, with_cases=False)
    return folder


@pytest.fixture
def report(written, tmp_path):
    """A copy of the report, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "report"))


def test_untouched_report_is_verified(report):
    assert page.verify(report) == []


def test_changed_record_is_found(report):
    path = report / "record.json"
    path.write_text(path.read_text().replace("{", '{"note": "reviewed", ', 1))
    assert page.verify(report) == ["record.json"]


def change_digit(path, position):
    """Change the first decimal of the number at this position in the file."""
    text = path.read_text(encoding="utf-8")
    index = [match.start() + 1 for match in re.finditer(r"\.\d", text)][position]
    changed = str((int(text[index]) + 5) % 10)
    path.write_text(f"{text[:index]}{changed}{text[index + 1 :]}", encoding="utf-8")


def test_changed_case_changes_every_table(report):
    change_digit(report / "cases.csv", 0)
    assert page.verify(report) == ["results.csv", "results.md", "results.tex", "report.html"]


@pytest.mark.parametrize(("name", "position"), [("trainings.csv", 1), ("costs.csv", 0)])
def test_changed_costs_change_the_tables_that_show_them(name, position, report):
    change_digit(report / name, position)
    assert page.verify(report) == ["results.md", "results.tex", "report.html"]


@pytest.mark.parametrize("position", [0, 7, -1])
@pytest.mark.parametrize("name", ["results.csv", "results.md", "results.tex", "report.html"])
def test_changed_digit_of_a_table_is_found(name, position, report):
    change_digit(report / name, position)
    assert page.verify(report) == [name]


@pytest.mark.parametrize("name", ["results.csv", "results.md", "results.tex", "report.html"])
@pytest.mark.parametrize("harm", ["missing", "longer", "empty", "folder"])
def test_table_that_is_missing_or_longer_is_found(name, harm, report):
    path = report / name
    content = path.read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes(content + b"\n" if harm == "longer" else b"")
    assert page.verify(report) == [name]


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_changed_figure_is_found(harm, report):
    path = report / "figures" / "a.svg"
    path.unlink() if harm == "missing" else path.write_text("<svg>better</svg>")
    assert page.verify(report) == ["figures/a.svg"]


@pytest.mark.parametrize("other", ["", BETTER, FIGURE_ON_PAGE[:-2] + '"'], ids=["missing", "changed", "cut off"])
def test_changed_figure_on_the_page_is_found(other, report):
    path = report / "report.html"
    text = path.read_text()
    assert text.count(FIGURE_ON_PAGE) == 1
    path.write_text(text.replace(FIGURE_ON_PAGE, other))
    assert page.verify(report) == ["report.html"]


def test_figure_that_was_exchanged_everywhere_is_found(report):
    """A figure that was exchanged on the page and in the folder alike does not have the hash of the record."""
    path = report / "report.html"
    path.write_text(path.read_text().replace(FIGURE_ON_PAGE, BETTER))
    (report / "figures" / "a.svg").write_text("<svg>better</svg>")
    assert page.verify(report) == ["report.html", "figures/a.svg"]


def test_report_without_its_folder_of_figures_is_verified(report):
    """A committed report needs no files beside the page, which holds the figures."""
    shutil.rmtree(report / "figures")
    assert page.verify(report) == []


def test_report_of_another_schema_says_which_version_verifies_it(report):
    path = report / RECORD
    content = json.loads(path.read_text())
    for schema, version in ((None, "0.0.9"), (SCHEMA + 1, "7.0")):
        other = content | {"schema": schema, "versions": {"nnunet-plugins": version}}
        path.write_text(json.dumps({key: value for key, value in other.items() if value is not None}))
        with pytest.raises(UserError) as raised:
            page.verify(report)
        assert str(raised.value) == (
            f"{report} was written by nnunet-plugins {version}, with schema {schema or 1} of record.json, which is not "
            f"this version's {SCHEMA}: verify it with nnunet-plugins {version}"
        )


@pytest.mark.parametrize("name", [*DATA_FILES, RECORD])
@pytest.mark.parametrize("harm", ["missing", "binary"])
def test_report_without_its_data_is_no_report(name, harm, report):
    path = report / name
    path.unlink() if harm == "missing" else path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="holds no report"):
        page.verify(report)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cases.csv", ""), ("cases.csv", "dataset,case\n"), ("record.json", "{}"), ("record.json", "[]")],
)
def test_report_whose_data_are_cut_off_is_refused_in_a_sentence(name, content, report):
    (report / name).write_text(content)
    with pytest.raises(UserError):
        page.verify(report)


@pytest.mark.parametrize("name", ["cases.csv", "trainings.csv", "costs.csv"])
@pytest.mark.parametrize("position", [0, -1])
def test_number_that_is_none_is_refused_in_a_sentence(name, position, report):
    path = report / name
    text = path.read_text()
    start, end = [number.span() for number in re.finditer(r"(?<=,)\d+\.\d+(?=[,\n])", text)][position]
    path.write_text(f"{text[:start]}abc{text[end:]}")
    with pytest.raises(UserError, match=r"holds no report \(.*abc"):
        page.verify(report)
