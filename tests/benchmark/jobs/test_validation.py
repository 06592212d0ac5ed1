"""Proves that all metrics are in the receipt of a validation, and that their Dice is nnU-Net's."""

import csv

import numpy as np
import pytest
from skimage import io
from support.finished_fold import first_prediction, write_finished_fold
from support.tiny_suite import ONE_TRAINER

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.validation import case_rows, validate
from nnunet_plugins.benchmark.runs import VALIDATION, predictions, read_splits
from nnunet_plugins.cli import main
from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder


def test_metrics_of_all_cases_and_labels_are_in_the_receipt(run):
    write_finished_fold(run)
    validate(ONE_TRAINER, run)
    receipt = read_receipt(run.validation_receipt)
    assert receipt["tolerance"] == 1.0
    validation = read_splits(run)[0]["val"]
    assert [(row["case"], row["label"]) for row in receipt["cases"]] == [
        (case, label) for case in validation for label in ("cell", "nucleus")
    ]
    assert all(row["Dice"] in (1.0, None) for row in receipt["cases"])


def test_receipt_keeps_the_groups_that_the_conversion_has_recorded(run):
    write_finished_fold(run)
    validation = read_splits(run)[0]["val"]
    rows = [f"{case},somebody" for case in [*validation, "another"]]
    (nnunet_folder(RAW) / run.dataset / "conversion_report.csv").write_text("\n".join(["case,group", *rows, ""]))
    validate(ONE_TRAINER, run)
    groups = dict.fromkeys(validation, "somebody")
    assert read_receipt(run.validation_receipt)["groups"] == {"validation": groups}


def test_predictions_that_are_not_those_of_nnunets_summary_are_refused(run):
    write_finished_fold(run)
    prediction = first_prediction(run)
    io.imsave(prediction, np.zeros_like(io.imread(prediction)), check_contrast=False)
    with pytest.raises(
        UserError, match=r"summary.json gives case\d \(cell\) a Dice of 1.0, and its prediction has 0.0"
    ):
        validate(ONE_TRAINER, run)
    assert not run.validation_receipt.exists()


def test_evaluate_measures_the_same(run, tmp_path, capsys):
    write_finished_fold(run)
    for file in predictions(run, VALIDATION).values():
        io.imsave(file, np.roll(io.imread(file), 2, axis=0), check_contrast=False)
    output, description = tmp_path / "metrics.csv", run.preprocessed / "dataset.json"
    folders = run.folder / VALIDATION, run.preprocessed / "gt_segmentations"
    main(["evaluate", *map(str, folders), "-djfile", str(description), "--chill", "-o", str(output)])
    rows = {(row.pop("case"), row.pop("label")): row for row in csv.DictReader(output.open())}
    expected = {(row["case"], row["label"]): row for row in case_rows(run, VALIDATION)}
    assert len(rows) == len(expected)
    for key, row in rows.items():
        assert row == {name: "" if expected[key][name] is None else str(expected[key][name]) for name in row}
