"""Proves: CASNet's modalities come from the plans, and its trainers train as section 4.2 of the paper says."""

import math

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support import cell_datasets
from support.cell_datasets import LABELS, THICK_VOLUMES, VOLUMES, initialized_trainer, make_trainer

from nnunet_plugins.architectures import CASNet
from nnunet_plugins.architectures.casnet import ContextualAttention
from nnunet_plugins.losses import DiceCrossEntropyLoss, DRGOLoss
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.plan import NetworkPlan

pytestmark = pytest.mark.usefixtures("results")


def groups_of(reader, num_image_channels, num_input_channels):
    schemes = ["ZScoreNormalization"] * num_image_channels
    architecture = {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []}
    configurations = {"x": {"architecture": architecture, "normalization_schemes": schemes}}
    plans = PlansManager({"image_reader_writer": reader, "configurations": configurations})
    configuration = plans.get_configuration("x")
    return NetworkPlan(plans, configuration, num_input_channels).modality_groups


@pytest.mark.parametrize(
    ("reader", "image", "inputs", "groups"),
    [
        ("NaturalImage2DIO", 3, 3, (3,)),
        ("NaturalImage2DIO", 1, 1, (1,)),
        ("SimpleITKIO", 1, 1, (1,)),
        ("SimpleITKIO", 4, 4, (1, 1, 1, 1)),
        ("SimpleITKIO", 2, 5, (1, 1, 3)),
        ("NibabelIO", 1, 3, (1, 2)),
    ],
    ids=["RGB", "grey", "CT", "four MRI sequences", "two sequences in a cascade of 3 classes", "cascade of 2 classes"],
)
def test_modalities_follow_from_the_plans(reader, image, inputs, groups):
    assert groups_of(reader, image, inputs) == groups


def test_modalities_may_be_given_by_a_trainer(planned):
    trainer = type("Mine", (find_trainer("CASNetTrainer"),), {"network_kwargs": {"modality_groups": (1, 2)}})
    plans = PlansManager(cell_datasets.load_plans(LABELS))
    network = trainer.build_network_architecture(plans, plans.get_configuration("2d"), 3, 2, False)
    assert network.modality_groups == (1, 2)


def test_network_has_the_stages_of_the_plans(planned):
    trainer = initialized_trainer("CASNetTrainer", THICK_VOLUMES)
    plan = trainer.configuration_manager.network_arch_init_kwargs
    network = trainer.network
    assert isinstance(network, CASNet)
    convolutions = [encoder[1][0] for encoder in network.encoders[0]]
    assert [list(c.kernel_size) for c in convolutions] == plan["kernel_sizes"]
    assert [c.out_channels for c in convolutions] == plan["features_per_stage"]  # of one modality
    pools = [stage[0] for stage in network.encoders[0]][1:]
    assert [list(pool.kernel_size) for pool in pools] == plan["strides"][1:]


