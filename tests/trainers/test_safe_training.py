"""Proves: what the user can put right ends a training with one sentence, and no folder is left for nothing."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from support.cell_datasets import LABELS, dataset_name, load_dataset_json, load_plans, make_trainer

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import find_trainer

pytestmark = pytest.mark.usefixtures("results", "narrow")

TRAINERS = (
    "DLKUNetSTrainer_3epochs_1iterations",
    "DRGOTrainer_3epochs_1iterations",
    "nnUNetTrainer_3epochs_1iterations",
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_gpu_that_is_not_there_is_told_before_a_folder_is_made(name, results, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plans = load_plans(LABELS) | {"continue_training": False}
    with pytest.raises(UserError, match=r"-device cuda: torch .* finds no such GPU; .* or train with -device cpu"):
        find_trainer(name)(plans, "2d", 0, load_dataset_json(LABELS), torch.device("cuda"))
    assert not list(results.iterdir())


@pytest.mark.parametrize("name", TRAINERS)
def test_a_folder_for_results_that_is_not_named_is_told(name, monkeypatch):
    plans = load_plans(LABELS) | {"continue_training": False}
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match=r"nnUNet_results is not set: .* export nnUNet_results="):
        find_trainer(name)(plans, "2d", 0, load_dataset_json(LABELS), torch.device("cpu"))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_configuration_that_is_not_planned_is_told_before_a_folder_is_made(name, results):
    plans = load_plans(LABELS) | {"continue_training": False}
    planned = ", ".join(plans["configurations"])
    with pytest.raises(UserError, match=f"Configuration 3d_fulres is not in the plans .* which have {planned}: train"):
        find_trainer(name)(plans, "3d_fulres", 0, load_dataset_json(LABELS), torch.device("cpu"))
    assert not list(results.iterdir())


@pytest.mark.parametrize("name", TRAINERS)
def test_a_read_only_folder_is_told_before_anything_else(name, results, monkeypatch):
    """The suite may run as root, for whom no folder is read-only."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != results or not mode & os.W_OK)
    with pytest.raises(UserError, match=f"{results} is read-only: the training has nowhere to write"):
        make_trainer(name, LABELS)
    assert not list(results.iterdir())


@pytest.mark.parametrize("name", TRAINERS)
def test_ctrl_c_tells_how_to_go_on(name, monkeypatch, capsys):
    trainer = make_trainer(name, LABELS)
    on_train_epoch_start = trainer.on_train_epoch_start

    def interrupted():
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        on_train_epoch_start()

    monkeypatch.setattr(trainer, "on_train_epoch_start", interrupted)
    with pytest.raises(KeyboardInterrupt) as ended:  # for callers that handle it, such as the benchmark
        trainer.run_training()
    assert isinstance(ended.value, SystemExit)  # no traceback
    assert ended.value.code == 130
    sentence = (
        "Stopped by Ctrl-C in epoch 1: the same command with --c goes on from checkpoint_best.pth (after epoch 0)."
    )
    assert sentence in capsys.readouterr().out
    assert sentence in Path(trainer.log_file).read_text()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", TRAINERS[1:])
def test_a_damaged_preprocessed_case_is_named(name, workers, planned, tmp_path, monkeypatch):
    preprocessed = tmp_path / "preprocessed"
    monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
    shutil.copytree(planned / "nnUNet_preprocessed" / dataset_name(LABELS), preprocessed / dataset_name(LABELS))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    trainer = make_trainer(name, LABELS)
    damaged = trainer.do_split()[0][2]
    for case in trainer.do_split()[0]:
        path = Path(trainer.preprocessed_dataset_folder, f"{case}.b2nd")
        if case == damaged:
            path.write_bytes(path.read_bytes()[:100])
    trainer.num_iterations_per_epoch = 50  # so many that it is drawn
    with pytest.raises(UserError, match=f"The preprocessed case {damaged} in .* cannot be read"):
        trainer.run_training()
    assert "Traceback" in Path(trainer.log_file).read_text()


def test_what_a_cascade_or_its_folds_lack_is_told_and_no_case_is_blamed(planned, tmp_path):
    trainer = make_trainer(TRAINERS[1], LABELS)
    trainer.dataset_class = infer_dataset_class(trainer.preprocessed_dataset_folder)
    assert trainer.about_damaged_case() == ""
    case = trainer.do_split()[0][0]
    trainer.folder_with_segs_from_previous_stage = str(tmp_path)
    trainer.configuration_manager.configuration["previous_stage"] = "3d_lowres"
    sentence = trainer.about_damaged_case()
    assert f"The prediction of {case} by the cascade's first stage in {tmp_path} cannot be read" in sentence
    assert "train all folds of 3d_lowres with the same -tr and -p first" in sentence and "remove" not in sentence
    trainer.do_split = lambda: (["gone"], [])
    assert trainer.about_damaged_case().startswith("The folds in splits_final.json name the case gone, which is not in")


def test_errors_of_others_stay_as_they_are_and_their_traceback_is_in_the_log(monkeypatch):
    trainer = make_trainer(TRAINERS[0], LABELS)

    def broken(batch):
        raise ZeroDivisionError("of another's")

    monkeypatch.setattr(trainer, "train_step", broken)
    with pytest.raises(ZeroDivisionError, match="of another's"):
        trainer.run_training()
    assert "ZeroDivisionError: of another's" in Path(trainer.log_file).read_text()
