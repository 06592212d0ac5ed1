"""Proves that the printed tables hold what the numbers give, and nothing about unfinished trainers."""

import csv
import io
import re

import pandas as pd
import pytest
from support.benchmark_results import (
    CELLS,
    OTHER,
    REFERENCE,
    SKIN,
    SURVEY,
    THIRD,
    TRAINERS,
    UNFINISHED,
    cost_row,
    markdown_rows,
    results_of,
    rows_of,
    suite_of,
    training_row,
    written_data,
)

from nnunet_plugins.benchmark.report import page
from nnunet_plugins.benchmark.report.analysis import NUMBERS, analyse
from nnunet_plugins.benchmark.report.markup import markdown_table, result_files
from nnunet_plugins.benchmark.report.results import METRICS, read_data
from nnunet_plugins.benchmark.report.tables import all_tables, measured_cost, p_value, ranks, training_cost

PATIENTS = "units: patients, by the suite's cluster_regex"


def test_short_table_shows_what_the_long_one_has(texts, table):
    header, _, *rows = markdown_rows(texts["results.md"], f"{SKIN}, 2d, validation")
    assert header == [
        "trainer", "folds", "Dice ↑", "HD95 ↓", "NSD ↑", f"Dice − {REFERENCE}", "p", "wins / ties / losses",
        "missed / hallucinated",
    ]  # fmt: skip
    own = table[(table.dataset == SKIN) & (table.trainer == OTHER)].set_index("metric")
    dice = own.loc["Dice"]
    shown = dict(zip(header, rows[0], strict=True))
    assert shown["Dice ↑"] == f"**{dice['mean']:.4f} [{dice.ci_low:.4f}, {dice.ci_high:.4f}]**"  # the best
    assert shown["HD95 ↓"] == "**{mean:.2f} [{ci_low:.2f}, {ci_high:.2f}]**".format(**own.loc["HD95"])
    assert shown["NSD ↑"] == "**{mean:.4f} [{ci_low:.4f}, {ci_high:.4f}]**".format(**own.loc["NSD"])
    difference = "{difference:+.4f} [{difference_low:+.4f}, {difference_high:+.4f}]".format(**dice)
    assert shown[f"Dice − {REFERENCE}"] == difference and difference.startswith("+")
    assert shown["p"] == f"{dice.p_holm:.3f}"
    assert shown["wins / ties / losses"] == f"{dice.wins:.0f} / {dice.ties:.0f} / {dice.losses:.0f}"
    assert rows[1][5:8] == ["", "", ""]
    several = " Missed and hallucinated are labels of cases."
    for over, more in (("label lesion", ""), ("mean over the labels", several)):
        note = f"\n7 {PATIENTS}; {over}; NSD at 1. Mean [95 % interval].{more} Bold: best mean; italic:"
        assert note in texts["results.md"]


def test_short_table_shows_corrected_p_values(texts, table):
    _, _, *rows = markdown_rows(texts["results.md"], f"{CELLS}, 2d, validation")
    own = table[(table.dataset == CELLS) & (table.label == "mean") & (table.metric == "Dice")].set_index("trainer")
    shown = {row[0]: row[6] for row in rows if row[6]}
    assert shown == {trainer: p_value(own.p_holm[trainer]).text for trainer in (OTHER, THIRD)}
    assert all(p_value(own.p[trainer]).text != p for trainer, p in shown.items() if own.p[trainer] == own.p.min())


def test_without_clusters_units_are_called_cases():
    suite = suite_of([REFERENCE], tolerance=2.5)
    rows = rows_of({REFERENCE: [0.5, 0.75]})
    rows[0] |= {"outcome": "missed"}
    results = results_of(rows, suite, {CELLS: None})
    text = result_files(analyse(results))["results.md"].decode()
    note = (
        "\n2 units: cases, of which no two are recorded as one group; label cell; NSD at 2.5. Mean [95 % interval].\n"
    )
    assert note in text and "**" not in text
    assert markdown_rows(text, f"{CELLS}, 2d, validation")[2][-1] == "1 / 0"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.04999, "0.050"), (0.5, "0.500"), (1.0, "1.000")],
)
def test_p_values_are_rounded_and_never_zero(p, text):
    assert p_value(p) == (text, p, "")


def test_long_table_has_all_metrics_of_all_trainers_and_labels(texts, table):
    rows = list(csv.DictReader(io.StringIO(texts["results.csv"])))
    assert len(rows) == len(table) == (3 + 1) * 3 * len(METRICS)
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        assert row["label"] == expected["label"] and row["metric"] == expected["metric"]
        for name in NUMBERS:
            number = float(row[name] or "nan")
            assert number == pytest.approx(expected[name], rel=1e-5, nan_ok=True), name


def test_ranks_are_of_datasets_that_all_trainers_have_finished_and_say_so(texts):
    header, _, *rows = markdown_rows(texts["results.md"], "Ranks")
    assert header == ["trainer", "average", f"{CELLS} 2d validation"]
    assert rows == [[OTHER, "1.00", "1"], [REFERENCE, "2.00", "2"], [THIRD, "3.00", "3"]]
    assert f"Left out, as trainers are not finished: {SKIN} 2d validation." in texts["results.md"]
    assert "Agreement" not in texts["results.md"] and "not in every column" not in texts["results.md"]


