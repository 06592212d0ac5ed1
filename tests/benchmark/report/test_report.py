"""Proves that a report holds what its cases give and no more, and that no change or failure goes unnoticed."""

import csv
import io
import itertools
import json
import math
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import (
    CELLS,
    OTHER,
    REFERENCE,
    THIRD,
    case_row,
    cost_row,
    results_of,
    rows_of,
    suite_of,
    training_row,
)

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report import figures, overlays, page, results, statistics, tables
from nnunet_plugins.benchmark.report.statistics import NUMBERS, result_table
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json

SKIN = "Dataset550_Skin"
TRAINERS = (REFERENCE, OTHER, THIRD)
DATASETS = {CELLS: None, SKIN: "isic2018"}
LABELS = {CELLS: ("a_b & <c>", "100 % | #1"), SKIN: ("lesion",)}
FOLDS = range(5)
UNFINISHED = 0.777777
"""Dice of all cases of the unfinished trainer: any mean of it has these digits."""


def synthetic_rows():
    """On the skin, one trainer has 3 of 5 folds."""
    rows = []
    rng = np.random.default_rng(0)
    for dataset, labels in LABELS.items():
        for label, fold, number in itertools.product(labels, FOLDS, range(3)):
            common = rng.uniform(0.4, 0.6)
            about = {"dataset": dataset, "fold": fold, "label": label}
            about["cluster"] = f"patient{number}" if fold else f"patient{number + 3}"
            case = f"{fold}{number}"
            rows.append(case_row(REFERENCE, case, common, **about))
            rows.append(case_row(OTHER, case, common + rng.uniform(-0.1, 0.3), **about))
            if dataset == CELLS:
                dice = None if number == 2 and label == labels[1] else common - 0.2
                rows.append(case_row(THIRD, case, dice, **about))
            elif fold < 3:
                rows.append(case_row(THIRD, case, UNFINISHED, **about))
    return rows


SUITE = suite_of(TRAINERS, tuple(DATASETS), FOLDS, cluster_regex="x")


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """What the statistics have computed for the same cases, which takes seconds; tests may clear it."""
    memory = {}
    analyse = tables.analyse

    def remembering(results):
        key = results.cases.to_csv(), json.dumps(results.record)
        if key not in memory:
            memory[key] = analyse(results)
        return memory[key]._replace(results=results)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            statistics, "HIGHER_IS_BETTER", {m: HIGHER_IS_BETTER[m] for m in ("Dice", "IoU", *tables.SHOWN)}
        )
        monkeypatch.setattr(tables, "analyse", remembering)
        yield memory


@pytest.fixture(scope="module")
def synthetic():
    return results_of(synthetic_rows(), SUITE, DATASETS)


@pytest.fixture(scope="module")
def analysis(synthetic):
    return tables.analyse(synthetic)


@pytest.fixture(scope="module")
def table(analysis):
    return analysis.table


def files_of(results):
    return tables.result_files(tables.analyse(results))


@pytest.fixture(scope="module")
def texts(synthetic):
    return {name: content.decode() for name, content in files_of(synthetic).items()}


def written_data(synthetic, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_data(synthetic, folder)
    return folder


def report_of(synthetic, folder):
    """Data, tables and page, with a picture instead of figures."""
    written_data(synthetic, folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "a.svg").write_text("<svg/>")
    write_json(folder / page.CAPTIONS, {"svg": [("a", "A figure")], "png": []})
    for name, content in page.made_files(tables.analyse(tables.read_data(folder)), folder).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def quick(synthetic, monkeypatch):
    """``write_report`` of the synthetic results, without figures."""
    monkeypatch.setattr(page, "collect", lambda _: synthetic)
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    monkeypatch.setattr(overlays, "draw_overlays", lambda *_: [])


# ---- data ------------------------------------------------------------------------------------------------------------


def test_data_are_read_as_they_were_written(synthetic, tmp_path):
    first = written_data(synthetic, tmp_path / "first")
    read = tables.read_data(first)
    for ours, theirs in zip(read[:4], synthetic[:4], strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, check_dtype=False)
    assert read.record == json.loads(json.dumps(synthetic.record))  # tuples become lists
    second = written_data(read, tmp_path / "second")
    for name in (*tables.DATA, tables.RECORD):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    "text", ["007", "1e5", "NA", "nan", "None", "null", "True", "a,b", 'say "x"', " a ", "ü−", "a;b"]
)
def test_names_that_look_like_something_else_stay_texts(text, tmp_path):
    rows = [case_row(REFERENCE, text, 0.5, cluster=text, label=text)]
    synthetic = results_of(rows, suite_of([REFERENCE]), {CELLS: None})
    read = tables.read_data(written_data(synthetic, tmp_path))
    assert read.cases[["case", "cluster", "label"]].to_numpy().tolist() == [[text] * 3]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 0.0, 1.0, 5.0, np.nextafter(1, 0)])
def test_numbers_are_kept_to_the_last_digit(value, tmp_path):
    rows = [case_row(REFERENCE, "case", 0.5, HD95=value), case_row(REFERENCE, "case2", None)]
    read = tables.read_data(written_data(results_of(rows, suite_of([REFERENCE]), {CELLS: None}), tmp_path))
    assert read.cases.HD95[0] == value and math.isnan(read.cases.HD95[1])


