"""Proves that a training goes on from what is there, refuses what has changed, and writes its receipt last."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.finished_fold import erase, first_prediction, write_finished_fold
from support.tiny_suite import ONE_TRAINER

from nnunet_plugins.benchmark.jobs import training
from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.sources import model_has_changed
from nnunet_plugins.benchmark.jobs.states import state_of
from nnunet_plugins.benchmark.runs import dataset_json, read_plans, read_splits, runs
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json, write_json
from nnunet_plugins.locks import is_locked


def test_a_finished_fold_only_gets_its_receipt(run, monkeypatch):
    write_finished_fold(run)
    monkeypatch.setattr(training, "train_and_predict", lambda *_: pytest.fail("it was trained again"))
    training.train(ONE_TRAINER, run)
    receipt = read_receipt(run.training_receipt)
    assert receipt["epoch_seconds"] == [1.5, 2.0]
    assert receipt["curves"]["val_losses"] == [0.5, None]
    validation = {f"validation/{case}.png" for case in read_splits(run)[0]["val"]}
    assert set(receipt["sha256"]) == {"checkpoint_final.pth", *validation}
    assert all(digest(run.folder / name) == sha for name, sha in receipt["sha256"].items())


@pytest.mark.parametrize(
    "missing",
    [
        lambda run: run.folder / "checkpoint_final.pth",
        lambda run: run.folder / "validation" / "summary.json",
        first_prediction,
    ],
)
def test_a_fold_that_lacks_something_is_trained(run, monkeypatch, missing):
    write_finished_fold(run)
    path = missing(run)
    content = path.read_bytes()
    path.unlink()
    trained = []

    def train_and_predict(suite, run):
        trained.append(run)
        assert not run.training_receipt.exists()
        path.write_bytes(content)
        training.note_measured(run, validation_seconds=1.0)

    monkeypatch.setattr(training, "train_and_predict", train_and_predict)
    training.train(ONE_TRAINER, run)
    assert trained == [run]
    assert read_receipt(run.training_receipt)["measured"] == {"validation_seconds": 1.0}


def test_measured_costs_outlive_the_receipt(run, monkeypatch):
    def train_and_predict(suite, run):
        training.note_measured(run, peak_bytes_allocated=5)
        write_finished_fold(run)
        training.note_measured(run, validation_seconds=1.0)

    monkeypatch.setattr(training, "train_and_predict", train_and_predict)
    training.train(ONE_TRAINER, run)
    run.training_receipt.unlink()  # as Snakemake does with a receipt whose job was not done when its driver was killed
    training.train(ONE_TRAINER, run)
    assert read_receipt(run.training_receipt)["measured"] == {"peak_bytes_allocated": 5, "validation_seconds": 1.0}


def test_a_training_that_fails_or_leaves_nothing_has_no_receipt(run, monkeypatch):
    def out_of_memory(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(training, "train_and_predict", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.train(ONE_TRAINER, run)
    monkeypatch.setattr(training, "train_and_predict", lambda *_: None)
    with pytest.raises(
        UserError, match=r"checkpoint_final.pth is not there after the training of Dataset901_Cells 2d A_2"
    ):
        training.train(ONE_TRAINER, run)
    assert not run.training_receipt.exists()
    assert not is_locked(run.folder / ".bench.lock")


def test_repetitions_train_in_their_own_folder_with_another_seed(run, monkeypatch):
    repeated = runs(replace(ONE_TRAINER, repeats=2))[-2]
    assert repeated.repeat == 2
    root, folder = os.environ["nnUNet_results"], repeated.folder
    monkeypatch.setenv(training.SEED_VARIABLE, "41")

    def train_and_predict(suite, run):
        assert os.environ["nnUNet_results"] == str(Path(root, "repeat_2"))
        assert os.environ[training.SEED_VARIABLE] == "42"
        assert run.folder == folder
        write_finished_fold(run)

    monkeypatch.setattr(training, "train_and_predict", train_and_predict)
    training.train(ONE_TRAINER, repeated)
    assert (folder / "bench_train.json").exists()
    assert not Path(root, "repeat_2", "repeat_2").exists()


def test_a_model_trained_with_changed_plans_is_refused(run):
    plans = read_plans(run)
    write_json(run.model / "plans.json", plans | {"continue_training": True})
    training.refuse_changed_model(run)
    plans["configurations"]["2d"]["batch_size"] += 1
    write_json(run.model / "plans.json", plans)
    with pytest.raises(UserError, match="was trained with other plans than the dataset has now: move that folder away"):
        training.train(ONE_TRAINER, run)
    assert not run.training_receipt.exists()


def test_further_configurations_in_the_plans_leave_a_model_as_it_is(run):
    """nnU-Net recommends them for trying another batch or patch."""
    plans = read_plans(run)
    write_json(run.model / "plans.json", plans)
    own = plans["configurations"][run.configuration]
    write_json(run.plans_file, plans | {"configurations": {"2d": {"inherits_from": "base"}, "base": own, "other": {}}})
    assert model_has_changed(run)  # another way to say the same is another configuration
    write_json(run.model / "plans.json", read_json(run.plans_file))
    write_json(run.plans_file, read_plans(run) | {"configurations": {"2d": {"inherits_from": "base"}, "base": own}})
    assert not model_has_changed(run)
    changed = {"2d": {"inherits_from": "base"}, "base": own | {"batch_size": 99}}
    write_json(run.plans_file, read_plans(run) | {"configurations": changed})
    assert model_has_changed(run)


@pytest.mark.parametrize("key", ["labels", "channel_names", "regions_class_order"])
def test_a_model_trained_with_other_channels_or_labels_is_refused(run, key):
    write_json(run.model / "plans.json", read_plans(run))
    write_json(run.model / "dataset.json", dataset_json(run) | {"numTraining": 999})
    training.refuse_changed_model(run)
    write_json(run.model / "dataset.json", dataset_json(run) | {key: {"background": 0, "other": 1}})
    with pytest.raises(
        UserError, match="was trained with other channels or labels than the dataset has now: move that"
    ):
        training.train(ONE_TRAINER, run)


@pytest.mark.parametrize("change", ["split", "labels"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_fold_trained_with_changed_cases_or_labels_is_refused(run, monkeypatch, change, by_hand):
    write_finished_fold(run)
    if not by_hand:
        training.train(ONE_TRAINER, run)
        assert state_of(run).trained
    if change == "split":
        splits = read_splits(run)
        splits[0]["val"].append(splits[0]["train"].pop())
        write_json(run.splits_file, splits)
    else:
        erase(Path(os.environ["nnUNet_raw"], run.dataset, "labelsTr", "case0.png"))
    if by_hand and change == "labels":
        training.train(ONE_TRAINER, run)  # nobody knows what it was trained with
        return
    assert not state_of(run).trained
    monkeypatch.setattr(training, "train_and_predict", lambda *_: pytest.fail("it was trained"))
    run.training_receipt.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"was trained with other cases than splits_final.json gives it now, or with"):
        training.train(ONE_TRAINER, run)
    assert not run.training_receipt.exists()


def test_predictions_of_an_earlier_model_are_removed_before_training(run, monkeypatch):
    """If killed before its validation, a new training would otherwise find them when it goes on."""
    write_finished_fold(run)
    (run.folder / "checkpoint_final.pth").unlink()

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.run_training", killed)
    suite = replace(ONE_TRAINER, trainers=("nnUNetTrainer",), reference="nnUNetTrainer")
    stock = runs(suite)[0]
    shutil.copytree(run.folder, stock.folder)
    with pytest.raises(KeyboardInterrupt):
        training.train(suite, stock)
    assert not (stock.folder / "validation").exists()


def test_checkpoints_that_were_being_written_are_set_aside(tmp_path, capsys):
    for name in training.CHECKPOINTS:
        torch.save({"network_weights": torch.arange(1000), "name": name}, tmp_path / name)
    latest = tmp_path / "checkpoint_latest.pth"
    whole = latest.read_bytes()
    for half in (whole[: len(whole) // 2], b"", whole[:-1]):
        latest.write_bytes(half)
        training.set_aside_unreadable_checkpoints(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "checkpoint_best.pth",
            "checkpoint_final.pth",
            "checkpoint_latest.pth.unreadable",
        ]
        assert "checkpoint_latest.pth is half written" in capsys.readouterr().out
    training.set_aside_unreadable_checkpoints(tmp_path / "new")
    assert (tmp_path / "checkpoint_latest.pth.unreadable").read_bytes() == whole[:-1]


NOT_FOUND_AT_FIRST = """Trainer 'A' not found in nnunetv2.training.nnUNetTrainer.
Searching in external trainer paths from environment variable 'nnUNet_extTrainer'...
Searching in: /home/user/trainers
Searching for class A in folder /home/user/trainers with current module None
  Inspecting module: a
Found class A in a
Using trainer 'A' from: /home/user/trainers"""


def test_the_log_leaves_out_the_search_for_a_trainer_and_nothing_else(capsys):
    with pytest.raises(RuntimeError), training.without_search():
        print(NOT_FOUND_AT_FIRST, "Using device: cpu", "  Skipping module b: not importable", sep="\n")
        raise RuntimeError
    assert capsys.readouterr().out == "Using device: cpu\n  Skipping module b: not importable\n"