def test_ranks_say_which_trainers_are_not_on_every_dataset():
    rows = [
        *rows_of({REFERENCE: [0.5, 0.4] * 4, OTHER: [0.3, 0.2] * 4, THIRD: [0.9, 0.8] * 4}, dataset=CELLS),
        *rows_of({REFERENCE: [0.5, 0.4] * 3, OTHER: [0.3, 0.2] * 3}, dataset=SKIN),
    ]
    suite = suite_of(TRAINERS, (CELLS, SKIN), trainers_of={SKIN: (REFERENCE, OTHER)})
    results = results_of(rows, suite, {CELLS: None, SKIN: None})
    shown = ranks(analyse(results))
    assert shown.texts == [[REFERENCE, "1.00", "1", "1"], [OTHER, "2.00", "2", "2"]]
    assert "Agreement of the datasets (mean Kendall tau of their pairs): 1.00." in shown.note
    assert f"Left out, as they are not in every column: {THIRD}." in shown.note and "not finished" not in shown.note


def test_datasets_with_too_few_units_are_not_ranked():
    dice = {REFERENCE: [0.5] * 6, OTHER: [0.25] * 6}
    rows = [*rows_of(dice, dataset=CELLS), *rows_of({REFERENCE: [0.25] * 5, OTHER: [0.5] * 5}, dataset=SKIN)]
    analysis = analyse(results_of(rows, suite_of((REFERENCE, OTHER), (CELLS, SKIN)), {CELLS: None, SKIN: None}))
    shown = ranks(analysis)
    assert shown.texts == [[REFERENCE, "1.00", "1"], [OTHER, "2.00", "2"]] and analysis.order == [REFERENCE, OTHER]
    assert f"Left out, as they have too few units to tell trainers apart: {SKIN} 2d validation." in shown.note
    assert "not finished" not in shown.note


LABELS_IN_ORDER = ("100 % | #1", "a_b & <c>")


def test_labels_have_a_table_where_there_are_several(texts, table, analysis):
    _, _, *rows = markdown_rows(texts["results.md"], "Dice of each label")
    assert len(rows) == 6 and {row[1] for row in rows} == {CELLS}
    own = table[(table.metric == "Dice") & (table.dataset == CELLS) & (table.label != "mean")]
    own = own.set_index(["label", "trainer"]).loc[[(name, t) for name in LABELS_IN_ORDER for t in analysis.order]]
    assert [row[5] for row in rows] == [f"{value:.4f}" for value in own["mean"]]
    assert [row[6:] for row in rows] == [
        ["0", "0", "5" if row[0] == THIRD and "100" in row[4] else "0"] for row in rows
    ]


# ---- order and emphasis ----------------------------------------------------------------------------------------------


def test_trainers_have_one_order_in_all_tables(analysis):
    assert analysis.order == [OTHER, REFERENCE, THIRD]
    for shown in all_tables(analysis)[:-1]:
        trainers = list(dict.fromkeys(row[0].text for row in shown.rows))
        assert trainers == analysis.order, shown.title


def test_order_is_that_of_average_ranks_even_where_means_say_otherwise():
    """The third trainer is rightly empty, which its mean leaves out: it is second by means, first by ranks."""
    rows = rows_of({REFERENCE: [0.25] * 8, OTHER: [0.75] * 7 + [0.0], THIRD: [0.625] * 7 + [None]})
    analysis = analyse(results_of(rows, suite_of(TRAINERS), {CELLS: None}))
    assert analysis.order == [THIRD, OTHER, REFERENCE]
    average = [row[1] for row in ranks(analysis).texts]
    assert average == sorted(average)


def test_best_is_bold_and_italic_are_those_that_are_not_different(analysis, table):
    shown = {shown.title: shown for shown in all_tables(analysis)}
    for title, dataset in ((f"{CELLS}, 2d, validation", CELLS), (f"{SKIN}, 2d, validation", SKIN)):
        for metric, heading in (("Dice", "Dice ↑"), ("HD95", "HD95 ↓")):
            column = shown[title].columns.index(heading)
            own = table[(table.dataset == dataset) & (table.metric == metric) & table.label.isin(("mean", "lesion"))]
            own = own.set_index("trainer")
            for row in shown[title].rows:
                p, mean = own.p_holm_best[row[0].text], own["mean"][row[0].text]
                best = own["mean"].max() if metric == "Dice" else own["mean"].min()
                expected = "best" if mean == best else "alike" if p >= 0.05 else ""
                assert row[column].mark == expected


def test_numbers_stand_right_and_names_left(analysis):
    shown = all_tables(analysis)[0]
    assert shown.alignments == ["left", *["right"] * 8]