def test_many_numbers_are_kept_to_the_last_digit(tmp_path):
    values = np.random.default_rng(0).random(500) * 10.0 ** np.arange(-4, 5).repeat(56)[:500]
    rows = [case_row(REFERENCE, f"case{number:03}", 0.5, HD95=value) for number, value in enumerate(values)]
    read = tables.read_data(written_data(results_of(rows, suite_of([REFERENCE]), {CELLS: None}), tmp_path))
    assert read.cases.HD95.tolist() == values.tolist()


def test_costs_that_were_not_measured_are_read_as_none(synthetic, tmp_path):
    read = tables.read_data(written_data(synthetic._replace(costs=pd.DataFrame()), tmp_path))
    assert read.costs.empty
    assert "Cost, without training" not in files_of(read)["results.md"].decode()


def test_tables_are_the_same_every_time_and_of_what_was_read(synthetic, remembered, tmp_path):
    files = files_of(synthetic)
    remembered.clear()
    assert set(files) == {"results.csv", "results.md", "results.tex"}
    assert files_of(synthetic) == files
    remembered.clear()
    assert files_of(tables.read_data(written_data(synthetic, tmp_path))) == files
    assert b"\r" not in b"".join(files.values())


def test_order_of_the_cases_does_not_matter(synthetic, table):
    shuffled = synthetic.cases.sample(frac=1, random_state=0, ignore_index=True)
    pd.testing.assert_frame_equal(result_table(shuffled, synthetic.record), table)


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_untouched_report_is_verified(synthetic, tmp_path):
    assert page.verify(report_of(synthetic, tmp_path)) == []


def change_digit(path, position):
    """Another first digit after the last decimal point before ``position``."""
    text = path.read_text(encoding="utf-8")
    index = [match.start() + 1 for match in re.finditer(r"\.\d", text)][position]
    changed = str((int(text[index]) + 5) % 10)
    path.write_text(f"{text[:index]}{changed}{text[index + 1 :]}", encoding="utf-8")


def test_changed_case_changes_every_table(synthetic, tmp_path):
    folder = report_of(synthetic, tmp_path)
    change_digit(folder / "cases.csv", 0)
    assert page.verify(folder) == ["results.csv", "results.md", "results.tex", "report.html"]


@pytest.mark.parametrize(("name", "position"), [("trainings.csv", 1), ("costs.csv", 0)])
def test_changed_costs_change_the_tables_that_show_them(name, position, synthetic, tmp_path):
    folder = report_of(synthetic, tmp_path)
    change_digit(folder / name, position)
    assert page.verify(folder) == ["results.md", "results.tex", "report.html"]


@pytest.mark.parametrize("position", [0, 7, -1])
@pytest.mark.parametrize("name", ["results.csv", "results.md", "results.tex", "report.html"])
def test_changed_digit_of_a_table_is_found(name, position, synthetic, tmp_path):
    folder = report_of(synthetic, tmp_path)
    change_digit(folder / name, position)
    assert page.verify(folder) == [name]


@pytest.mark.parametrize("name", ["results.csv", "results.md", "results.tex", "report.html"])
@pytest.mark.parametrize("harm", ["missing", "longer", "empty", "folder"])
def test_table_that_is_missing_or_longer_is_found(name, harm, synthetic, tmp_path):
    path = report_of(synthetic, tmp_path) / name
    content = path.read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes(content + b"\n" if harm == "longer" else b"")
    assert page.verify(tmp_path) == [name]


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_changed_figure_is_found(harm, synthetic, tmp_path):
    path = report_of(synthetic, tmp_path) / "figures" / "a.svg"
    if harm == "changed":
        path.write_text("<svg>better</svg>")
        assert page.verify(tmp_path) == ["report.html"]
        return
    path.unlink()
    with pytest.raises(UserError, match=r"holds no whole report .*a\.svg"):
        page.verify(tmp_path)


@pytest.mark.parametrize("name", [*tables.DATA, tables.RECORD, page.CAPTIONS])
@pytest.mark.parametrize("harm", ["missing", "binary"])
def test_report_without_its_data_is_no_report(name, harm, synthetic, tmp_path):
    path = report_of(synthetic, tmp_path) / name
    path.unlink() if harm == "missing" else path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"holds no (whole )?report"):
        page.verify(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cases.csv", ""), ("cases.csv", "dataset,case\n"), ("record.json", "{}"), ("record.json", "[]")],
)
def test_report_whose_data_are_cut_off_is_refused_in_a_sentence(name, content, synthetic, tmp_path):
    (report_of(synthetic, tmp_path) / name).write_text(content)
    with pytest.raises(UserError):
        page.verify(tmp_path)


@pytest.mark.parametrize("name", ["cases.csv", "trainings.csv", "costs.csv"])
@pytest.mark.parametrize("position", [0, -1])
def test_number_that_is_none_is_refused_in_a_sentence(name, position, synthetic, tmp_path):
    path = report_of(synthetic, tmp_path) / name
    text = path.read_text()
    start, end = [number.span() for number in re.finditer(r"(?<=,)\d+\.\d+(?=[,\n])", text)][position]
    path.write_text(f"{text[:start]}abc{text[end:]}")
    with pytest.raises(UserError, match=r"holds no report \(.*abc"):
        page.verify(tmp_path)


# ---- unfinished ------------------------------------------------------------------------------------------------------


