"""Proves that the papers' numbers stand beside ours of the same trainers, with what to know before comparing them."""

import csv
import io
import re
import tomllib
from dataclasses import replace

import pytest
from support.benchmark_results import CELLS, OTHER, SKIN, TRAINERS, markdown_rows, results_of, rows_of, suite_of

from nnunet_plugins.benchmark.report import published
from nnunet_plugins.benchmark.report.analysis import analyse, result_table
from nnunet_plugins.benchmark.report.markup import PUBLISHED_FILE, latex_table, markdown_table, result_files

CONTENT = tomllib.loads(published.PUBLISHED.read_text(encoding="utf-8"))
PUBLISHED = [row for row in CONTENT["results"] if row["dataset"] == "isic2018" and "label" not in row]


def table_of(trainers, converter, conversion=None, iterations=None, **data):
    """The published table of a suite with one dataset, on which every trainer has a Dice of its own."""
    dice = {trainer: [0.5 + index / 8, 0.25] for index, trainer in enumerate(trainers)}
    suite = replace(suite_of(trainers, **data), iterations=iterations)
    results = results_of(rows_of(dice), suite, {CELLS: converter})
    dataset = replace(results.record.datasets[CELLS], conversion=conversion or {})
    results = results._replace(record=replace(results.record, datasets={CELLS: dataset}))
    return published.published(results, result_table(results.cases, results.record, published.PUBLISHED_DIGITS))


def rows_by_method(table):
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.texts]
    return {(row["table"], row["method"]): row for row in rows}


def sentences(table, row, column="remarks"):
    return [table.remarks[int(number) - 1] for number in row[column].split(", ") if number]


def test_published_numbers_stand_beside_ours_where_the_dataset_is_theirs(texts, table):
    header, _, *rows = markdown_rows(texts["results.md"], "Published")
    shown = [dict(zip(header, row, strict=True)) for row in rows]
    assert len(PUBLISHED) > 5 and {row["dataset"] for row in shown} == {SKIN}
    for row, expected in zip(shown, PUBLISHED, strict=True):
        assert (row["paper"], row["table"], row["method"]) == tuple(expected[k] for k in ("paper", "table", "method"))
        assert row["Dice"] == f"{expected['Dice']:.4f}"
        assert row["IoU"] == (f"{expected['IoU']:.4f}" if "IoU" in expected else "")
        ours = table[(table.dataset == SKIN) & (table.metric == "Dice") & (table.trainer == expected.get("trainer"))]
        assert row["our Dice"] == "".join(
            f"{mean:.4f} ({expected['trainer']}, 2d, validation)" for mean in ours["mean"]
        )
    assert any(row["our Dice"] for row in shown) and any(not row["our Dice"] for row in shown)


@pytest.mark.parametrize("converter", [None, "folder", "synthetic"])
def test_published_numbers_are_not_shown_for_other_data(converter):
    rows = [row | {"dataset": CELLS} for row in rows_of({name: [0.5, 0.25] for name in TRAINERS})]
    others = results_of(rows, suite_of(TRAINERS), {CELLS: converter})
    files = result_files(analyse(others))
    assert b"Published" not in files["results.md"] + files["results.tex"] and PUBLISHED_FILE not in files


def test_unfinished_trainer_stands_beside_no_published_number(results):
    """ISIC's paper has the second trainer's number: ours is not shown before its folds are done."""
    kept = results.cases[~((results.cases.trainer == OTHER) & (results.cases.fold > 2))]
    shown = published.published(results, result_table(kept, results.record, published.PUBLISHED_DIGITS))
    assert shown.rows and not any(row[shown.columns.index("our Dice")] for row in shown.texts)


# ---- initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "converter"), [("ConDSegTrainer", "kvasir_seg"), ("DCSNetTrainer", "kidney_stone")])
def test_figure_from_imagenet_is_the_pretrained_trainers_and_the_other_is_marked(method, converter):
    paper = method.removesuffix("Trainer")
    row = {name: r for (_, name), r in rows_by_method(table_of((method, f"{method}_pretrained"), converter)).items()}
    assert row[paper]["our Dice"] == (
        f"0.4375 ({method}_pretrained, 2d, validation); 0.3750 ({method}, 2d, validation)"
    )
    for trainers, marked in (((method,), True), ((f"{method}_pretrained",), False), (TRAINERS, False)):
        table = table_of(trainers, converter)
        row = {name: r for (_, name), r in rows_by_method(table).items()}[paper]
        assert (published.RANDOM_BESIDE_PRETRAINED in sentences(table, row)) == marked
        assert bool(row["our Dice"]) == (trainers != TRAINERS)


def test_ablations_have_their_own_initialisation_too():
    table = table_of(("ConDSegNet0Trainer_woCR", "ConDSegNet0Trainer_woCR_pretrained"), "kvasir_seg")
    row = rows_by_method(table)["Table 3", "Net0"]
    assert row["our Dice"].startswith("0.4375 (ConDSegNet0Trainer_woCR_pretrained, ")
    assert published.RANDOM_BESIDE_PRETRAINED in sentences(table, row)
    assert not rows_by_method(table)["Table 3", "ConDSeg"]["our Dice"]


def test_both_initialisations_stand_beside_a_figure_of_a_silent_paper():
    table = table_of(("DCFFSNetTrainer_pretrained", "DCFFSNetTrainer"), "isic2018")
    row = rows_by_method(table)["Table 1", "DCFFSNet"]
    assert (
        row["our Dice"].startswith("0.4375 (DCFFSNetTrainer, ") and "(DCFFSNetTrainer_pretrained, " in row["our Dice"]
    )
    told = sentences(table, row)
    assert any("does not say whether" in sentence for sentence in told)
    assert published.RANDOM_BESIDE_PRETRAINED not in told


