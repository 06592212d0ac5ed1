"""Proves for the base classes: class attributes, schedules, parameter groups, seeds, refusals and the default loss."""

import pytest
import timm
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support import cell_datasets
from torch import nn

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.base import BaseTrainer, PluginTrainer, seed_from_environment
from nnunet_plugins.trainers.schedules import EpochSchedule


class TinyNetwork(nn.Module):
    """The least network that keeps the contract."""

    def __init__(self, in_channels, num_classes, deep_supervision, *, channels=4, kernel_size=3):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = nn.Conv2d(in_channels, channels, kernel_size, padding="same")
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        logits = self.head(self.encoder(x).relu())
        return (logits,) if self.deep_supervision else logits


class TinyTrainer(PluginTrainer):
    """The least trainer: two learning rates, numbers of its own, and the default optimiser and loss."""

    initial_lr = 0.1
    weight_decay = 0.5
    num_epochs = 4
    supported_dimensions = (2,)

    @classmethod
    def build_network(cls, in_channels, num_classes, plan, deep_supervision):
        return TinyNetwork(in_channels, num_classes, deep_supervision, **cls.network_options())

    def parameter_groups(self):
        network = self.bare_network
        return [
            {"params": list(network.encoder.parameters()), "lr": 0.1 * self.initial_lr},
            {"params": list(network.head.parameters()), "lr": self.initial_lr},
        ]


def configuration(**values) -> dict:
    return {"batch_size": 2, "batch_dice": True, "data_identifier": "nnUNetPlans_2d", "architecture": {}} | values


PLANS = {
    "dataset_name": "Dataset901_Cells",
    "plans_name": "nnUNetPlans",
    "label_manager": "LabelManager",
    "configurations": {
        "2d": configuration(patch_size=[32, 32]),
        "3d_fullres": configuration(patch_size=[32, 32, 32]),
        "3d_again": {"inherits_from": "3d_fullres"},
    },
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer without data: enough for everything but training."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)

    def trainer(labels=None, configuration="2d"):
        dataset_json = {"labels": labels or {"background": 0, "a": 1}, "channel_names": {"0": "R"}}
        if any(isinstance(label, list) for label in dataset_json["labels"].values()):
            dataset_json["regions_class_order"] = [1, 2]
        made = TinyTrainer(PLANS | {"continue_training": False}, configuration, 0, dataset_json, torch.device("cpu"))
        made.network = TinyNetwork(3, made.label_manager.num_segmentation_heads, True)
        return made

    return trainer


def test_class_attributes_replace_nnunets_numbers(make):
    trainer = make()
    assert (trainer.initial_lr, trainer.weight_decay, trainer.num_epochs) == (0.1, 0.5, 4)
    assert trainer.num_iterations_per_epoch == 250  # nnU-Net's, where the class says nothing


def test_learning_rates_of_all_groups_follow_one_schedule(make):
    optimizer, schedule = make().configure_optimizers()
    for epoch, factor in ((0, 1.0), (2, 0.5**0.9), (3, 0.25**0.9)):
        schedule.step(epoch)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * factor, 0.1 * factor])


def test_schedule_is_right_after_the_optimizer_is_restored(make):
    optimizer, schedule = make().configure_optimizers()
    schedule.step(3)
    saved = optimizer.state_dict()
    resumed, resumed_schedule = make().configure_optimizers()
    resumed.load_state_dict(saved)
    resumed_schedule.step(2)
    schedule.step(2)
    assert [g["lr"] for g in resumed.param_groups] == [g["lr"] for g in optimizer.param_groups]


def test_schedule_calls_its_factor_with_the_progress_of_the_training():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0}])
    schedule = EpochSchedule(optimizer, lambda progress: 1 + progress, num_epochs=10)
    schedule.step(5)
    assert optimizer.param_groups[0]["lr"] == 3.0


def test_normalisation_that_several_gpus_would_break_is_refused(make):
    trainer = make()
    trainer.is_ddp = True
    trainer.configure_optimizers()
    trainer.network.encoder = timm.create_model("efficientnet_b0", features_only=True, out_indices=(0,))
    with pytest.raises(
        UserError, match=r"encoder\.bn1 of the network .* train on one GPU, or choose a backbone without"
    ):
        trainer.configure_optimizers()


@pytest.mark.parametrize(
    ("version", "several_gpus", "splits"),
    [("2.4.1", True, False), ("2.4.1", False, True), ("2.6.0+cu124", True, True)],
)
def test_old_torch_does_not_split_networks_for_several_gpus(make, monkeypatch, version, several_gpus, splits):
    """Its way of splitting refuses autograd functions and recomputation, which nnU-Net's own networks have not."""
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda self: None)
    trainer = make()
    trainer.is_ddp = several_gpus
    with torch._dynamo.config.patch(optimize_ddp=True):
        trainer.initialize()
        assert torch._dynamo.config.optimize_ddp is splits


def test_unsupported_dimensions_are_refused_before_anything_is_written(make, tmp_path):
    for configuration in ("3d_fullres", "3d_again"):
        with pytest.raises(
            UserError, match=f"TinyTrainer works in 2D only, but configuration {configuration} is 3D: train 2d instead"
        ):
            make(configuration=configuration)
    assert not list((tmp_path / "nnUNet_results").iterdir())


@pytest.mark.parametrize(("patch", "small"), [((64, 1), True), ((3, 64), True), ((4, 4), False)])
def test_patches_too_small_for_the_augmentation_are_refused_before_anything_is_written(
    make, tmp_path, monkeypatch, patch, small
):
    """One-slice volumes (64 x 64 x 1) are planned as 64 x 1."""
    monkeypatch.setitem(PLANS["configurations"], "flat", configuration(patch_size=list(patch)))
    if not small:
        assert make(configuration="flat")
        return
    with pytest.raises(UserError, match=rf"flat has patches of {patch[0]} x {patch[1]} voxels, .* needs 4 or more"):
        make(configuration="flat")
    assert not list((tmp_path / "nnUNet_results").iterdir())


