"""Proves: both stages of ConDSeg run in one training, at the paper's rates, whatever interrupts it, and do not mix."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support import cell_datasets
from support.narrow import NETWORK_KWARGS
from torch import nn

from nnunet_plugins.architectures import Net0
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import condseg, find_trainer

HALF = 0.5**0.9  # nnU-Net's polynomial decay after half of the epochs

pytestmark = pytest.mark.usefixtures("narrow")

PLANS = {
    "dataset_name": "Dataset901_Cells",
    "plans_name": "nnUNetPlans",
    "label_manager": "LabelManager",
    "image_reader_writer": "NaturalImage2DIO",
    "configurations": {
        "2d": {
            "batch_size": 2,
            "batch_dice": True,
            "data_identifier": "nnUNetPlans_2d",
            "architecture": {"arch_kwargs": {"strides": [[1, 1]]}},
            "patch_size": [32, 32],
            "normalization_schemes": ["ZScoreNormalization"] * 3,
            "spacing": [1.0, 1.0],
        }
    },
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """``make(name)``: a trainer with a narrow network and without data."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    preprocessed = tmp_path / "nnUNet_preprocessed" / PLANS["dataset_name"] / "nnUNetPlans_2d"
    preprocessed.mkdir(parents=True)
    (preprocessed / "case0.npz").touch()  # nnU-Net looks for the kind of files

    def trainer(name="ConDSegTrainer", initialize=True, channels=3):
        dataset_json = {
            "labels": {"background": 0, "polyp": 1},
            "channel_names": {str(channel): "R" for channel in range(channels)},
        }
        plans = PLANS | {"continue_training": False}
        made = find_trainer(name)(plans, "2d", 0, dataset_json, torch.device("cpu"))
        if initialize:
            made.initialize()
        return made

    return trainer


def random_batch(trainer, size=2):
    target = torch.randint(0, 2, (size, 1, 32, 32), dtype=torch.int16)
    images = torch.randn(size, trainer.num_input_channels, 32, 32)
    return {"data": images, "target": [target] if trainer.enable_deep_supervision else target}


def begin(trainer, epoch):
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()


def parameters_of(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_the_second_view_keeps_what_a_cascade_adds_to_the_image(make, monkeypatch):
    """The segmentation of the low resolution is no image: it has no brightness."""
    trainer = make("ConDSegNet0Trainer", channels=3)
    trainer.configuration_manager.configuration["normalization_schemes"] = ["ZScoreNormalization"]
    seen = []
    step = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.train_step"
    monkeypatch.setattr(step, lambda trainer, batch: seen.append(batch) or {"loss": 0.0})
    images = torch.randn(2, 3, 32, 32)
    trainer.train_step({"data": images})
    first, second = seen[0]["data"].unbind(1)
    assert torch.equal(first, images) and torch.equal(second[:, 1:], images[:, 1:])
    assert not torch.allclose(second[:, :1], images[:, :1], atol=1e-3)


# ---- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_epochs", "stage_1"), [(1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (10, 2), (35, 7), (1000, 200)]
)
def test_stage_1_is_the_first_fifth_of_the_epochs(make, num_epochs, stage_1):
    trainer = make(f"ConDSegTrainer_{num_epochs}epoch{'s' if num_epochs > 1 else ''}", initialize=False)
    stages = []
    for trainer.current_epoch in range(num_epochs):
        stages.append(trainer.stage)
    assert stages == [1] * stage_1 + [2] * (num_epochs - stage_1)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("ConDSegTrainer", {0: (1e-4, 1e-4), 199: (1e-4, 1e-4), 200: (1e-5, 1e-4), 600: (1e-5 * HALF, 1e-4 * HALF)}),
        ("ConDSegTrainer_woCR", {199: (1e-4, 1e-4), 200: (1e-5, 1e-4), 600: (1e-5 * HALF, 1e-4 * HALF)}),
        ("ConDSegTrainer_oneStage", {0: (1e-4, 1e-4), 500: (1e-4 * HALF, 1e-4 * HALF)}),
        ("ConDSegTrainer_constantRate", {199: (1e-4, 1e-4), 200: (1e-5, 1e-4), 999: (1e-5, 1e-4)}),
    ],
)
def test_learning_rates_of_encoder_and_rest(make, name, rates):
    trainer = make(name)
    assert type(trainer.optimizer) is torch.optim.Adam
    for epoch, expected in rates.items():
        begin(trainer, epoch)
        assert tuple(group["lr"] for group in trainer.optimizer.param_groups) == pytest.approx(expected)
        assert trainer.network.stage == trainer.stage
    log = Path(trainer.log_file).read_text()
    encoder_lr, lr = rates[max(rates)]
    assert f"stage {trainer.stage}: learning rate {encoder_lr:g} for the encoder, {lr:g} for the rest" in log


