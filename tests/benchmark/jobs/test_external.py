"""Proves that another dataset's test set is predicted and measured, and refused if it does not fit."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.cell_datasets import LABELS
from support.finished_fold import write_finished_fold
from support.tiny_suite import ONE_TRAINER

from nnunet_plugins.benchmark.checks import check_test_sets
from nnunet_plugins.benchmark.jobs import training
from nnunet_plugins.benchmark.jobs.disk import bytes_of_predictions
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts, state_of
from nnunet_plugins.benchmark.jobs.training import train
from nnunet_plugins.benchmark.jobs.validation import validate
from nnunet_plugins.benchmark.progress import num_predicted, unpredicted_test_set
from nnunet_plugins.benchmark.report.collection import collect
from nnunet_plugins.benchmark.report.record import from_json
from nnunet_plugins.benchmark.runs import Run, images_folder, references, runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError

OTHER = "Dataset777_Elsewhere"
PART = f"external_{OTHER}"
SUITE = replace(ONE_TRAINER, datasets=(Data(LABELS, external=777),))


@pytest.fixture
def elsewhere(run) -> Path:
    """The raw folder of another dataset of the same kind, with a test set of two cases and no training cases."""
    ours, folder = (Path(os.environ["nnUNet_raw"], name) for name in (run.dataset, OTHER))
    for source, target in (("imagesTr", "imagesTs"), ("labelsTr", "labelsTs")):
        (folder / target).mkdir(parents=True)
        for case in ("case0", "case1"):
            for path in (ours / source).glob(f"{case}[_.]*"):
                shutil.copyfile(path, folder / target / path.name.replace("case", "other"))
    shutil.copyfile(ours / "dataset.json", folder / "dataset.json")
    yield folder
    shutil.rmtree(folder)


def with_external(suite: Suite = SUITE) -> Run:
    return runs(suite)[0]


def predict_perfectly(run: Run) -> None:
    shutil.copytree(images_folder(run, PART).with_name("labelsTs"), run.folder / PART)


def test_parts_and_files_are_those_of_the_other_dataset(elsewhere):
    run = with_external()
    assert run.parts == ["validation", PART]
    assert images_folder(run, PART) == elsewhere / "imagesTs"
    assert list(references(run, PART)) == ["other0", "other1"]
    assert {path.parent for path in references(run, PART).values()} == {elsewhere / "labelsTs"}
    (run.folder / f"{PART}.partial").mkdir(parents=True)
    assert (unpredicted_test_set(run), num_predicted(run, PART)) == (PART, (0, 2))


def test_the_disk_it_takes_is_told(run, elsewhere):
    labels = sum(path.stat().st_size for path in (elsewhere / "labelsTs").iterdir())
    assert bytes_of_predictions(with_external()) == bytes_of_predictions(run) + labels


def test_a_finished_fold_is_only_predicted_and_its_cases_are_a_part_of_the_report(run, elsewhere, monkeypatch):
    write_finished_fold(run)
    train(ONE_TRAINER, run)
    validate(ONE_TRAINER, run)
    external = with_external()
    assert state_of(run).done and not state_of(external).trained
    monkeypatch.setattr(training, "train_and_predict", lambda suite, run: predict_perfectly(run))
    train(SUITE, external)
    validate(SUITE, external)
    assert state_of(external).done and state_of(run).done
    assert unpredicted_test_set(external) is None

    cases = collect(survey(SUITE)).cases
    zero_shot = cases[cases.part == PART]
    assert set(zero_shot.case) == {"other0", "other1"} and set(zero_shot.Dice.dropna()) == {1.0}
    assert set(cases.part) == {"validation", PART}
    assert set(collect(survey(ONE_TRAINER)).cases.part) == {"validation"}  # a suite without it does not report it


def test_it_stays_in_the_receipts_of_suites_without_it_and_a_changed_prediction_is_found(run, elsewhere):
    write_finished_fold(run)
    external = with_external()
    predict_perfectly(external)
    train(ONE_TRAINER, run)
    validate(ONE_TRAINER, run)
    assert state_of(run).done and state_of(external).done
    first, second = sorted((run.folder / PART).iterdir())
    second.write_bytes(first.read_bytes())
    assert not state_of(run).trained
    discard_stale_receipts(survey(SUITE).states)
    assert not second.exists() and first.exists()


def test_record_and_old_records_have_it_only_where_it_is_used(run, elsewhere):
    write_finished_fold(run)
    predict_perfectly(with_external())
    train(SUITE, with_external())
    validate(SUITE, with_external())
    with_it, without = (json.loads(collect(survey(suite)).record.to_json()) for suite in (SUITE, ONE_TRAINER))
    assert with_it["suite"]["datasets"][0]["external"] == 777
    assert "external" not in without["suite"]["datasets"][0]
    assert (from_json(with_it).suite, from_json(without).suite) == (SUITE, ONE_TRAINER)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("channel_names", {"0": "CT"}, "its channel_names is {'0': 'CT'}, not {"),
        ("labels", {"background": 0, "cell": 1}, "its labels is {'background': 0, 'cell': 1}, not {"),
        ("file_ending", ".tif", "its file_ending is .tif, not .png"),
        ("regions_class_order", [1, 2], "its regions_class_order is [1, 2], not None"),
    ],
)
def test_another_kind_of_images_is_refused(elsewhere, key, value, told):
    path = elsewhere / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError) as error:
        check_test_sets(with_external())
    message = str(error.value)
    assert message.startswith(f"{OTHER} cannot test models of {with_external().dataset}: {told}")
    assert message.endswith(f"or leave out 'external' for dataset {LABELS}")


@pytest.mark.parametrize("missing", ["imagesTs", "labelsTs"])
def test_files_that_are_not_there_are_named_before_training(elsewhere, monkeypatch, missing):
    shutil.rmtree(elsewhere / missing)
    monkeypatch.setattr(training, "train_and_predict", lambda *_: pytest.fail("it was trained"))
    message = rf"{OTHER}/labelsTs.* has no (image|segmentations).*: add (it|them), or leave out 'external' for dataset"
    with pytest.raises(UserError, match=message):
        train(SUITE, with_external())


def test_a_dataset_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match=r"There is no dataset 777 in .*: convert it first"):
        runs(SUITE)