def cells_of_markdown(text, title):
    """The rows of a table, by its first column."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows]
    assert len({len(row) for row in cells}) == 1
    return cells


def test_unfinished_trainer_says_how_many_folds_it_has_and_nothing_else(texts):
    header, _, *rows = cells_of_markdown(texts["results.md"], f"{SKIN}, 2d, validation")
    assert [row[0] for row in rows] == [OTHER, REFERENCE, THIRD] and rows[-1][1] == "3/5 folds"
    assert rows[-1][2:] == [""] * (len(header) - 2)
    assert [row[1] for row in rows[:2]] == ["5/5", "5/5"] and all(all(row[2:5]) for row in rows[:2])
    assert f"- Unfinished: {SKIN} 2d {THIRD} has 3/5 folds\n" in texts["results.md"]
    assert texts["results.md"].count("Unfinished") == 1
    assert "3/5 folds" in texts["results.tex"]


def test_unfinished_trainer_has_no_mean_anywhere(texts, synthetic, quick, tmp_path):
    digits = f"{UNFINISHED:.4f}"[:5]
    written = page.write_report(SUITE, tmp_path / "report")
    for text in (*texts.values(), written.read_text(encoding="utf-8")):
        assert digits not in text
    assert digits in (tmp_path / "report" / "cases.csv").read_text()
    rows = [row for row in csv.DictReader(io.StringIO(texts["results.csv"])) if row["trainer"] == THIRD]
    for row in rows:
        assert row["folds"] == ("3/5" if row["dataset"] == SKIN else "5/5")
        assert any(row[name] for name in NUMBERS) == (row["dataset"] == CELLS)


def test_unfinished_trainer_is_in_no_figure_of_results(synthetic, table):
    cell = synthetic.cases[synthetic.cases.dataset == SKIN]
    assert figures.finished_trainers(cell, synthetic.record, SKIN) == [REFERENCE, OTHER]
    chosen = table[(table.metric == "Dice") & table["mean"].notna()]
    shown = figures.accuracy_against_cost(chosen, synthetic)
    assert (SKIN, THIRD) not in set(zip(shown.dataset, shown.trainer, strict=True)) and len(shown)


def test_unfinished_training_times_are_not_those_of_all_folds(texts):
    """Hours of three folds beside hours of five would make it look fast."""
    header, _, *rows = cells_of_markdown(texts["results.md"], "What the trainings took")
    (unfinished,) = [row for row in rows if row[:2] == [THIRD, SKIN]]
    hours = unfinished[header.index("hours, these folds")]
    assert hours != "0.75" or "3/5" in " ".join(unfinished)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_short_table_shows_what_the_long_one_has(texts, table):
    header, _, *rows = cells_of_markdown(texts["results.md"], f"{SKIN}, 2d, validation")
    assert header == [
        "trainer", "folds", "Dice ↑", "HD95 ↓", "NSD ↑", f"Dice − {REFERENCE}", "p", "wins / ties / losses",
        "missed / hallucinated",
    ]  # fmt: skip
    own = table[(table.dataset == SKIN) & (table.trainer == OTHER)].set_index("metric")
    dice = own.loc["Dice"]
    shown = dict(zip(header, rows[0], strict=True))
    assert shown["Dice ↑"] == f"{dice['mean']:.4f} [{dice.ci_low:.4f}, {dice.ci_high:.4f}]"
    assert shown["HD95 ↓"] == "{mean:.2f} [{ci_low:.2f}, {ci_high:.2f}]".format(**own.loc["HD95"])
    assert shown["NSD ↑"] == "{mean:.4f} [{ci_low:.4f}, {ci_high:.4f}]".format(**own.loc["NSD"])
    difference = "{difference:+.4f} [{difference_low:+.4f}, {difference_high:+.4f}]".format(**dice)
    assert shown[f"Dice − {REFERENCE}"] == difference and difference.startswith("+")
    assert shown["p"] == f"{dice.p_holm:.3f}"
    assert shown["wins / ties / losses"] == f"{dice.wins:.0f} / {dice.ties:.0f} / {dice.losses:.0f}"
    assert rows[1][5:8] == ["", "", ""]
    assert "\n6 patients, label lesion; NSD at 1. Mean [95 % interval].\n" in texts["results.md"]
    assert "\n6 patients, mean over the labels; NSD at 1. Mean [95 % interval].\n" in texts["results.md"]


def test_short_table_shows_corrected_p_values(texts, table):
    _, _, *rows = cells_of_markdown(texts["results.md"], f"{CELLS}, 2d, validation")
    own = table[(table.dataset == CELLS) & (table.label == "mean") & (table.metric == "Dice")].set_index("trainer")
    shown = {row[0]: row[6] for row in rows if row[6]}
    assert shown == {trainer: tables.p_value(own.p_holm[trainer]) for trainer in (OTHER, THIRD)}
    assert all(tables.p_value(own.p[trainer]) != p for trainer, p in shown.items() if own.p[trainer] == own.p.min())


def test_without_clusters_units_are_called_cases():
    suite = suite_of([REFERENCE], tolerance=2.5)
    rows = rows_of({REFERENCE: [0.5, 0.75]})
    rows[0] |= {"outcome": "missed"}
    synthetic = results_of(rows, suite, {CELLS: None})
    text = files_of(synthetic)["results.md"].decode()
    assert "\n2 cases, label cell; NSD at 2.5. Mean [95 % interval].\n" in text
    assert cells_of_markdown(text, f"{CELLS}, 2d, validation")[2][-1] == "1 / 0"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.04999, "0.050"), (0.5, "0.500"), (1.0, "1.000")],
)
def test_p_values_are_rounded_and_never_zero(p, text):
    assert tables.p_value(p) == text


def test_long_table_has_all_metrics_of_all_trainers_and_labels(texts, table):
    rows = list(csv.DictReader(io.StringIO(texts["results.csv"])))
    assert len(rows) == len(table) == (3 + 1) * 3 * 4
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        assert row["label"] == expected["label"] and row["metric"] == expected["metric"]
        for name in NUMBERS:
            number = float(row[name] or "nan")
            assert number == pytest.approx(expected[name], rel=1e-5, nan_ok=True), name


def test_ranks_are_of_datasets_that_all_trainers_have_finished_and_say_so(texts):
    header, _, *rows = cells_of_markdown(texts["results.md"], "Ranks")
    assert header == ["trainer", f"{CELLS} 2d validation", "average"]
    assert rows == [[OTHER, "1", "1.00"], [REFERENCE, "2", "2.00"], [THIRD, "3", "3.00"]]
    assert f"Left out, as trainers are not finished: {SKIN} 2d validation." in texts["results.md"]
    assert "Agreement" not in texts["results.md"] and "not in every column" not in texts["results.md"]


def test_ranks_say_which_trainers_are_not_on_every_dataset():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.4], OTHER: [0.3, 0.2], THIRD: [0.9, 0.8]}, dataset=CELLS),
        *rows_of({REFERENCE: [0.5, 0.4], OTHER: [0.3, 0.2]}, dataset=SKIN),
    ]
    synthetic = results_of(rows, suite_of(TRAINERS, (CELLS, SKIN)), {CELLS: None, SKIN: None})
    synthetic.record["datasets"][SKIN]["trainers"] = [REFERENCE, OTHER]
    shown = tables.ranks(tables.analyse(synthetic))
    assert shown.rows == [[REFERENCE, "1", "1", "1.00"], [OTHER, "2", "2", "2.00"]]
    assert "Agreement of the datasets (mean Kendall tau of their pairs): 1.00." in shown.note
    assert f"Left out, as they are not in every column: {THIRD}." in shown.note and "not finished" not in shown.note


def test_labels_have_a_table_where_there_are_several(texts, table):
    _, _, *rows = cells_of_markdown(texts["results.md"], "Dice of each label")
    assert len(rows) == 6 and {row[1] for row in rows} == {CELLS}
    own = table[(table.metric == "Dice") & (table.dataset == CELLS) & (table.label != "mean")]
    assert [row[5] for row in rows] == [f"{value:.4f}" for value in own["mean"]]
    assert [row[6:] for row in rows] == [
        ["0", "0", "5" if row[0] == THIRD and "100" in row[4] else "0"] for row in rows
    ]


def test_trainings_are_summed_up_by_medians_sums_and_peaks(texts):
    header, _, *rows = cells_of_markdown(texts["results.md"], "What the trainings took")
    row = dict(zip(header, next(r for r in rows if r[:2] == [OTHER, CELLS]), strict=True))
    assert (row["s / epoch"], row["hours, these folds"], row["s / case"]) == ("3.5", "1.25", "0.50")
    assert (row["peak GB allocated"], row["peak GB reserved"], row["compiled"]) == ("5.25", "2.50", "yes")
    assert (row["device"], row["torch"], row["cuDNN"]) == ("a GPU", "2.9.0+cu128", "91002")


@pytest.mark.parametrize("forgotten", [{}, {"cudnn_version": None, "gpu_name": None}])
def test_versions_are_shown_as_recorded_even_if_a_fold_has_none(forgotten, synthetic, tmp_path):
    trainings = pd.DataFrame([training_row(CELLS, OTHER, 0), training_row(CELLS, OTHER, 1, **forgotten)])
    read = tables.read_data(written_data(synthetic._replace(trainings=trainings), tmp_path))
    text = tables.as_markdown(tables.training_cost(read))
    assert text.count("91002 |") == 1 and "91002.0" not in text and "a GPU" in text


def test_trainings_on_the_cpu_show_no_words_for_nothing(synthetic, tmp_path):
    training = training_row(CELLS, OTHER, 0, device="cpu", gpu_name=None, cudnn_version=None, compiled=False)
    read = tables.read_data(written_data(synthetic._replace(trainings=pd.DataFrame([training])), tmp_path))
    text = tables.as_markdown(tables.training_cost(read))
    assert "| no | cpu |" in text and "None" not in text and "nan" not in text


def test_costs_are_shown_in_millions_and_billions():
    shown = tables.cost(pd.DataFrame([cost_row(CELLS, OTHER)]))
    assert shown.rows == [
        [OTHER, CELLS, "2d", "48 x 64", "2", "1.93", "0.86", "163.3 [162.3, 164.3]", "28.1 [27.1, 29.1]", "36", "cpu"]
    ]
    assert len(shown.columns) == 11


def test_notices_warn_of_noise_and_of_test_cases(texts):
    rows = [
        *rows_of({REFERENCE: np.arange(16) / 32, OTHER: np.arange(16) / 32 + 0.25}),
        *rows_of({REFERENCE: np.arange(16) / 32, OTHER: np.arange(16) / 32}, part="test"),
    ]
    synthetic = results_of(rows, suite_of((REFERENCE, OTHER)), {CELLS: None})
    assert tables.notices(tables.analyse(synthetic)) == [
        f"{CELLS} 2d test: {OTHER} differs by +0.0000, and the confidence interval holds 0",
        "A test case's value is the mean over the folds' models, not that of their ensemble",
    ]


def test_notices_name_trainers_of_another_length(synthetic):
    trainings = synthetic.trainings.assign(epochs=100)
    trainings.loc[trainings.trainer == OTHER, "epochs"] = [7, *[100] * 8, 9]
    notes = tables.notices(tables.analyse(synthetic._replace(trainings=trainings)))
    assert f"Unequal: {OTHER} trained 7 to 9 epochs" in notes
    assert len([note for note in notes if note.startswith("Unequal")]) == 1


def test_notices_name_what_has_not_begun(synthetic):
    none_of_third = synthetic._replace(
        cases=synthetic.cases[synthetic.cases.trainer != THIRD],
        trainings=synthetic.trainings[synthetic.trainings.trainer != THIRD],
    )
    analysis = tables.analyse(none_of_third)
    assert THIRD in set(analysis.table.trainer)
    assert THIRD not in {row[0] for row in tables.per_label(analysis.table).rows}
    notes = tables.notices(analysis)
    assert notes[:2] == [f"Unfinished: {name} 2d {THIRD} has 0/5 folds" for name in DATASETS]


def test_summary_says_what_was_trained_and_where(texts, synthetic):
    text = texts["results.md"].splitlines()[2]
    assert text.startswith("100 epochs of 250 steps for every trainer; folds 0, 1, 2, 3, 4, repeated 1 time(s)")
    assert "reference nnUNetTrainer" in text and "a processor (2 cores, Linux)" in text
    assert text.endswith("with nnunetv2 2.8.1, torch 2.9.0, python 3.11.7.")
    described = synthetic.record | {"suite": synthetic.record["suite"] | {"iterations": 7}}
    assert "100 epochs of 7 steps" in tables.summary(described)


# ---- published results -----------------------------------------------------------------------------------------------


PUBLISHED = [
    row
    for row in tomllib.loads(tables.PUBLISHED.read_text(encoding="utf-8"))["results"]
    if row["dataset"] == "isic2018" and "label" not in row
]


def test_published_numbers_stand_beside_ours_where_the_dataset_is_theirs(texts, table):
    header, _, *rows = cells_of_markdown(texts["results.md"], "Published")
    shown = [dict(zip(header, row, strict=True)) for row in rows]
    assert len(PUBLISHED) > 5 and {row["dataset"] for row in shown} == {SKIN}
    for row, expected in zip(shown, PUBLISHED, strict=True):
        assert (row["paper"], row["table"], row["method"]) == tuple(expected[k] for k in ("paper", "table", "method"))
        assert row["Dice"] == f"{expected['Dice']:.4f}" and row["remark"] == expected.get("note", "")
        assert row["IoU"] == (f"{expected['IoU']:.4f}" if "IoU" in expected else "")
        ours = table[(table.dataset == SKIN) & (table.metric == "Dice") & (table.trainer == expected.get("trainer"))]
        assert row["our Dice"] == "".join(
            f"{mean:.4f} ({expected['trainer']}, 2d, validation)" for mean in ours["mean"]
        )
    assert any(row["our Dice"] for row in shown) and any(not row["our Dice"] for row in shown)


@pytest.mark.parametrize("converter", [None, "folder", "synthetic"])
def test_published_numbers_are_not_shown_for_other_data(converter, synthetic):
    rows = [row | {"dataset": CELLS} for row in rows_of({name: [0.5, 0.25] for name in TRAINERS})]
    others = results_of(rows, suite_of(TRAINERS), {CELLS: converter})
    files = files_of(others)
    assert b"Published" not in files["results.md"] + files["results.tex"]


def test_unfinished_trainer_stands_beside_no_published_number(synthetic):
    """ISIC's paper has the second trainer's number: ours is not shown before its folds are done."""
    kept = synthetic.cases[~((synthetic.cases.trainer == OTHER) & (synthetic.cases.fold > 2))]
    shown = tables.published(synthetic, result_table(kept, synthetic.record))
    assert shown.rows and not any(row[shown.columns.index("our Dice")] for row in shown.rows)


# ---- what markup must escape -----------------------------------------------------------------------------------------


def test_markdown_has_no_column_and_no_tag_too_many(texts):
    cells_of_markdown(texts["results.md"], "Dice of each label")  # all rows have the header's columns
    assert r"100 % \| #1" in texts["results.md"]
    assert not re.search(r"(?<!\\)<[A-Za-z/!?]", texts["results.md"])  # GitHub would take it for HTML and show nothing


def tex_tables(text):
    for match in re.finditer(r"\\begin\{tabular\}\{(l+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in match[2].splitlines() if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
        yield len(match[1]), lines


def test_latex_is_balanced(texts):
    text = texts["results.tex"]
    found = list(tex_tables(text))
    assert len(found) == text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\caption{") == 7
    for columns, lines in found:
        assert len(lines) > 1
        for line in lines:
            assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == len(found)


HOSTILE = ["a_b & <c>", "100 %", "#1", "$x", "~", "^2", "{a}", "\\alpha", "a|b", ">", "< 5", "−1", "Dice ↑", "<c"]


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_shows_names_as_they_are(text):
    """What TeX would print, by its rules for the characters that mean something else."""
    made = tables.tex(text)
    named = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    named |= {"textbar": "|", "textbraceleft": "{", "textbraceright": "}"}
    shown = re.sub(
        r"\\(text[a-z]+)(\{\}| ?)", lambda match: re.escape(named[match[1]]) and f"\0{named[match[1]]}", made
    )
    shown = re.sub(r"\$(<|>|-|\||\\uparrow|\\downarrow|\\sim)\$", lambda m: "\0" + TEX_MATH.get(m[1], m[1]), shown)
    shown = re.sub(r"\\([_%&#${}])", lambda match: "\0" + match[1], shown)
    assert not re.search(r"(?<!\0)[\\_%&#$^~{}<>|]", shown), made  # < and > are other letters in TeX's own fonts
    assert shown.replace("\0", "") == text


TEX_MATH = {"-": "−", "\\uparrow": "↑", "\\downarrow": "↓", "\\sim": "~"}


class Cells(HTMLParser):
    """The tables of a page, as a browser reads them."""

    def __init__(self):
        super().__init__()
        self.tables, self.cell = [], None

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.cell = tag if tag in ("td", "th", "button") else self.cell

    def handle_endtag(self, tag):
        self.cell = None if tag in ("td", "th") else self.cell

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data


def test_page_has_all_tables_cell_by_cell(analysis, quick, tmp_path):
    text = page.write_report(SUITE, tmp_path / "report").read_text(encoding="utf-8")
    found = Cells()
    found.feed(text)
    made = tables.all_tables(analysis)
    assert found.tables == [[shown.columns, *shown.rows] for shown in made]
    assert "a_b & <c>" in {cell for shown in found.tables for row in shown for cell in row}
    assert [shown.title for shown in made] == [
        f"{CELLS}, 2d, validation", f"{SKIN}, 2d, validation", "Ranks", "Dice of each label", "Cost, without training",
        "What the trainings took", "Published",
    ]  # fmt: skip


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_drawn_twice_the_same_as_svg_and_png(synthetic, tmp_path):
    synthetic = synthetic._replace(
        cases=synthetic.cases[synthetic.cases.dataset == SKIN],
        curves=synthetic.curves[synthetic.curves.dataset == SKIN],
    )
    analysis = tables.analyse(synthetic)
    contents = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        drawn = figures.draw_all(analysis, folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    names = [name for name, _ in drawn]
    where = f"{SKIN}_2d_validation"
    assert names == [f"units_{where}", f"ranks_{where}", "significance", "accuracy_and_cost", "training_curves"]
    assert set(contents[0]) == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    assert contents[0] == contents[1]
    assert all(content.startswith(b"\x89PNG") for name, content in contents[0].items() if name.endswith("png"))
    assert all(caption for _, caption in drawn)


@pytest.mark.parametrize("num_datasets", [1, 2])
def test_long_names_leave_room_for_the_map_of_differences(num_datasets):
    datasets = [f"Dataset00{number}_Intracranial_Haemorrhage_of_the_Challenge_2022" for number in range(num_datasets)]
    trainers = ["ConDSegTrainer_withoutSADecoder", "DCFFSNetTrainer_pretrained", "DLKUNetSTrainer_C64"]
    chosen = pd.DataFrame(
        {"dataset": name, "configuration": "3d_fullres", "part": "validation", "trainer": trainer}
        | {"difference": 0.1, "p_holm": 0.0001}
        for name in datasets
        for trainer in trainers[1:]
    )
    with matplotlib.rc_context({**figures.STYLE, "figure.dpi": 100}):
        figure = figures.significance_figure(chosen, {"suite": {"trainers": trainers, "reference": trainers[0]}})
        figure.draw_without_rendering()
    axis, colours = figure.axes
    inches = axis.get_window_extent().width / figure.dpi, axis.get_window_extent().height / figure.dpi
    assert inches[0] / num_datasets > 1
    assert inches[1] / 2 > 0.35
    columns = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(columns))
    for box in (*columns, *(label.get_window_extent() for label in (*axis.get_yticklabels(), colours.yaxis.label))):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height


def test_a_trainer_has_one_colour_in_all_figures(synthetic):
    """Also where another one is unfinished."""
    kept = synthetic.cases[~((synthetic.cases.trainer == REFERENCE) & (synthetic.cases.fold > 2))]
    synthetic = synthetic._replace(cases=kept)
    expected = matplotlib.colors.to_rgba(figures.look(OTHER, synthetic.record).colour)
    cell = kept[kept.dataset == CELLS]
    (axis,) = figures.units_figure(
        cell, figures.finished_trainers(cell, synthetic.record, CELLS), synthetic.record
    ).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [OTHER, THIRD]
    assert tuple(axis.collections[0].get_facecolor()[0][:3]) == expected[:3]
    table = result_table(kept, synthetic.record)
    chosen = table[
        (table.metric == "Dice") & table["mean"].notna() & (table.dataset == CELLS) & (table.label == "mean")
    ]
    accuracy = figures.accuracy_against_cost(chosen, synthetic)
    (axis,) = figures.cost_figure(accuracy, synthetic.record).axes
    assert axis.get_legend_handles_labels()[1] == [OTHER, THIRD]
    assert matplotlib.colors.to_rgba(axis.containers[0][0].get_color()) == expected


def test_without_a_comparison_there_is_no_map_of_differences(tmp_path):
    synthetic = results_of(rows_of({REFERENCE: [0.5, 0.25]}), suite_of([REFERENCE]), {CELLS: None})
    synthetic = synthetic._replace(curves=pd.DataFrame())
    drawn = figures.draw_all(tables.analyse(synthetic), tmp_path)
    assert [name for name, _ in drawn] == [f"units_{CELLS}_2d_validation", "accuracy_and_cost"]


def test_best_median_and_worst_case_are_those_of_the_mean_over_trainers_and_labels():
    dice = {REFERENCE: [0.2, 0.5, 0.1, 0.9], OTHER: [0.2, 0.6, 0.0, 0.1]}
    cases = results_of(rows_of(dice), suite_of((REFERENCE, OTHER)), {CELLS: None}).cases
    assert overlays.best_median_worst(cases) == {"best": "case01", "median": "case03", "worst": "case02"}
    assert overlays.best_median_worst(cases.iloc[:0]) == {}


# ---- the report whole ------------------------------------------------------------------------------------------------


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_holds_data_tables_and_page_and_is_verified(quick, tmp_path):
    written = page.write_report(SUITE, tmp_path / "deep" / "report")
    assert written == tmp_path / "deep" / "report" / "report.html"
    names = {*tables.DATA, "record.json", "results.csv", "results.md", "results.tex", "report.html", "figures"}
    assert {path.name for path in written.parent.iterdir()} == names
    assert [path.name for path in written.parent.parent.iterdir()] == ["report"]
    assert page.verify(written.parent) == []


def test_earlier_report_is_replaced_whole(quick, tmp_path):
    folder = tmp_path / "report"
    page.write_report(SUITE, folder)
    first = everything(folder)
    (folder / "figures" / "old.png").write_text("of a dataset that is no longer in the suite")
    (folder / "results.md").write_text("changed")
    page.write_report(SUITE, folder)
    assert everything(folder) == first


def test_pictures_of_cases_are_shown_unless_they_are_unwanted(quick, tmp_path, monkeypatch):
    def draw(suite, results, folder):
        (folder / "case.png").write_bytes(b"\x89PNG")
        return [("case", "of a patient")]

    monkeypatch.setattr(overlays, "draw_overlays", draw)
    page.write_report(SUITE, tmp_path / "report")
    assert b"of a patient" in everything(tmp_path)[Path("report/report.html")]
    page.write_report(SUITE, tmp_path / "report", with_cases=False)
    assert b"of a patient" not in b"".join(everything(tmp_path).values())
    assert Path("report/figures/case.png") not in everything(tmp_path)


def test_folder_with_something_else_is_left_alone(quick, tmp_path):
    (tmp_path / "thesis.tex").write_text("three years of work")
    with pytest.raises(UserError, match=r"holds 'thesis.tex', which is no part of a report"):
        page.write_report(SUITE, tmp_path)
    assert everything(tmp_path) == {Path("thesis.tex"): b"three years of work"}


def test_file_in_the_place_of_the_folder_is_left_alone(quick, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UserError):
        page.write_report(SUITE, tmp_path / "report")
    assert everything(tmp_path) == {Path("report"): b"a file"}


def test_empty_folder_becomes_a_report(quick, tmp_path):
    (tmp_path / "report").mkdir()
    assert page.write_report(SUITE, tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (page, "collect"),
        (tables, "write_data"),
        (tables, "result_files"),
        (figures, "draw_all"),
        (overlays, "draw_overlays"),
        (tables, "all_tables"),
        (page, "pictures"),
        (Path, "rename"),
    ],
)
def test_failure_on_the_way_leaves_the_earlier_report(module, name, quick, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    page.write_report(SUITE, folder)
    before = everything(tmp_path)

    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        with pytest.raises((OSError, UserError), match="no space"):
            page.write_report(SUITE, folder)
    assert everything(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]  # nothing half done lies about


def test_leftover_of_a_killed_report_is_no_obstacle(quick, tmp_path):
    (tmp_path / ".report.partial" / "figures").mkdir(parents=True)
    (tmp_path / ".report.partial" / "figures" / "old.svg").write_text("half")
    page.write_report(SUITE, tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == ["captions.json"]


# ---- what trainings have left ----------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    dataset = {"channel_names": {"0": "R", "1": "G"}, "file_ending": ".png", "conversion": {"name": "isic2018"}}
    write_json(tmp_path / "nnUNet_raw" / CELLS / "dataset.json", dataset)
    return tmp_path


COLLECTED = Suite(
    "collected",
    (REFERENCE, OTHER),
    REFERENCE,
    3,
    (Data(1, tolerance=2.0, cluster_regex=r"(p\d)_", test=True),),
    folds=(0, 1),
    repeats=2,
)
METRICS = {"Dice": 0.5, "IoU": 1 / 3, "precision": 0.25, "recall": 1.0, "HD95": 5.0, "ASSD": 2.0, "NSD": 0.75}


def finish(run, seconds=(10.0, 30.0, 20.0), cases=("p1_a", "p2_a"), **measured):
    machine = {
        "hostname": "node",
        "device": "cuda:0",
        "gpu_name": "a GPU",
        "torch_version": "2.9",
        "cudnn_version": "9",
    }
    curves = {name: [0.1, 0.2, None] for name in ("train_losses", "ema_fg_dice")}
    receipt = {"epoch_seconds": list(seconds), "curves": curves, "measured": measured, "machine": machine}
    write_json(run.training_receipt, receipt | {"sha256": {}, "parts": ["validation", "test"]})
    rows = [
        {"part": part, "case": case, "label": "cell", "key": "1", "outcome": "segmented", "volume_error": 1.0} | METRICS
        for part, names in (("validation", cases), ("test", ["p9_t"]))
        for case in names
    ]
    write_json(run.validation_receipt, {"tolerance": 2.0, "parts": ["validation", "test"], "cases": rows})


def test_collected_cases_name_their_training_and_their_patient(folders):
    for run in reversed(runs(COLLECTED)):
        finish(run, cases=(f"p2_{run.fold}", f"p1_{run.fold}"))
    collected = results.collect(survey(COLLECTED))
    assert list(collected.cases.columns) == results.CASE_COLUMNS
    rows = collected.cases.to_dict("records")
    order = [tuple(row[name] for name in (*results.CELL, "repeat", "fold", "case", "label")) for row in rows]
    assert order == sorted(order) and len(rows) == 2 * 2 * 2 * 3
    assert {(row["case"], row["cluster"]) for row in rows} == {
        ("p1_0", "p1"), ("p2_0", "p2"), ("p1_1", "p1"), ("p2_1", "p2"), ("p9_t", "p9"),
    }  # fmt: skip
    assert all(row["Dice"] == 0.5 and row["volume_error"] == 1.0 and row["dataset"] == CELLS for row in rows)
    assert [row["part"] for row in rows] == ["test"] * 8 + ["validation"] * 16


def test_a_test_set_that_another_suite_wanted_is_not_collected(folders):
    finish(runs(COLLECTED)[0])
    suite = replace(COLLECTED, datasets=(replace(COLLECTED.datasets[0], test=False),))
    assert set(results.collect(survey(suite)).cases.part) == {"validation"}


def test_collected_trainings_have_medians_hours_and_gigabytes(folders):
    first, second, *_ = runs(COLLECTED)
    finish(first, validation_seconds=3.0, peak_bytes_allocated=2**30, peak_bytes_reserved=3 * 2**29, compiled=False)
    finish(second)
    collected = results.collect(survey(COLLECTED))
    assert list(collected.trainings.columns) == results.COST_COLUMNS
    measured, unmeasured = (
        collected.trainings.astype(object).where(collected.trainings.notna(), None).to_dict("records")
    )
    expected = {"dataset": CELLS, "configuration": "2d", "trainer": REFERENCE, "repeat": 1, "fold": 0, "epochs": 3}
    expected |= {"seconds_per_epoch": 20.0, "training_hours": 60 / 3600, "seconds_per_case": 1.5}
    expected |= {"peak_gb_allocated": 1.0, "peak_gb_reserved": 1.5, "compiled": False, "device": "cuda:0"}
    expected |= {"gpu_name": "a GPU", "hostname": "node", "torch_version": "2.9", "cudnn_version": "9"}
    assert measured == expected
    nothing = ("seconds_per_case", "peak_gb_allocated", "peak_gb_reserved", "compiled")
    assert unmeasured == expected | {"trainer": OTHER} | dict.fromkeys(nothing)
    assert collected.curves.epoch.tolist() == [1, 2, 3] * 2
    assert collected.curves.ema_fg_dice.fillna(-1).tolist() == [0.1, 0.2, -1] * 2
    assert collected.curves.trainer.tolist() == [REFERENCE] * 3 + [OTHER] * 3
    assert collected.costs.empty


def test_nothing_is_said_of_a_device_that_is_none(folders):
    """nnU-Net's debug.json has 'None' where there is no cuDNN."""
    run = runs(COLLECTED)[0]
    finish(run)
    receipt = json.loads(run.training_receipt.read_text())
    write_json(run.training_receipt, receipt | {"machine": receipt["machine"] | {"cudnn_version": "None"}})
    assert results.collect(survey(COLLECTED)).trainings.cudnn_version.isna().all()