def test_the_groups_are_encoder_and_rest_in_every_stage(make):
    trainer = make()
    encoder, rest = ({id(p) for p in group["params"]} for group in trainer.optimizer.param_groups)
    assert encoder == {id(p) for p in trainer.network.net0.encoder.parameters()}
    assert encoder | rest == {id(p) for p in trainer.network.parameters()} and not encoder & rest


def test_stage_1_trains_net0_alone_and_stage_2_all_but_its_head(make):
    trainer = make("ConDSegTrainer_10epochs")
    network = trainer.network
    others = [child for child in network.children() if child is not network.net0]
    begin(trainer, 0)
    before = parameters_of(network.net0.encoder), parameters_of(nn.ModuleList(others)), parameters_of(network.net0.head)
    trainer.train_step(random_batch(trainer))
    assert not torch.equal(parameters_of(network.net0.encoder), before[0])
    assert torch.equal(parameters_of(nn.ModuleList(others)), before[1])
    assert not torch.equal(parameters_of(network.net0.head), before[2])
    begin(trainer, 2)
    head, rest = parameters_of(network.net0.head), parameters_of(nn.ModuleList(others))
    trainer.train_step(random_batch(trainer))
    assert torch.equal(parameters_of(network.net0.head), head)
    assert not torch.equal(parameters_of(nn.ModuleList(others)), rest)


def test_adam_does_not_leap_when_the_second_stage_begins(make):
    trainer = make("ConDSegTrainer_10epochs")
    for epoch in (0, 1):
        begin(trainer, epoch)
        for _ in range(10):
            trainer.train_step(random_batch(trainer))
    begin(trainer, 2)
    before = parameters_of(trainer.network)
    steps = 3
    for _ in range(steps):
        trainer.train_step(random_batch(trainer))
    longest = (parameters_of(trainer.network) - before).abs().max().item()
    assert 0 < longest <= steps * 1e-4 * 1.01


def test_the_best_checkpoint_forgets_stage_1(make, monkeypatch):
    trainer = make("ConDSegTrainer_5epochs")
    trainer.disable_checkpointing = True
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda folder: None)
    averages = []
    for epoch, dice in enumerate((0.9, 0.1, 0.3)):  # stage 1, then twice stage 2
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([{"loss": np.array(1.0)}])
        tp = 1000 * dice
        counts = {
            key: np.array([value]) for key, value in (("tp_hard", tp), ("fp_hard", 1000 - tp), ("fn_hard", 1000 - tp))
        }
        trainer.on_validation_epoch_end([counts | {"loss": np.array(1.0)}])
        trainer.on_epoch_end()
        averages.append(trainer.logger.get_value("ema_fg_dice", step=-1))
        assert trainer._best_ema == averages[-1]  # every one of them the best of its stage so far
    assert averages == pytest.approx([0.9, 0.1, 0.9 * 0.1 + 0.1 * 0.3])


# ---- consistency reinforcement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "epoch", "views"),
    [
        ("ConDSegTrainer_5epochs", 0, 2),
        ("ConDSegTrainer_5epochs", 1, 1),
        ("ConDSegTrainer_woCR_5epochs", 0, 1),
        ("ConDSegTrainer_oneStage_5epochs", 0, 1),
        ("ConDSegNet0Trainer_5epochs", 4, 2),
        ("ConDSegNet0Trainer_woCR_5epochs", 0, 1),
    ],
)
def test_augmented_views_go_beside_the_images_in_stage_1_alone(make, name, epoch, views):
    trainer = make(name)
    begin(trainer, epoch)
    seen = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = random_batch(trainer)
    trainer.train_step(batch)
    assert set(trainer.loss.mean_terms()) >= ({"mask1", "mask2", "cons"} if views == 2 else {"mask"})
    if views == 2:
        assert torch.equal(seen[0][:, 0], batch["data"])
        assert seen[0].shape[1] == 2 and not torch.equal(seen[0][:, 1], batch["data"])
    else:
        assert seen[0] is batch["data"]
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(batch)
    assert seen[-1] is batch["data"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_views_repeat_under_a_seed(make, monkeypatch, channels):
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "3")
    views = []
    for epoch in (0, 0, 1):
        trainer = make("ConDSegTrainer_10epochs", channels=channels)
        trainer.network.register_forward_pre_hook(lambda module, inputs: views.append(inputs[0][:, 1]))
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        batch = random_batch(trainer)
        batch["data"] = torch.linspace(-1, 1, batch["data"].numel()).view_as(batch["data"])
        trainer.train_step(batch)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