def test_columns_without_a_value_are_left_out():
    results = results_of(rows_of({REFERENCE: [0.5, 0.25]}), suite_of([REFERENCE]), {CELLS: None})
    shown = all_tables(analyse(results))[0]
    assert shown.columns == ["trainer", "folds", "Dice ↑", "HD95 ↓", "NSD ↑", "missed / hallucinated"]
    assert all(any(row[index].text for row in shown.rows) for index in range(len(shown.columns)))


# ---- unfinished trainers ---------------------------------------------------------------------------------------------


def test_unfinished_trainer_says_how_many_folds_it_has_and_nothing_else(texts):
    header, _, *rows = markdown_rows(texts["results.md"], f"{SKIN}, 2d, validation")
    assert [row[0] for row in rows] == [OTHER, REFERENCE, THIRD] and rows[-1][1] == "3/5 folds"
    assert rows[-1][2:] == [""] * (len(header) - 2)
    assert [row[1] for row in rows[:2]] == ["5/5", "5/5"] and all(all(row[2:5]) for row in rows[:2])
    assert f"**Unfinished trainings**\n\n- {SKIN} 2d {THIRD} has 3/5 folds\n" in texts["results.md"]
    assert texts["results.md"].count("Unfinished") == 1
    assert "3/5 folds" in texts["results.tex"]


def test_unfinished_trainer_has_no_mean_anywhere(texts, results, quick, tmp_path):
    digits = f"{UNFINISHED:.4f}"[:5]
    page.write_report(SURVEY, tmp_path / "report")
    for text in (*texts.values(), (tmp_path / "report" / "report.html").read_text(encoding="utf-8")):
        assert digits not in text
    assert digits in (tmp_path / "report" / "cases.csv").read_text()
    rows = [row for row in csv.DictReader(io.StringIO(texts["results.csv"])) if row["trainer"] == THIRD]
    for row in rows:
        assert row["folds"] == ("3/5" if row["dataset"] == SKIN else "5/5")
        assert any(row[name] for name in NUMBERS) == (row["dataset"] == CELLS)


def test_unfinished_training_times_are_not_those_of_all_folds(texts):
    """Hours of three folds beside hours of five would make it look fast."""
    header, _, *rows = markdown_rows(texts["results.md"], "Cost of the trainings")
    (unfinished,) = [row for row in rows if row[:2] == [THIRD, SKIN]]
    hours = unfinished[header.index("hours, finished folds")]
    assert hours == "0.75" and unfinished[header.index("folds")] == "3/5"


# ---- costs -----------------------------------------------------------------------------------------------------------


def test_trainings_are_summed_up_by_medians_sums_and_peaks(texts):
    header, _, *rows = markdown_rows(texts["results.md"], "Cost of the trainings")
    row = dict(zip(header, next(r for r in rows if r[:2] == [OTHER, CELLS]), strict=True))
    assert (row["s / epoch"], row["hours, finished folds"], row["s / case"]) == ("3.5", "1.25", "0.50")
    assert (row["peak GB allocated"], row["peak GB reserved"]) == ("5.25", "2.50")
    assert "In all rows: compiled: yes; device: a GPU; torch: 2.9.0+cu128; cuDNN: 91002." in texts["results.md"]
    assert not {"compiled", "device", "torch", "cuDNN"} & set(header)


def test_what_differs_between_trainings_has_a_column(results):
    trainings = results.trainings.copy()
    trainings.loc[trainings.trainer == OTHER, "gpu_name"] = "another GPU"
    shown = training_cost(results._replace(trainings=trainings))
    assert "device" in shown.columns and "torch" not in shown.columns and "device" not in shown.note


@pytest.mark.parametrize("forgotten", [{}, {"cudnn_version": None, "gpu_name": None}])
def test_versions_are_shown_as_recorded_even_if_a_fold_has_none(forgotten, results, tmp_path):
    trainings = pd.DataFrame([training_row(CELLS, OTHER, 0), training_row(CELLS, OTHER, 1, **forgotten)])
    read = read_data(written_data(results._replace(trainings=trainings), tmp_path))
    text = markdown_table(training_cost(read))
    assert len(re.findall(r"91002 +\|", text)) == 1 and "91002.0" not in text and "a GPU" in text


def test_trainings_on_the_cpu_show_no_words_for_nothing(results, tmp_path):
    training = training_row(CELLS, OTHER, 0, device="cpu", gpu_name=None, cudnn_version=None, compiled=False)
    read = read_data(written_data(results._replace(trainings=pd.DataFrame([training])), tmp_path))
    text = markdown_table(training_cost(read))
    assert re.search(r"\| no +\| cpu +\|", text) and "None" not in text and "nan" not in text


def test_costs_are_shown_in_millions_and_billions():
    shown = measured_cost(pd.DataFrame([cost_row(CELLS, OTHER)]))
    assert shown.texts == [
        [OTHER, CELLS, "2d", "48 x 64", "2", "1.93", "0.86", "163.3 [162.3, 164.3]", "28.1 [27.1, 29.1]", "36", "cpu"]
    ]
    assert len(shown.columns) == 11