@pytest.mark.parametrize("name", ["CASNetTrainer", "DRGOTrainer", "MedFusionTransNetTrainer"])
def test_networks_that_follow_the_plan_refuse_one_of_a_single_stage(make, tmp_path, name):
    architecture = {"arch_kwargs": {"strides": [[1, 1]]}, "network_class_name": "", "_kw_requires_import": []}
    plans = PLANS | {"configurations": {"2d": configuration(patch_size=[7, 7], architecture=architecture)}}
    dataset_json = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "R"}}
    with pytest.raises(UserError, match="a plan of 1 stage, but the network needs 2"):
        find_trainer(name)(plans | {"continue_training": False}, "2d", 0, dataset_json, torch.device("cpu"))
    assert not list((tmp_path / "nnUNet_results").iterdir())


def test_nnunets_augmentation_blurs_patches_of_the_smallest_size_and_no_smaller_ones():
    """If this fails, the border that nnU-Net's blur reflects has changed, and so has ``smallest_patch``."""
    blur_dimension(torch.ones(1, BaseTrainer.smallest_patch, 8), sigma=1.0, dim_to_blur=0)
    with pytest.raises(RuntimeError, match="Padding size"):
        blur_dimension(torch.ones(1, BaseTrainer.smallest_patch - 1, 8), sigma=1.0, dim_to_blur=0)


def test_deep_supervision_reaches_the_network_through_its_wrappers(make):
    trainer = make()
    network = trainer.network
    trainer.network = torch.compile(network, backend="eager")
    assert trainer.bare_network is network
    trainer.set_deep_supervision_enabled(False)
    assert network.deep_supervision is False
    trainer.enable_deep_supervision = False
    trainer.set_deep_supervision_enabled(True)  # as nnU-Net does at the end of every validation
    assert network.deep_supervision is False


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2},
        {"background": 0, "a": 1, "b": 2, "ignore": 3},
        {"background": 0, "all": [1, 2], "b": [2]},
        {"background": 0, "all": [1, 2], "b": [2], "ignore": 3},
    ],
    ids=["labels", "ignore", "regions", "regions+ignore"],
)
def test_default_loss_is_nnunets_up_to_constants(make, labels):
    """nnU-Net's Dice loss is -Dice, ours 1 - Dice; with regions and ignore label its BCE counts pixels, not maps."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = make(labels)
    heads = trainer.label_manager.num_segmentation_heads
    logits = torch.randn(2, heads, 16, 16)
    target = torch.randint(0, 4 if "ignore" in labels else 3, (2, 1, 16, 16))
    if trainer.label_manager.has_regions:
        target = torch.cat([target > 0, target == 2] + ([target == 3] if "ignore" in labels else []), 1)
    of_tuples = trainer._build_loss()
    trainer.enable_deep_supervision = False  # a loss of logits alone, in nnU-Net's trainer and in ours
    of_logits, nnunets = trainer._build_loss(), nnUNetTrainer._build_loss(trainer)
    ours, theirs = of_logits(logits, target), nnunets(logits, target) + 1
    if trainer.label_manager.has_regions and trainer.label_manager.has_ignore_label:
        mask = (1 - target[:, -1:].float()).expand(-1, heads, -1, -1)
        pixelwise = nn.functional.binary_cross_entropy_with_logits(
            logits, target[:, :-1].float() * mask, weight=mask, reduction="sum"
        )
        theirs = theirs + pixelwise / mask.sum() - pixelwise / mask[:, :1].sum()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(of_tuples((logits, logits * 0), [target]), ours)


def test_default_optimiser_is_adam_with_the_trainers_numbers(make):
    optimizer, schedule = make().configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert type(schedule) is EpochSchedule


def test_arguments_of_the_network_add_to_those_of_the_base_class():
    class Wide(TinyTrainer):
        network_kwargs = {"channels": 6, "kernel_size": 1}

    class WideAgain(Wide):
        network_kwargs = {"kernel_size": 5}

    class Alike(WideAgain):
        pass

    for trainer, shape in ((TinyTrainer, (4, 3, 3, 3)), (Wide, (6, 3, 1, 1)), (Alike, (6, 3, 5, 5))):
        assert trainer.reference_network().encoder.weight.shape == shape


def test_one_full_resolution_target_is_asked_for(make):
    trainer = make()
    assert trainer._get_deep_supervision_scales() == [[1.0, 1.0]]
    trainer.enable_deep_supervision = False
    assert trainer._get_deep_supervision_scales() is None


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "2147483648"])
def test_a_seed_that_is_no_whole_number_is_refused(monkeypatch, value):
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", value)
    with pytest.raises(UserError, match=f"NNUNET_PLUGINS_SEED={value}: expected a whole number"):
        seed_from_environment()


def test_seed_is_off_by_default(monkeypatch):
    monkeypatch.delenv("NNUNET_PLUGINS_SEED", raising=False)
    assert seed_from_environment() is None
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "12")
    assert seed_from_environment() == 12


def test_same_seed_same_weights_and_every_epoch_its_own_numbers(make, monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "3")
    numbers = []
    for epoch in (0, 1, 0):
        trainer = make()
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        numbers.append(torch.rand(3))
    assert torch.equal(numbers[0], numbers[2])
    assert not torch.equal(numbers[0], numbers[1])