# ---- remarks ---------------------------------------------------------------------------------------------------------


def test_remarks_stand_at_the_rows_for_which_they_hold():
    table = table_of(("DCSNetTrainer_pretrained",), "kvasir_small")
    rows = rows_by_method(table)
    ours, theirs, ablation = (
        rows[key] for key in (("Table 3", "DCSNet"), ("Table 3", "UNet"), ("Table 6", "DCSNet, H = 64"))
    )
    two_numbers = "Boxes of 64x64 are the method: Table 3 has a Dice of 0.9297 for it, Table 6 of 0.9034."
    for row, has in ((ours, True), (ablation, True), (theirs, False), (rows["Table 6", "DCSNet, H = 32"], False)):
        assert (two_numbers in sentences(table, row)) == has
    assert "Listed as not pretrained." in sentences(table, theirs)
    assert not any("starts from ImageNet" in sentence for sentence in sentences(table, theirs))
    assert any("starts from ImageNet" in sentence for sentence in sentences(table, ours))
    for row in rows.values():
        assert any("0.65 to 0.7" in sentence for sentence in sentences(table, row))
        assert not any("512x512" in sentence for sentence in sentences(table, row))


def test_remark_on_a_metric_stands_where_the_metric_is():
    table = table_of(("DLKUNetTrainer",), "synapse")
    for row in rows_by_method(table).values():
        assert any("HD95 in voxels" in sentence for sentence in sentences(table, row)) == bool(row["HD95"])
    assert {bool(row["HD95"]) for row in rows_by_method(table).values()} == {True, False}


def test_every_remark_is_numbered_once_and_shown_in_all_forms():
    table = table_of(("ConDSegTrainer",), "glas")
    assert len(set(table.remarks)) == len(table.remarks) > 4
    used = {int(number) for row in table.texts for cell in row[-2:] for number in cell.split(", ")}
    assert used == set(range(1, len(table.remarks) + 1))
    text = markdown_table(table)
    for number, remark in enumerate(table.remarks, start=1):
        assert f"\n{number}. {remark}" in text
    assert latex_table(table).count(r"\item ") == len(table.remarks)
    rows = list(csv.DictReader(io.StringIO(published.published_csv(table))))
    assert len(rows) == len(table.rows)
    for row, shown in zip(rows, rows_by_method(table).values(), strict=True):
        assert row["Dice"] == shown["Dice"]
        for column in (published.BECAUSE, "remarks"):
            assert row[column] == " ".join(sentences(table, shown, column))


def test_reports_have_the_sentences_on_the_page_and_in_the_files(texts):
    sentence = "Mean of a five-fold cross-validation."
    assert (
        re.search(rf"^\d\. {sentence}$", texts["results.md"], re.MULTILINE)
        and rf"\item {sentence}" in texts["results.tex"]
    )
    assert texts[PUBLISHED_FILE].count(sentence) == len(PUBLISHED)


# ---- what is not comparable ------------------------------------------------------------------------------------------


def reasons(method, *arguments, **about):
    table = table_of(*arguments, **about)
    row = next(row for (_, name), row in rows_by_method(table).items() if name == method)
    return sentences(table, row, published.BECAUSE)


def test_figure_of_the_same_data_and_split_and_size_is_comparable():
    """GlaS has a published split; the paper resizes to 256 x 256."""
    trainer = ("ConDSegTrainer_pretrained",)
    same = {"paper_split": True, "resize": [256, 256]}
    whole = published.NNUNET_EPOCHS * 250 // 100
    assert reasons("ConDSeg", trainer, "glas", same, iterations=whole) == []
    (split,) = reasons("ConDSeg", trainer, "glas", {"resize": [256, 256]}, iterations=whole)
    assert split.startswith("Other cases to train and to validate on than the paper's: --paper-split")
    own_folds = {"splits": "of a table", "resize": [256, 256]}  # they may be the paper's
    assert reasons("ConDSeg", trainer, "glas", own_folds, iterations=whole) == []
    for conversion in ({"paper_split": True}, {"paper_split": True, "resize": [224, 256]}):
        (size,) = reasons("ConDSeg", trainer, "glas", conversion, iterations=whole)
        assert "256x256 pixels" in size
    (short,) = reasons("ConDSeg", trainer, "glas", same)
    assert short == "Ours was trained for 25,000 steps; nnU-Net's own training has 250,000."


def test_split_that_is_only_drawn_like_the_papers_is_another():
    conversion = {"paper_split": True, "resize": [256, 256]}
    first, *_ = reasons("DCSNet", ("DCSNetTrainer",), "kidney_stone", conversion)
    assert first.endswith("which drew 7:1:2 and lists none.")


def test_data_that_come_from_published_ones_by_another_way_are_named_by_the_suite():
    for converter in ("folder", None):
        told = reasons("DCFFSNet", ("DCFFSNetTrainer",), converter, published="monuseg")
        assert [sentence.partition(" ")[0] for sentence in told] == ["Other", "Ours", "Images", "Ours"]
        assert "need not be the published ones" in told[1]


def test_method_without_a_trainer_of_ours_tells_no_length_of_ours():
    assert not any("steps" in sentence for sentence in reasons("UNet", ("DCFFSNetTrainer",), "monuseg"))