@pytest.mark.parametrize("name", ["CASNetTrainer", "MedFusionTransNetTrainer"])
def test_adam_with_cosine_annealing(name):
    trainer = initialized_trainer(f"{name}_100epochs", LABELS)
    assert type(trainer.optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0}
    rates = []
    for epoch in (0, 25, 50, 99):
        trainer.lr_scheduler.step(epoch)
        rates += {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == pytest.approx([1e-4 * (1 + math.cos(math.pi * e / 100)) / 2 for e in (0, 25, 50, 99)])


def test_drgo_alone_changes_nothing_of_nnunets_network_and_optimiser(planned):
    ours, stock = initialized_trainer("DRGOTrainer", VOLUMES), initialized_trainer("nnUNetTrainer", VOLUMES)
    assert ours.network.state_dict().keys() == stock.network.state_dict().keys()
    assert str(ours.optimizer) == str(stock.optimizer)
    assert type(ours.lr_scheduler) is type(stock.lr_scheduler)
    assert ours._get_deep_supervision_scales() == stock._get_deep_supervision_scales()
    assert isinstance(ours.loss, DRGOLoss)
    outputs = [torch.randn(2, 3, *(np.array(trainer_size(ours)) // 2**i)) for i in range(2)]
    targets = [torch.randint(0, 3, (2, 1, *o.shape[2:])) for o in outputs]
    nnunets = stock.loss(outputs, targets) + 1  # its Dice loss is -Dice, ours 1 - Dice
    torch.testing.assert_close(ours.loss.segmentation_loss(outputs, targets), nnunets, rtol=1e-5, atol=0)


def trainer_size(trainer):
    return trainer.configuration_manager.patch_size


@pytest.mark.parametrize(
    ("name", "segmentation", "beta", "sampling"),
    [
        ("CASNetTrainer", DiceCrossEntropyLoss, None, None),
        ("MedFusionTransNetTrainer", DiceCrossEntropyLoss, 0.1, True),
        ("MedFusionTransNetTrainer_woBoundary", DiceCrossEntropyLoss, 0.0, True),
        ("MedFusionTransNetTrainer_woSampling", DiceCrossEntropyLoss, 0.1, False),
        ("MedFusionTransNetTrainer_DS", DeepSupervisionWrapper, 0.1, True),
        ("DRGOTrainer", DeepSupervisionWrapper, 0.1, True),
    ],
)
def test_losses_and_sampling_of_the_variants(name, segmentation, beta, sampling):
    trainer = initialized_trainer(name, LABELS)
    if beta is None:
        assert isinstance(trainer.loss, segmentation)
        return
    assert isinstance(trainer.loss.segmentation_loss, segmentation)
    assert (trainer.loss.alpha, trainer.loss.beta, trainer.loss.first_and_last_gamma) == (0.5, beta, (0.7, 0.3))
    assert trainer.region_sampling is sampling


def test_networks_have_only_heads_that_are_trained():
    heads = {
        name: len(initialized_trainer(name, LABELS).network.decoder.seg_layers)
        for name in ("CASNetTrainer", "MedFusionTransNetTrainer", "MedFusionTransNetTrainer_DS")
    }
    assert heads["CASNetTrainer"] == heads["MedFusionTransNetTrainer"] == 1 < heads["MedFusionTransNetTrainer_DS"]


def test_batch_dice_is_the_plans_choice():
    for dataset_id in (LABELS, VOLUMES):
        trainer = initialized_trainer("CASNetTrainer", dataset_id)
        assert trainer.loss.batch_dice is trainer.configuration_manager.batch_dice


def test_networks_of_ablations_lack_attention_and_skips():
    names = ("MedFusionTransNetTrainer", "MedFusionTransNetTrainer_woContext", "MedFusionTransNetTrainer_woSkips")
    networks = [initialized_trainer(name, LABELS).network for name in names]
    attentions = [sum(isinstance(m, ContextualAttention) for m in network.modules()) for network in networks]
    assert attentions[0] > 0 and attentions[1:] == [0, 0]
    widths = [network.decoder.levels[0].level[0].in_channels for network in networks]
    assert widths[0] == widths[1] > widths[2]


def test_deep_supervision_has_an_output_for_each_target(planned):
    trainer = initialized_trainer("MedFusionTransNetTrainer_DS", LABELS)
    size = trainer_size(trainer)
    outputs = trainer.network(torch.randn(2, 3, *size))
    scales = trainer._get_deep_supervision_scales()
    expected = [[round(n * s) for n, s in zip(size, scale, strict=True)] for scale in scales]
    assert [list(o.shape[2:]) for o in outputs] == expected
    weights = trainer.loss.segmentation_loss.weight_factors
    assert sum(weights) == pytest.approx(1) and weights[-1] < 1e-5 and weights[0] == pytest.approx(2 * weights[1])


def test_a_plan_of_two_stages_has_one_output_that_counts(planned, monkeypatch):
    """nnU-Net's own weights are 0 / 0 then."""
    trainer = make_trainer("MedFusionTransNetTrainer_DS", LABELS)
    monkeypatch.setattr(type(trainer), "_get_deep_supervision_scales", lambda self: [[1.0, 1.0]])
    assert trainer._build_loss().segmentation_loss.weight_factors == (1.0,)
