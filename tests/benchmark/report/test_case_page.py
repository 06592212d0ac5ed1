"""Proves that the page of cases shows every case, its pictures as they are, and the order that is chosen."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from skimage.io import imsave
from support.benchmark_results import CELLS, OTHER, REFERENCE, SKIN, THIRD, results_of, rows_of, suite_of
from support.browser import in_browser, opened

from nnunet_plugins.benchmark.report import page
from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.report.case_page import LONGEST, areas, case_page, most_different, photo, shrunk
from nnunet_plugins.benchmark.report.looks import shown_trainers
from nnunet_plugins.benchmark.report.overlays import draw_overlays
from nnunet_plugins.benchmark.report.slices import LABEL_COLOURS, Label, is_here
from nnunet_plugins.benchmark.runs import dataset_json, predictions, references, runs
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.files import write_json

DICE = {
    REFERENCE: [0.5, 0.5, None, 0.25, None],
    OTHER: [0.75, 0.25, 0.5, 1.0, None],
    THIRD: [0.5, 0.625, 0.5, 0.5, None],
}
"""Dice of five cases; the third one is empty, which the reference alone sees."""


@pytest.fixture
def suite():
    return suite_of(tuple(DICE), (CELLS,))


@pytest.fixture
def survey(suite, tmp_path, monkeypatch):
    """Images, references and predictions of the cases on the disk: each trainer predicts one more row."""
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / folder))
    cases = [f"case{number:02}" for number in range(5)]
    description = {"channel_names": {"0": "microscope"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    write_json(tmp_path / "raw" / CELLS / "dataset.json", description)
    write_json(tmp_path / "preprocessed" / CELLS / "splits_final.json", [{"train": [], "val": cases}])
    found = runs(suite)
    (tmp_path / "raw" / CELLS / "imagesTr").mkdir()
    for place, run in enumerate(found):
        for case, reference in references(run, "validation").items():
            truth = np.zeros((40, 60), np.uint8)
            truth[10:20, 10:30] = 1
            prediction = np.roll(truth, place, axis=0)
            gray = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
            image = tmp_path / "raw" / CELLS / "imagesTr" / f"{case}_0000.png"
            for path, array in ((reference, truth), (predictions(run, "validation")[case], prediction), (image, gray)):
                path.parent.mkdir(parents=True, exist_ok=True)
                imsave(path, array, check_contrast=False)
    return Survey(suite, tuple(found))


@pytest.fixture
def written(survey, suite, tmp_path):
    """Page of these cases."""
    analysis = analyse(results_of(rows_of(DICE), suite, {CELLS: None}))
    path = tmp_path / "cases.html"
    path.write_bytes(case_page(survey, analysis))
    return path


def content_of(path):
    text = re.search(r'<script id="content"[^>]*>(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1]
    (evaluation,) = json.loads(text)
    return evaluation


def decoded(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def test_page_has_every_case_with_its_dice_and_its_pictures(written):
    shown = content_of(written)
    assert shown["name"] == f"{CELLS} 2d validation" and shown["labels"] == [["cell", LABEL_COLOURS[0]]]
    assert set(shown["trainers"]) == set(DICE)
    dice = {case["case"]: case["dice"] for case in shown["cases"]}
    assert dice == {
        f"case{number:02}": {trainer: values[number] for trainer, values in DICE.items()} for number in range(4)
    }  # in the last case there is nothing, and nobody finds anything
    for case in shown["cases"]:
        assert decoded(case["image"]).size == decoded(case["truth"]).size == decoded(case["outline"]).size == (180, 120)
        for place, trainer in enumerate(DICE):
            mask = np.array(decoded(case["predicted"][trainer]).convert("RGBA"))[::3, ::3, 3] > 0
            assert mask.sum() == 200 and mask[10 + place : 20 + place, 10:30].all()


def test_pictures_of_the_other_machine_leave_the_numbers(survey, suite, written, tmp_path):
    (tmp_path / "raw" / CELLS / "imagesTr").rename(tmp_path / "elsewhere")
    analysis = analyse(results_of(rows_of(DICE), suite, {CELLS: None}))
    written.write_bytes(case_page(survey, analysis))
    shown = content_of(written)
    assert shown["labels"] == [] and [set(case) for case in shown["cases"]] == [{"case", "dice"}] * 4


def test_large_pictures_are_made_smaller_and_stay_in_register():
    values = np.zeros((500, 1000), int)
    values[:, 500:] = 3
    small = shrunk(values)
    assert small.shape == (LONGEST // 2, LONGEST) and (small[:, LONGEST // 2 :] == 3).all() and not small[:, :96].any()
    assert decoded(photo(np.zeros((500, 1000)))).size == (LONGEST, LONGEST // 2)
    mask = np.array(decoded(areas(values, [Label(3, "c", "#102030")])).convert("RGBA"))
    assert mask[0, -1, :3].tolist() == [16, 32, 48] and 0 < mask[0, -1, 3] < 255 and mask[0, 0, 3] == 0


def test_cases_with_pictures_are_those_on_which_trainers_differ_most():
    results = results_of(rows_of(DICE), suite_of(tuple(DICE)), {CELLS: None})
    values = results.cases.pivot_table("Dice", "case", "trainer")
    assert most_different(values, 2) == ["case03", "case01"]


def test_page_needs_nothing_but_itself_and_no_name_ends_its_data(survey, suite, tmp_path):
    rows = [row | {"case": f"</script>{row['case']}"} for row in rows_of(DICE)]
    text = case_page(Survey(suite, ()), analyse(results_of(rows, suite, {CELLS: None}))).decode()
    assert text.count("</script>") == 2 and "http" not in text and "url(" not in text


def test_trainers_that_no_figure_shows_are_pictured_where_they_alone_are_finished(survey, tmp_path):
    """Figures show some of many trainers, which need not have finished every dataset."""
    best = [f"Trainer{number:02}" for number in range(13)]
    suite = suite_of((REFERENCE, *best, THIRD), (CELLS, SKIN))
    rows = rows_of({name: [0.9] * 5 for name in (REFERENCE, *best)}, dataset=SKIN) + rows_of({THIRD: DICE[THIRD]})
    analysis = analyse(results_of(rows, suite, {CELLS: None, SKIN: None}))
    assert THIRD not in shown_trainers(analysis)
    runs_of_one = tuple(run for run in survey.runs if run.trainer == THIRD)
    assert '"predicted"' in case_page(Survey(suite, runs_of_one), analysis).decode()
    assert [name for name, _ in draw_overlays(Survey(suite, runs_of_one), analysis, tmp_path)] == [
        f"overlays_{CELLS}_2d_validation"
    ]


@pytest.mark.parametrize("found", [[0.0, None, 0.0, None, None], [None] * 5])
def test_cases_without_anything_are_shown_where_somebody_finds_something(survey, suite, tmp_path, found):
    analysis = analyse(results_of(rows_of({REFERENCE: [None] * 5, OTHER: found}), suite, {CELLS: None}))
    path = tmp_path / "cases.html"
    path.write_bytes(case_page(survey, analysis))
    shown = content_of(path)
    assert [case["case"] for case in shown["cases"]] == [f"case{n:02}" for n, dice in enumerate(found) if dice == 0]
    assert all(set(case["predicted"]) == {OTHER} for case in shown["cases"])
    draw_overlays(survey, analysis, tmp_path)


@pytest.mark.parametrize("missing", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_cases_are_not_pictured_where_their_files_are_not(survey, suite, tmp_path, monkeypatch, missing):
    run = survey.runs[0]
    assert is_here(run, "validation")
    kept = tmp_path / "kept" / CELLS / "dataset.json"
    write_json(kept, dataset_json(run))
    monkeypatch.setenv(missing, str(tmp_path / "kept"))
    analysis = analyse(results_of(rows_of(DICE), suite, {CELLS: None}))
    assert '"predicted"' not in case_page(survey, analysis).decode()
    assert draw_overlays(survey, analysis, tmp_path) == []


def test_cases_are_not_pictured_where_one_has_no_image(survey, tmp_path):
    (tmp_path / "raw" / CELLS / "imagesTr" / "case03_0000.png").unlink()
    assert not is_here(survey.runs[0], "validation")


def test_report_vouches_for_its_page_of_cases(quick, tmp_path):
    folder = tmp_path / "report"
    page.write_report(Survey(suite_of((REFERENCE,)), ()), folder)
    assert page.verify(folder) == [] and 'href="cases.html"' in (folder / "report.html").read_text()
    (folder / "cases.html").write_text("better")
    assert page.verify(folder) == ["cases.html"]
    (folder / "cases.html").unlink()
    assert page.verify(folder) == ["cases.html"]


SCRIPT = """
const names = () => [...document.querySelectorAll("article h2 span:first-child")].map(e => e.textContent);
const choose = (id, value) => {
  const element = document.getElementById(id);
  element.value = value;
  element.dispatchEvent(new Event("change"));
};
found.first = [document.getElementById("first").value, document.getElementById("second").value, names()];
found.texts = [...document.querySelectorAll("article h2 span:last-child")].map(e => e.textContent);
found.summary = document.getElementById("summary").textContent;
found.pictures = [...document.images].map(image => image.naturalWidth);
found.orders = {};
for (const order of ["first", "both", "worst"]) { choose("order", order); found.orders[order] = names(); }
choose("order", "second");
choose("second", "OTHER");
found.changed = names();
"""


@in_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_cases_are_sorted_by_the_difference_of_the_chosen_trainers(written, tmp_path, width):
    found, said = opened(written, tmp_path / "alone", width, SCRIPT.replace("OTHER", THIRD))
    assert found["errors"] == [] and "CONSOLE" not in said
    assert found["inner"] == width >= found["width"]
    assert found["first"] == [REFERENCE, OTHER, ["case03", "case00", "case01", "case02"]]
    assert found["texts"] == [
        f"Dice, B − A: {text}" for text in ("+0.750", "+0.250", "−0.250", "−0.500")
    ]  # rightly empty is 1
    assert found["summary"] == "4 cases, 4 with pictures: B better on 2, A on 2."
    assert len(found["pictures"]) == 4 * (1 + 2 + 3 + 3) and all(found["pictures"])
    assert found["orders"]["first"] == ["case02", "case01", "case00", "case03"]
    assert found["orders"]["both"] == ["case03", "case02", "case00", "case01"]
    assert found["orders"]["worst"][0] in ("case01", "case03")
    assert found["changed"] == ["case03", "case01", "case00", "case02"]


@in_browser
def test_a_lone_trainer_is_not_compared_with_itself(survey, tmp_path):
    suite = suite_of((REFERENCE,))
    runs_of_one = tuple(run for run in survey.runs if run.trainer == REFERENCE)
    rows = rows_of({REFERENCE: DICE[REFERENCE]})
    path = tmp_path / "cases.html"
    path.write_bytes(case_page(Survey(suite, runs_of_one), analyse(results_of(rows, suite, {CELLS: None}))))
    found, said = opened(path, tmp_path / "alone", 1280, SCRIPT.replace("OTHER", REFERENCE))
    assert found["errors"] == [] and "CONSOLE" not in said
    assert found["summary"] == f"3 cases, 3 with pictures: {REFERENCE} alone, so there is nothing to compare."
    assert found["texts"] == found["first"][2]  # names, and no differences
    assert len(found["pictures"]) == 3 * (1 + 2 + 3)