def test_only_trainings_with_both_receipts_are_collected(folders):
    first, second, third, *_ = runs(COLLECTED)
    for run in (first, second, third):
        finish(run)
    second.training_receipt.unlink()
    third.validation_receipt.unlink()
    collected = results.collect(survey(COLLECTED))
    assert len(collected.trainings) == 1 and set(collected.cases.trainer) == {REFERENCE}
    first.validation_receipt.unlink()
    with pytest.raises(UserError, match="No training of collected is done yet"):
        results.collect(survey(COLLECTED))


def test_measured_costs_are_collected_but_not_of_what_the_suite_no_longer_has(folders):
    finish(runs(COLLECTED)[0])
    others = [cost_row(CELLS, THIRD), cost_row(SKIN, OTHER), cost_row(CELLS, OTHER, configuration="3d_fullres")]
    others.append(cost_row(CELLS, OTHER, plans="nnUNetResEncUNetMPlans"))
    write_json(results.cost_file(COLLECTED), [cost_row(CELLS, OTHER), *others])
    assert results.collect(survey(COLLECTED)).costs.to_dict("records") == [cost_row(CELLS, OTHER)]


def test_record_describes_suite_datasets_machine_and_versions(folders):
    record = results.record(survey(COLLECTED))
    assert json.loads(json.dumps(record))["suite"]["datasets"][0]["cluster_regex"] == r"(p\d)_"
    assert record["datasets"] == {
        CELLS: {
            "converter": "isic2018",
            "tolerance": 2.0,
            "trainers": [REFERENCE, OTHER],
        }
    }
    assert record["versions"]["torch"] and record["versions"]["nnunetv2"] and record["versions"]["python"]
    assert record["machine"]["processor"] and record["machine"]["usable_cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["written"])
    assert results.installed("no-such-package") is None


def test_record_of_a_dataset_without_raw_files_comes_from_the_preprocessed_one(folders):
    (folders / "nnUNet_preprocessed" / CELLS).mkdir()
    description = folders / "nnUNet_raw" / CELLS / "dataset.json"
    content = json.loads(description.read_text())
    description.unlink()
    write_json(folders / "nnUNet_preprocessed" / CELLS / "dataset.json", content | {"conversion": None})
    assert results.record(survey(COLLECTED))["datasets"][CELLS]["converter"] is None


def test_collected_results_become_a_report_that_is_verified(folders, quick, monkeypatch):
    for run in runs(COLLECTED)[:-1]:
        finish(run)
    monkeypatch.setattr(page, "collect", results.collect)
    written = page.write_report(survey(COLLECTED), folders / "report")
    assert page.verify(written.parent) == []
    assert f"Unfinished: {CELLS} 2d {OTHER} has 3/4 folds" in (written.parent / "results.md").read_text()