@pytest.mark.parametrize("epoch", [0, 4])
def test_online_validation_judges_the_head_of_the_stage(make, epoch):
    trainer = make("ConDSegTrainer_5epochs")
    begin(trainer, epoch)
    network = trainer.network.eval()
    batch = random_batch(trainer)
    with torch.no_grad():
        logits = network.net0(batch["data"]) if epoch == 0 else network.segment(batch["data"])[0]
        judged = trainer.validation_step(batch)
    predicted, target = logits.argmax(1, keepdim=True), batch["target"][0]
    assert judged["tp_hard"] == [(predicted * target).sum()]
    assert judged["fp_hard"] == [(predicted * (1 - target)).sum()]


def test_batch_dice_is_the_plans_choice(make, monkeypatch):
    for batch_dice in (True, False):
        monkeypatch.setitem(PLANS["configurations"]["2d"], "batch_dice", batch_dice)
        assert make().loss.batch_dice is batch_dice


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_pretrained_encoder_is_timms(make, tmp_path, monkeypatch):
    backbone = NETWORK_KWARGS["ConDSegNet0Trainer"]["backbone"]
    weights = timm.create_model(backbone, pretrained=False).state_dict()
    torch.save(weights, tmp_path / f"{backbone}.pth")
    monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(tmp_path))
    trainer = make("ConDSegTrainer_pretrained")
    for key, value in trainer.network.net0.encoder.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.fixture
def stage_1_checkpoint(make, tmp_path, monkeypatch):
    """``stage_1_checkpoint(name)``: the checkpoint of a training of that name, as ``$NNUNET_PLUGINS_STAGE1``."""

    def save(name):
        trainer = make(name)
        path = tmp_path / f"{name}.pth"
        torch.save({"network_weights": trainer.network.state_dict()}, path)
        monkeypatch.setenv("NNUNET_PLUGINS_STAGE1", str(path))
        network = trainer.network
        return (network if isinstance(network, Net0) else network.net0).encoder.state_dict()

    return save


@pytest.mark.parametrize("name", ["ConDSegNet0Trainer", "ConDSegTrainer"])
def test_stage_2_starts_from_the_encoder_of_any_condseg_training(make, stage_1_checkpoint, name):
    expected = stage_1_checkpoint(name)
    trainer = make("ConDSegTrainer_stage2")
    loaded = trainer.network.net0.encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    begin(trainer, 0)
    assert trainer.stage == 2
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-5, 1e-4]


def test_stage_2_without_a_stage_1_is_refused(make, monkeypatch):
    monkeypatch.delenv("NNUNET_PLUGINS_STAGE1", raising=False)
    with pytest.raises(UserError, match="NNUNET_PLUGINS_STAGE1 is not set"):
        make("ConDSegTrainer_stage2")


def test_a_file_that_is_no_stage_1_is_named(make, stage_1_checkpoint, tmp_path, monkeypatch):
    stage_1_checkpoint("ConDSegNet0Trainer")
    with pytest.raises(UserError, match=r"ConDSegNet0Trainer\.pth does not fit: expected .* as many channels"):
        make("ConDSegTrainer_stage2", channels=1)
    for content, message in (
        (None, "there is no such file"),
        (b"no checkpoint", "cannot be read as weights alone"),
        ({"state_dict": {}}, "is no checkpoint of nnU-Net"),
        ({"network_weights": [torch.zeros(1)]}, "is no checkpoint of nnU-Net"),
        ({"network_weights": {"encoder.stages.0": torch.zeros(1)}}, "does not fit"),
        ({"network_weights": {"weight": "text"}}, "does not fit"),
    ):
        path = tmp_path / "wrong.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        monkeypatch.setenv("NNUNET_PLUGINS_STAGE1", str(path))
        with pytest.raises(UserError, match=f"wrong.pth.* {message}"):
            condseg.load_stage_1_encoder(nn.Conv2d(1, 1, 1))
