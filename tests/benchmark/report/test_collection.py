"""Proves that a report's results are those of the finished runs, and its record that of the suite and machine."""

import json
import re
from dataclasses import replace

import pytest
from support.benchmark_results import CELLS, OTHER, REFERENCE, SKIN, THIRD, cost_row

from nnunet_plugins.benchmark.report import page
from nnunet_plugins.benchmark.report.collection import collect, cost_file, installed, make_record
from nnunet_plugins.benchmark.report.notes import unknown_units
from nnunet_plugins.benchmark.report.record import DatasetRecord
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, EVALUATION_COLUMNS, TRAINING_COLUMNS
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, write_json


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    dataset = {
        "channel_names": {"0": "R", "1": "G"},
        "file_ending": ".png",
        "conversion": {"name": "isic2018", "resize": [8, 8]},
    }
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


def finish(run, seconds=(10.0, 30.0, 20.0), cases=("p1_a", "p2_a"), groups=None, **measured):
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
    receipt = {"tolerance": 2.0, "parts": ["validation", "test"], "cases": rows}
    write_json(run.validation_receipt, receipt if groups is None else receipt | {"groups": groups})


def test_collected_cases_name_their_training_and_their_patient(folders):
    for run in reversed(runs(COLLECTED)):
        finish(run, cases=(f"p2_{run.fold}", f"p1_{run.fold}"))
    collected = collect(survey(COLLECTED))
    assert list(collected.cases.columns) == CASE_COLUMNS
    rows = collected.cases.to_dict("records")
    order = [
        tuple(row[name] for name in (*EVALUATION_COLUMNS, "trainer", "repeat", "fold", "case", "label")) for row in rows
    ]
    assert order == sorted(order) and len(rows) == 2 * 2 * 2 * 3
    assert {(row["case"], row["cluster"]) for row in rows} == {
        ("p1_0", "p1"), ("p2_0", "p2"), ("p1_1", "p1"), ("p2_1", "p2"), ("p9_t", "p9"),
    }  # fmt: skip
    assert all(row["Dice"] == 0.5 and row["volume_error"] == 1.0 and row["dataset"] == CELLS for row in rows)
    assert [row["part"] for row in rows] == ["test"] * 8 + ["validation"] * 16


# ---- units -----------------------------------------------------------------------------------------------------------

WITHOUT_REGEX = replace(COLLECTED, datasets=(replace(COLLECTED.datasets[0], cluster_regex=""),))


def write_conversion_report(folders, groups):
    lines = ["case,part,group", *(f"{case},Tr,{group}" for case, group in groups.items())]
    (folders / "nnUNet_raw" / CELLS / "conversion_report.csv").write_text("\n".join(lines) + "\n")


def units_of(suite, part="validation"):
    """Unit of each case of the part, and the record's authority on them."""
    collected = collect(survey(suite))
    own = collected.cases[collected.cases.part == part]
    return dict(zip(own.case, own.cluster, strict=True)), collected.record.datasets[CELLS].units[part]


def test_units_are_the_groups_that_the_conversion_has_recorded(folders):
    finish(runs(WITHOUT_REGEX)[0], cases=("a", "b", "c"))
    write_conversion_report(folders, {"a": "anna", "b": "anna", "c": "c", "p9_t": "p9_t"})
    assert units_of(WITHOUT_REGEX) == ({"a": "anna", "b": "anna", "c": "c"}, "groups")
    write_conversion_report(folders, {"a": "a", "b": "b", "c": "c", "p9_t": "p9_t"})
    assert units_of(WITHOUT_REGEX) == ({"a": "a", "b": "b", "c": "c"}, "cases")


def test_expression_of_the_suite_is_asked_before_the_conversion(folders):
    finish(runs(COLLECTED)[0])
    write_conversion_report(folders, {"p1_a": "anna", "p2_a": "anna", "p9_t": "otto"})
    assert units_of(COLLECTED) == ({"p1_a": "p1", "p2_a": "p2"}, "cluster_regex")


def test_receipts_know_the_groups_where_the_raw_dataset_is_elsewhere(folders):
    first, second, *_ = runs(WITHOUT_REGEX)
    finish(first, cases=("a", "b"), groups={"validation": {"a": "anna", "b": "anna"}, "test": {"p9_t": "p9_t"}})
    finish(second, cases=("a", "b"))  # measured by a version that did not note groups
    assert units_of(WITHOUT_REGEX) == ({"a": "anna", "b": "anna"}, "groups")
    assert units_of(WITHOUT_REGEX, "test") == ({"p9_t": "p9_t"}, "cases")


def test_groups_that_are_not_known_here_are_a_notice(folders):
    finish(runs(WITHOUT_REGEX)[0], cases=("a", "b"))
    assert units_of(WITHOUT_REGEX) == ({"a": "a", "b": "b"}, "unknown")
    (sentence,) = unknown_units(collect(survey(replace(WITHOUT_REGEX, datasets=(Data(1, tolerance=2.0),)))).record)
    assert sentence.startswith(f"{CELLS} validation: groups of cases, such as patients, are not known here")
    assert f"nnUNet_raw/{CELLS}/conversion_report.csv" in sentence
    write_conversion_report(folders, {"a": "anna"})  # and b was added by hand
    assert units_of(WITHOUT_REGEX) == ({"a": "anna", "b": "b"}, "unknown")


