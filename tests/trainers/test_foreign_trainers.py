"""Proves: trainers of another package can have our lengths and early stopping, train, predict, and be in a suite."""

import os
from inspect import getattr_static
from pathlib import Path

import pytest
import torch
from support import tiny_suite
from support.cell_datasets import LABELS, VOLUMES, make_trainer
from support.foreign_package import write_foreign_package

from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.benchmark.checks import faults_of
from nnunet_plugins.benchmark.jobs.preparation import write_missing_splits
from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.states import state_of
from nnunet_plugins.benchmark.jobs.training import train
from nnunet_plugins.benchmark.jobs.validation import validate
from nnunet_plugins.benchmark.runs import read_splits, runs
from nnunet_plugins.benchmark.suite import BadSuite, read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.early_stopping import EarlyStopping


@pytest.fixture(params=["before", "after"])
def foreign(tmp_path_factory, monkeypatch, request):
    """The other package's folder, before or after ours on nnU-Net's search path."""
    folder = write_foreign_package(tmp_path_factory.mktemp("foreign"))
    entries = [str(folder), DISCOVERY_FOLDER]
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(entries if request.param == "before" else entries[::-1]))
    return folder


def test_lengths_and_early_stopping_are_added_to_their_trainer_and_nothing_else(foreign, results):
    plain = make_trainer("TheirTrainer", LABELS)
    trainer = make_trainer("TheirTrainer_earlyStop2_3epochs_7iterations", LABELS)
    assert isinstance(trainer, EarlyStopping) and trainer.early_stopping_patience == 2
    lengths = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
    assert [getattr(trainer, name) for name in lengths] == [3, 7, 2]
    assert (trainer.initial_lr, plain.initial_lr, plain.num_epochs) == (1e-3, 1e-3, 400)
    assert getattr_static(type(trainer), "_build_loss").__code__ == getattr_static(type(plain), "_build_loss").__code__
    assert make_trainer("TheirTrainer_slow_5epochs", LABELS).num_epochs == 5


def test_their_trainer_of_another_length_trains_continues_and_predicts(foreign, results):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = make_trainer("TheirTrainer_1epoch_1iterations", LABELS)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    assert folder.parent.name == "TheirTrainer_1epoch_1iterations__nnUNetPlans__2d"
    again = make_trainer("TheirTrainer_1epoch_1iterations", LABELS)
    again.load_checkpoint(str(folder / "checkpoint_final.pth"))
    assert again.current_epoch == 1
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder.parent), (0,), "checkpoint_final.pth")
    ours, theirs = trainer.network.state_dict(), predictor.network.state_dict()
    assert ours.keys() == theirs.keys()


def test_imagenet_weights_for_volumes_are_refused_of_a_subclass_too(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from nnunet_plugins.trainers.dcffsnet import DCFFSNetTrainer\nclass MyNetTrainer(DCFFSNetTrainer):\n    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), DISCOVERY_FOLDER]))
    assert find_trainer("MyNetTrainer_pretrained").supported_dimensions == (2,)
    with pytest.raises(UserError, match=r"MyNetTrainer_pretrained works in 2D only.* or leave out _pretrained"):
        make_trainer("MyNetTrainer_pretrained", VOLUMES, configuration="3d_fullres")


def test_a_suite_may_name_their_trainer(foreign, planned, tmp_path):
    path = tiny_suite.write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer", "TheirTrainer"), f"{{ id = {LABELS} }}")
    faults_of(survey(read_suite(path)), path).end_command()
    path = tiny_suite.write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer", "TheirTrayner"), f"{{ id = {LABELS} }}")
    with pytest.raises(BadSuite, match="trainers = 'TheirTrayner': nnU-Net finds no such trainer"):
        faults_of(survey(read_suite(path)), path).end_command()


def test_the_steps_of_a_suite_train_and_measure_their_trainer(foreign, planned, results):
    trainers = ("nnUNetTrainer", "TheirTrainer")
    path = tiny_suite.write_suite(results / "tiny.toml", trainers, f"{{ id = {LABELS} }}", epochs=1, folds=(0,))
    suite = read_suite(path)
    _, theirs = runs(suite)
    assert theirs.trainer_name == "TheirTrainer_1epoch_2iterations"
    write_missing_splits(theirs)
    train(suite, theirs)
    validate(suite, theirs)
    assert len(read_receipt(theirs.training_receipt, "curves")["curves"]["train_losses"]) == 1
    assert state_of(theirs).done
    assert {case for case, _ in tiny_suite.our_dice(theirs)} == set(read_splits(theirs)[0]["val"])
