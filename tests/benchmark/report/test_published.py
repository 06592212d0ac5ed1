"""Proves that the papers' numbers stand beside ours, and only where dataset and trainer are theirs."""

import tomllib

import pytest
from support.benchmark_results import CELLS, OTHER, SKIN, TRAINERS, markdown_rows, results_of, rows_of, suite_of

from nnunet_plugins.benchmark.report import tables
from nnunet_plugins.benchmark.report.analysis import analyse, result_table
from nnunet_plugins.benchmark.report.markup import result_files

PUBLISHED = [
    row
    for row in tomllib.loads(tables.PUBLISHED.read_text(encoding="utf-8"))["results"]
    if row["dataset"] == "isic2018" and "label" not in row
]


def test_published_numbers_stand_beside_ours_where_the_dataset_is_theirs(texts, table):
    header, _, *rows = markdown_rows(texts["results.md"], "Published")
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
def test_published_numbers_are_not_shown_for_other_data(converter):
    rows = [row | {"dataset": CELLS} for row in rows_of({name: [0.5, 0.25] for name in TRAINERS})]
    others = results_of(rows, suite_of(TRAINERS), {CELLS: converter})
    files = result_files(analyse(others))
    assert b"Published" not in files["results.md"] + files["results.tex"]


def test_unfinished_trainer_stands_beside_no_published_number(results):
    """ISIC's paper has the second trainer's number: ours is not shown before its folds are done."""
    kept = results.cases[~((results.cases.trainer == OTHER) & (results.cases.fold > 2))]
    shown = tables.published(results, result_table(kept, results.record, tables.PUBLISHED_DIGITS))
    assert shown.rows and not any(row[shown.columns.index("our Dice")] for row in shown.texts)