def test_dataset_that_nobody_converted_has_cases_as_units(folders):
    finish(runs(WITHOUT_REGEX)[0], cases=("a", "b"))
    description = folders / "nnUNet_raw" / CELLS / "dataset.json"
    content = json.loads(description.read_text())
    del content["conversion"]
    write_json(description, content)
    assert units_of(WITHOUT_REGEX) == ({"a": "a", "b": "b"}, "cases")


def test_damaged_report_of_a_conversion_is_named(folders):
    finish(runs(WITHOUT_REGEX)[0])
    (folders / "nnUNet_raw" / CELLS / "conversion_report.csv").write_text("case,part\na,Tr\n")
    with pytest.raises(UserError, match=r"_report.csv does not tell the groups of cases \('group'\): convert"):
        collect(survey(WITHOUT_REGEX))


# ---- trainings and record --------------------------------------------------------------------------------------------


def test_a_test_set_that_another_suite_wanted_is_not_collected(folders):
    finish(runs(COLLECTED)[0])
    suite = replace(COLLECTED, datasets=(replace(COLLECTED.datasets[0], test=False),))
    assert set(collect(survey(suite)).cases.part) == {"validation"}


@pytest.mark.parametrize(("there", "parts"), [([], 2), (["p9_t", "p9_u"], 2), (["p9_u"], 1)])
def test_a_case_that_was_taken_out_of_the_test_set_is_not_collected(folders, there, parts):
    """Where there is no test set, the results came from another machine, and all of them are collected."""
    run = runs(COLLECTED)[0]
    finish(run)
    hashes = {}
    for case in there:
        truth, prediction = folders / "nnUNet_raw" / CELLS / f"labelsTs/{case}.png", run.folder / f"test/{case}.png"
        for path in (truth, prediction):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        hashes[f"test/{case}.png"] = digest(prediction)
    write_json(run.training_receipt, json.loads(run.training_receipt.read_text()) | {"sha256": hashes})
    assert len(set(collect(survey(COLLECTED)).cases.part)) == parts


def test_collected_trainings_have_medians_hours_and_gigabytes(folders):
    first, second, *_ = runs(COLLECTED)
    finish(first, validation_seconds=3.0, peak_bytes_allocated=2**30, peak_bytes_reserved=3 * 2**29, compiled=False)
    finish(second)
    collected = collect(survey(COLLECTED))
    assert list(collected.trainings.columns) == TRAINING_COLUMNS
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
    assert collect(survey(COLLECTED)).trainings.cudnn_version.isna().all()


def test_only_trainings_with_both_receipts_are_collected(folders):
    first, second, third, *_ = runs(COLLECTED)
    for run in (first, second, third):
        finish(run)
    second.training_receipt.unlink()
    third.validation_receipt.unlink()
    collected = collect(survey(COLLECTED))
    assert len(collected.trainings) == 1 and set(collected.cases.trainer) == {REFERENCE}
    first.validation_receipt.unlink()
    with pytest.raises(UserError, match="No training of collected is done yet"):
        collect(survey(COLLECTED))


def test_measured_costs_are_collected_but_not_of_what_the_suite_no_longer_has(folders):
    finish(runs(COLLECTED)[0])
    others = [cost_row(CELLS, THIRD), cost_row(SKIN, OTHER), cost_row(CELLS, OTHER, configuration="3d_fullres")]
    others.append(cost_row(CELLS, OTHER, plans="nnUNetResEncUNetMPlans"))
    write_json(cost_file(COLLECTED), [cost_row(CELLS, OTHER), *others])
    assert collect(survey(COLLECTED)).costs.to_dict("records") == [cost_row(CELLS, OTHER)]


def test_record_describes_suite_datasets_machine_and_versions(folders):
    record = make_record(survey(COLLECTED), {CELLS: {"test": "groups"}})
    assert record.suite == COLLECTED and record.data(CELLS).cluster_regex == r"(p\d)_"
    assert record.datasets == {CELLS: DatasetRecord(1, "isic2018", {"test": "groups"}, {"resize": [8, 8]})}
    assert record.data(CELLS).tolerance == 2 and record.trainers_of(CELLS) == (REFERENCE, OTHER)
    assert record.versions["torch"] and record.versions["nnunetv2"] and record.versions["python"]
    assert record.machine.processor and record.machine.usable_cores >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.written)
    assert installed("no-such-package") is None


def test_record_of_a_dataset_without_raw_files_comes_from_the_preprocessed_one(folders):
    (folders / "nnUNet_preprocessed" / CELLS).mkdir()
    description = folders / "nnUNet_raw" / CELLS / "dataset.json"
    content = json.loads(description.read_text())
    description.unlink()
    write_json(folders / "nnUNet_preprocessed" / CELLS / "dataset.json", content | {"conversion": None})
    assert make_record(survey(COLLECTED), {}).datasets[CELLS].converter is None


def test_collected_results_become_a_report_that_is_verified(folders, quick, monkeypatch):
    for run in runs(COLLECTED)[:-1]:
        finish(run)
    monkeypatch.setattr(page, "collect", collect)
    page.write_report(survey(COLLECTED), folders / "report")
    assert page.verify(folders / "report") == []
    assert f"- {CELLS} 2d {OTHER} has 3/4 folds" in (folders / "report" / "results.md").read_text()
