"""Proves that a report is written whole or not at all, and that nothing else is touched."""

import os
from pathlib import Path

import pytest
from support.benchmark_results import SURVEY

from nnunet_plugins.benchmark.report import figures, overlays, page
from nnunet_plugins.benchmark.report.markup import TABLE_FILES
from nnunet_plugins.benchmark.report.results import DATA_FILES
from nnunet_plugins.errors import UserError


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_holds_data_tables_and_page_and_is_verified(quick, tmp_path):
    folder = tmp_path / "deep" / "report"
    page.write_report(SURVEY, folder)
    names = {*DATA_FILES, *TABLE_FILES, "record.json", "report.html", "cases.html", "figures"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in folder.parent.iterdir()] == ["report"]
    assert page.verify(folder) == []


def test_earlier_report_is_replaced_whole(quick, tmp_path):
    folder = tmp_path / "report"
    page.write_report(SURVEY, folder)
    first = everything(folder)
    (folder / "figures" / "old.png").write_text("of a dataset that is no longer in the suite")
    (folder / "results.md").write_text("changed")
    page.write_report(SURVEY, folder)
    assert everything(folder) == first


def test_pictures_of_cases_are_shown_unless_they_are_unwanted(quick, tmp_path, monkeypatch):
    def draw(survey, results, folder):
        (folder / "case.png").write_bytes(b"\x89PNG")
        return [("case", "of a patient")]

    monkeypatch.setattr(overlays, "draw_overlays", draw)
    page.write_report(SURVEY, tmp_path / "report")
    assert b"of a patient" in everything(tmp_path)[Path("report/report.html")]
    page.write_report(SURVEY, tmp_path / "report", with_cases=False)
    assert b"of a patient" not in b"".join(everything(tmp_path).values())
    assert not {Path("report/figures/case.png"), Path("report/cases.html")} & set(everything(tmp_path))


def test_folder_with_something_else_is_left_alone(quick, tmp_path):
    (tmp_path / "thesis.tex").write_text("three years of work")
    with pytest.raises(UserError, match=r"holds 'thesis.tex', which is no part of a report"):
        page.write_report(SURVEY, tmp_path)
    assert everything(tmp_path) == {Path("thesis.tex"): b"three years of work"}


def test_file_in_the_place_of_the_folder_is_left_alone(quick, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UserError):
        page.write_report(SURVEY, tmp_path / "report")
    assert everything(tmp_path) == {Path("report"): b"a file"}


def test_empty_folder_becomes_a_report(quick, tmp_path):
    (tmp_path / "report").mkdir()
    page.write_report(SURVEY, tmp_path / "report")
    assert page.verify(tmp_path / "report") == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (page, "collect"),
        (page, "write_data"),
        (page, "result_files"),
        (figures, "draw_all"),
        (overlays, "draw_overlays"),
        (page, "all_tables"),
        (page, "pictures"),
        (Path, "rename"),
    ],
)
def test_failure_on_the_way_leaves_the_earlier_report(module, name, quick, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    page.write_report(SURVEY, folder)
    before = everything(tmp_path)

    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        with pytest.raises((OSError, UserError), match="no space"):
            page.write_report(SURVEY, folder)
    assert everything(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]  # nothing half done lies about


def test_leftover_of_a_killed_report_is_no_obstacle(quick, tmp_path):
    left = f".report.{2**30}.partial", f".report.{os.getpid()}.partial"  # in a container numbers repeat
    written_now = f".report.{os.getppid()}.partial"
    for name in (*left, written_now):
        (tmp_path / name / "figures").mkdir(parents=True)
        (tmp_path / name / "figures" / "old.svg").write_text("half")
    page.write_report(SURVEY, tmp_path / "report")
    assert sorted(path.name for path in tmp_path.iterdir()) == [written_now, "report"]
    assert not list((tmp_path / "report" / "figures").iterdir())
