"""Proves: the frame of all losses works, and targets, masks, cross-entropy and Dice agree with nnU-Net's own losses.

All stay finite without annotated pixels.
"""

from typing import NamedTuple

import pytest
import torch
from nnunetv2.training.loss.dice import SoftDiceLoss
from torch.nn import functional as F

from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    in_float32,
    masked_mean,
    pixel_cross_entropy,
    segmentation_cross_entropy,
    soft_dice_loss,
    split_target,
)


def test_label_map_becomes_one_hot_without_the_ignored_pixels():
    labels = torch.tensor([[[[0, 1, 2, 3]]]], dtype=torch.int16)
    one_hot, mask = split_target(labels, 3, LabelFormat(ignore_label=3))
    assert one_hot[0, :, 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert mask.flatten().tolist() == [1, 1, 1, 0]
    assert split_target(labels.clamp_max(2), 3, LabelFormat()).mask is None


def test_regions_lose_their_ignore_channel():
    regions = torch.tensor([[[[1, 1, 0]], [[0, 1, 1]], [[0, 0, 1]]]]).bool()  # the last channel: ignored
    one_hot, mask = split_target(regions, 2, LabelFormat(regions=True, ignore_label=7))
    assert one_hot[0, :, 0].tolist() == [[1, 1, 0], [0, 1, 0]]
    assert mask.flatten().tolist() == [1, 1, 0]


def test_a_target_of_another_format_is_refused():
    with pytest.raises(ValueError, match="target has 3 channels, 2 expected"):
        split_target(torch.zeros(1, 3, 4, 4), 2, LabelFormat(regions=True))


def test_masked_mean_and_its_gradient_are_0_without_annotated_pixels():
    x = torch.rand(2, 3, 4, requires_grad=True)
    mean = masked_mean(x, torch.zeros(2, 1, 4))
    mean.backward()
    assert mean == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("ignore", [True, False])
def test_dice_equals_nnunets(batch_dice, background, ignore):
    labels = torch.randint(0, 4 if ignore else 3, (3, 1, 6, 7))
    probabilities = torch.randn(3, 3, 6, 7).softmax(1)
    target = split_target(labels, 3, LabelFormat(ignore_label=3 if ignore else None))
    theirs = SoftDiceLoss(batch_dice=batch_dice, do_bg=background, smooth=1e-5, ddp=False)
    known = None if target.mask is None else target.mask.bool()
    expected = 1 + theirs(probabilities, labels * (labels < 3), known)
    ours = soft_dice_loss(probabilities, target, batch_dice=batch_dice, background=background)
    torch.testing.assert_close(ours, expected)


def test_cross_entropy_equals_torchs_with_an_ignored_label():
    logits, labels = torch.randn(2, 3, 5, 5), torch.randint(0, 4, (2, 1, 5, 5))
    target = split_target(labels, 3, LabelFormat(ignore_label=3))
    expected = F.cross_entropy(logits, labels[:, 0], ignore_index=3)
    torch.testing.assert_close(segmentation_cross_entropy(logits, target, softmax=True), expected)


@pytest.mark.parametrize("softmax", [True, False])
def test_pixel_cross_entropy_is_torchs(softmax):
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 1, 4, 5))
    target = split_target(labels, 3, LabelFormat())
    if softmax:
        expected = F.cross_entropy(logits, labels[:, 0], reduction="none")[:, None]
    else:
        expected = F.binary_cross_entropy(logits.sigmoid(), target.one_hot, reduction="none")
    ours = pixel_cross_entropy(logits, target, softmax=softmax)
    torch.testing.assert_close(ours, expected)


def test_binary_cross_entropy_is_the_mean_over_maps_and_annotated_pixels():
    logits = torch.tensor([[[[0.0, 5.0]], [[2.0, -5.0]]]])
    target = Target(torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]]))
    expected = (torch.log1p(torch.exp(torch.tensor(0.0))) + torch.log1p(torch.exp(torch.tensor(2.0)))) / 2
    torch.testing.assert_close(segmentation_cross_entropy(logits, target, softmax=False), expected)


class Outputs(NamedTuple):
    """Outputs of a network, some of which are nested."""

    logits: torch.Tensor
    levels: tuple[torch.Tensor, ...]
    extra: torch.Tensor | None


def test_outputs_of_any_nesting_are_converted_to_float32():
    converted = in_float32(Outputs(torch.ones(1).half(), (torch.ones(2).bfloat16(), torch.ones(3)), None))
    assert isinstance(converted, Outputs)
    assert converted.extra is None
    assert {x.dtype for x in (converted.logits, *converted.levels)} == {torch.float32}


def test_loss_remembers_the_mean_of_its_terms_over_training_steps_only():
    loss = PluginLoss(LabelFormat())
    loss.start_epoch(3, 10)
    assert (loss.epoch, loss.num_epochs) == (3, 10)
    for value in (1.0, 3.0):
        assert loss.total({"a": torch.tensor(value), "b": torch.tensor(0.5)}) == value + 0.5
    with torch.no_grad():
        loss.total({"a": torch.tensor(100.0), "b": torch.tensor(100.0)})  # validation
    assert loss.mean_terms() == {"a": 2.0, "b": 0.5}
    loss.start_epoch(4, 10)
    assert loss.mean_terms() == {}
