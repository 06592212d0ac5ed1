"""Proves: the mixtures have the paper's weights at every epoch, and mix nnU-Net's own Dice and cross-entropy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.losses.dlkunet import (
    SCHEDULES,
    dynamic_acdc_weights,
    dynamic_weights,
    ordinary_weights,
    phase_based_weights,
)

# Eq. 12-13 by hand: k = 0.1, x0 = 200, A = 0.3, B = 0.7, s(x) = 1 / (1 + exp(-0.1 (x - 200))).
# s(0) = 2.0612e-9, s(100) = 4.5398e-5, s(199) = 0.475021, s(200) = 0.5, s(399) = 1 - s(1) = 1 - 2.2779e-9
# alpha = 0.3 + 0.7 (1 - s), beta = 1 - 0.3 (1 - s)
BY_HAND = {  # epoch: (phase-based, dynamic)
    0: ((0.6, 0.4), (1.0, 0.7)),
    100: ((0.6, 0.4), (0.999968221, 0.700013619)),
    199: ((0.6, 0.4), (0.667485426, 0.842506246)),
    200: ((0.7, 0.3), (0.65, 0.85)),
    399: ((0.7, 0.3), (0.3, 1.0)),
}


@pytest.mark.parametrize("epoch", BY_HAND)
def test_weights_of_the_papers_400_epochs(epoch):
    phase_based, dynamic = BY_HAND[epoch]
    assert ordinary_weights(epoch, 400) == (1, 1)
    assert phase_based_weights(epoch, 400) == phase_based
    assert dynamic_weights(epoch, 400) == pytest.approx(dynamic, abs=1e-8)


# The same sigmoid around x0 = 150: s(0) = 3.0590e-7, s(50) = 4.5398e-5, s(150) = 0.5, s(399) = 1 - 1.5344e-11
# alpha = 0.7 + 0.3 s, beta = 1 - 0.7 s
@pytest.mark.parametrize(
    ("epoch", "weights"),
    [(0, (0.7, 1.0)), (50, (0.700013619, 0.999968221)), (150, (0.85, 0.65)), (399, (1.0, 0.3))],
)
def test_weights_of_acdc_raise_dice_and_lower_cross_entropy(epoch, weights):
    assert dynamic_acdc_weights(epoch, 400) == pytest.approx(weights, abs=5e-7)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 399), st.integers(1, 25))
def test_weights_depend_on_the_share_of_the_training_alone(name, epoch, factor):
    schedule = SCHEDULES[name]
    assert schedule(factor * epoch, factor * 400) == pytest.approx(schedule(epoch, 400))


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 10_000), st.data())
def test_weights_are_finite_for_trainings_of_any_length(name, num_epochs, data):
    epoch = data.draw(st.integers(0, num_epochs - 1))
    assert all(math.isfinite(weight) and 0 < weight <= 1 for weight in SCHEDULES[name](epoch, num_epochs))


def test_an_odd_middle_epoch_belongs_to_the_first_phase():
    assert [phase_based_weights(epoch, 5).alpha for epoch in range(5)] == [0.6, 0.6, 0.6, 0.7, 0.7]
    assert phase_based_weights(0, 1) == (0.6, 0.4)


FORMATS = {
    "labels": LabelFormat(),
    "ignore": LabelFormat(ignore_label=3),
    "regions": LabelFormat(regions=True),
    "regions+ignore": LabelFormat(regions=True, ignore_label=3),
}


def random_target(label_format: LabelFormat) -> torch.Tensor:
    labels = torch.randint(0, 4 if label_format.ignore_label else 3, (2, 1, 8, 9, 7))
    if not label_format.regions:
        return labels
    maps = [(labels == 1) | (labels == 2), labels == 2, *([labels == 3] if label_format.ignore_label else [])]
    return torch.cat(maps, 1)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_dice_and_cross_entropy_are_nnunets_own(name, batch_dice):
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    torch.manual_seed(0)
    label_format = FORMATS[name]
    logits, target = torch.randn(2, 2 if label_format.regions else 3, 8, 9, 7), random_target(label_format)
    loss = DiceCrossEntropyLoss(label_format, schedule="phase_based", batch_dice=batch_dice)
    loss.start_epoch(7, 10)
    alpha, beta = 0.7, 0.3

    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    dice_class = MemoryEfficientSoftDiceLoss
    if label_format.regions:
        ignore = label_format.ignore_label is not None
        # nnU-Net's mean over annotated pixels counts every pixel once, with ignore label; ours every map of it.
        weight_ce = beta / logits.shape[1] if ignore else beta
        nnunets = DC_and_BCE_loss({}, dice | {"do_bg": True}, weight_ce, alpha, ignore, dice_class)
    else:
        nnunets = DC_and_CE_loss(dice | {"do_bg": False}, {}, beta, alpha, label_format.ignore_label, dice_class)
    torch.testing.assert_close(loss(logits, target), nnunets(logits, target) + alpha)  # nnU-Net's Dice loss is -Dice


@pytest.mark.parametrize("ignore_label", [None, 9])
def test_loss_keeps_no_more_memory_than_nnunets_memory_efficient_one(ignore_label):
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": True, "smooth": 1e-5, "ddp": False, "do_bg": False}
    nnunets = DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)
    ours = DiceCrossEntropyLoss(LabelFormat(ignore_label=ignore_label))
    logits, target = torch.randn(2, 9, 16, 16, 16, requires_grad=True), torch.randint(0, 9, (2, 1, 16, 16, 16))
    assert kept_for_backward(ours, logits, target) <= kept_for_backward(nnunets, logits, target)


def kept_for_backward(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> int:
    """Number of bytes that autograd saves."""
    kept = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(logits, target)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def test_an_unknown_schedule_is_named():
    with pytest.raises(
        ValueError, match="schedule 'phases': choose one of ordinary, phase_based, dynamic, dynamic_acdc"
    ):
        DiceCrossEntropyLoss(LabelFormat(), schedule="phases")


def test_dice_and_cross_entropy_by_hand():
    # Two pixels: p = (0.2, 0.8) and (0.5, 0.5); both of class 1.
    logits = torch.tensor([[0.2, 0.8], [0.5, 0.5]]).log().T.reshape(1, 2, 1, 2)
    loss = DiceCrossEntropyLoss(LabelFormat(), schedule="phase_based")
    dice = 1 - 2 * 1.3 / (1.3 + 2)
    cross_entropy = -(math.log(0.8) + math.log(0.5)) / 2
    target = torch.ones(1, 1, 1, 2)
    for epoch, alpha, beta in ((0, 0.6, 0.4), (399, 0.7, 0.3)):
        loss.start_epoch(epoch, 400)
        assert loss(logits, target).item() == pytest.approx(alpha * dice + beta * cross_entropy, rel=1e-5)
        assert loss(logits, [target]).item() == pytest.approx(alpha * dice + beta * cross_entropy, rel=1e-5)


def test_terms_for_the_log_are_the_weighted_parts():
    loss = DiceCrossEntropyLoss(LabelFormat(), schedule="dynamic")
    loss.start_epoch(3, 10)
    total = loss(torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 1, 8, 8)))
    terms = loss.mean_terms()
    assert terms.keys() == {"alpha * dice", "beta * cross_entropy"}
    assert sum(terms.values()) == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_validation_losses_can_be_compared_over_the_epochs(name):
    loss = DiceCrossEntropyLoss(LabelFormat(), schedule=name)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    found = []
    for epoch in range(10):
        loss.start_epoch(epoch, 10)
        with torch.no_grad():
            found.append(loss(logits, target).item())
    assert found == [loss(logits, target).item()] * 10
