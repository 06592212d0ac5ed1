"""Proves that a test set is predicted and measured as validation cases are, and never taken for whole if it is not."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import tiny_suite
from support.cell_datasets import LABELS
from support.finished_fold import erase, write_finished_fold, write_test_set
from support.tiny_suite import ONE_TRAINER

from nnunet_plugins.benchmark.jobs import training
from nnunet_plugins.benchmark.jobs.sources import sizes_and_hashes
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts, state_of
from nnunet_plugins.benchmark.jobs.training import predict_test_set, train
from nnunet_plugins.benchmark.jobs.validation import validate
from nnunet_plugins.benchmark.report.collection import collect
from nnunet_plugins.benchmark.runs import predictions, read_splits, runs
from nnunet_plugins.benchmark.suite import Data
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest

STOCK = "nnUNetTrainer"
WITH_TEST_SET = Data(LABELS, test=True)


@pytest.mark.parametrize("missing", ["imagesTs", "labelsTs"])
def test_a_test_set_that_is_not_whole_is_refused_before_training(run, monkeypatch, missing):
    write_test_set(run, ["case0"])
    shutil.rmtree(Path(os.environ["nnUNet_raw"], run.dataset, missing))
    monkeypatch.setattr(training, "train_and_predict", lambda *_: pytest.fail("it was trained"))
    suite = replace(ONE_TRAINER, datasets=(WITH_TEST_SET,))
    with pytest.raises(UserError, match=r"has no (image|segmentations).*: add (it|them), or leave out 'test' for data"):
        train(suite, runs(suite)[0])


def test_a_test_set_that_another_suite_has_predicted_stays_in_the_receipts(run):
    write_test_set(run, ["case0", "case1"])
    write_finished_fold(run)
    with_test = runs(replace(ONE_TRAINER, datasets=(WITH_TEST_SET,)))[0]
    shutil.copytree(Path(os.environ["nnUNet_raw"], run.dataset, "labelsTs"), run.folder / "test")
    train(ONE_TRAINER, run)
    validate(ONE_TRAINER, run)
    assert state_of(run).done and state_of(with_test).done

    first, second = sorted((run.folder / "test").iterdir())
    second.write_bytes(first.read_bytes())  # nnU-Net has no summary of it
    assert not state_of(run).trained and not state_of(with_test).done
    discard_stale_receipts(survey(ONE_TRAINER).states)
    assert not run.training_receipt.exists() and not second.exists()
    train(ONE_TRAINER, run)
    validate(ONE_TRAINER, run)
    assert state_of(run).done and not state_of(with_test).done


@pytest.mark.parametrize("change", ["more", "truth", "image"])
def test_a_test_set_that_has_changed_is_predicted_and_measured_again(run, monkeypatch, change):
    write_test_set(run, ["case0", "case1"])
    write_finished_fold(run)
    suite = replace(ONE_TRAINER, datasets=(WITH_TEST_SET,))
    run = runs(suite)[0]
    raw = Path(os.environ["nnUNet_raw"], run.dataset)

    class Predictor:
        """Predicts what is true."""

        def __init__(self, **_): ...
        def initialize_from_trained_model_folder(self, *_): ...
        def predict_from_files(self, images, output, **_):
            shutil.copytree(raw / "labelsTs", output)

    monkeypatch.setattr("nnunetv2.inference.predict_from_raw_data.nnUNetPredictor", Predictor)
    predict_test_set(suite, run, "test", None)
    train(suite, run)
    validate(suite, run)
    assert state_of(run).done
    match change:
        case "more":
            for kind, name in (("images", "case0_0000.png"), ("labels", "case0.png")):
                shutil.copyfile(raw / f"{kind}Ts" / name, raw / f"{kind}Ts" / name.replace("case0", "case7"))
        case "truth":
            erase(raw / "labelsTs/case1.png")
        case "image":
            with (raw / "imagesTs/case1_0000.png").open("ab") as file:
                file.write(b"0")
    sizes_and_hashes.cache_clear()
    assert not state_of(run).trained and state_of(runs(ONE_TRAINER)[0]).done
    discard_stale_receipts(survey(suite).states)
    assert not run.training_receipt.exists() and not run.validation_receipt.exists()
    monkeypatch.setattr(training, "train_and_predict", lambda suite, run: predict_test_set(suite, run, "test", None))
    train(suite, run)
    validate(suite, run)
    assert state_of(run).done
    (raw / "imagesTs/Thumbs.db").touch()
    for path in (raw / "imagesTs/case0_0000.png", raw / "labelsTs/case0.png"):  # as on a machine with some of the data
        path.unlink()
    sizes_and_hashes.cache_clear()
    assert state_of(run).done


def test_metrics_without_the_wanted_test_set_are_incomplete(run):
    write_test_set(run, ["case0"])
    write_finished_fold(run)
    train(ONE_TRAINER, run)
    validate(ONE_TRAINER, run)
    shutil.copytree(Path(os.environ["nnUNet_raw"], run.dataset, "labelsTs"), run.folder / "test")
    suite = replace(ONE_TRAINER, datasets=(WITH_TEST_SET,))
    run = runs(suite)[0]
    train(suite, run)
    assert state_of(run).trained and not state_of(run).done
    validate(suite, run)
    assert state_of(run).done


def test_a_test_set_of_the_validation_cases_has_their_scores_in_a_repetition_too(run, monkeypatch):
    write_test_set(run, read_splits(run)[0]["val"])
    suite = replace(
        ONE_TRAINER, trainers=(STOCK,), reference=STOCK, epochs=1, iterations=2, datasets=(WITH_TEST_SET,), repeats=2
    )
    found = survey(suite)
    run = next(run for run in found.runs if run.repeat == 2)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    train(suite, run)
    assert state_of(run).trained
    predicted = {case: digest(path) for case, path in predictions(run, "test").items()}
    assert predicted == {case: digest(path) for case, path in predictions(run, "validation").items()}

    next(iter(predictions(run, "test").values())).unlink()
    assert not state_of(run).trained
    train(suite, run)
    assert tiny_suite.epochs(run) == [[0]]  # only predicted again
    assert {case: digest(path) for case, path in predictions(run, "test").items()} == predicted

    validate(suite, run)
    cases = collect(found).cases
    parts = [cases[cases.part == part].drop(columns="part").reset_index(drop=True) for part in ("validation", "test")]
    assert len(parts[0]) == len(predicted) * 2
    assert set(parts[0].repeat) == {2}
    pd.testing.assert_frame_equal(*parts)
