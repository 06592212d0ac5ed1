"""Proves: DRGO's loss is the weighted sum of its terms, for any segmentation loss, and keeps statistics of regions."""

import pytest
import torch
from torch import nn

from nnunet_plugins.losses import DiceCrossEntropyLoss, DRGOLoss
from nnunet_plugins.losses.common import LabelFormat, pixel_cross_entropy, split_target
from nnunet_plugins.losses.drgo_boundary import boundary_terms
from nnunet_plugins.losses.drgo_regions import (
    RegionStatistics,
    adaptive_loss,
    adaptive_weights,
    dominant_frequency,
    region_statistics,
)
from nnunet_plugins.trainers.memory.tracker import MemoryTracker


def drgo(label_format=LabelFormat(), **kwargs):  # noqa: B008 (immutable)
    return DRGOLoss(DiceCrossEntropyLoss(label_format, schedule="ordinary"), label_format, **kwargs)


def test_gamma_goes_from_first_to_last_epoch():
    loss, gammas = drgo(), []
    for epoch in (0, 50, 100):
        loss.start_epoch(epoch, 101)
        gammas.append(loss.gamma)
    assert gammas == pytest.approx([0.7, 0.5, 0.3])
    loss.start_epoch(0, 1)
    assert loss.gamma == 0.7


def test_validation_losses_can_be_compared_over_the_epochs():
    loss = drgo()
    for epoch in range(3):
        loss.start_epoch(epoch, 3)
        with torch.no_grad():
            assert loss.gamma == pytest.approx(0.3)


@pytest.mark.parametrize("label_format", [LabelFormat(), LabelFormat(regions=True)], ids=["labels", "regions"])
def test_the_total_is_the_weighted_sum_of_its_terms(label_format):
    torch.manual_seed(0)
    softmax = not label_format.regions
    logits, labels = torch.randn(2, 3, 40, 40), torch.randint(0, 3, (2, 1, 40, 40))
    targets = labels if softmax else torch.rand(2, 3, 40, 40) > 0.5
    target = split_target(targets, 3, label_format)
    p, grid = logits.softmax(1) if softmax else logits.sigmoid(), (2, 2)
    statistics = region_statistics(p, target, grid, softmax=softmax)
    weights = adaptive_weights(statistics, dominant_frequency(target, grid), 0.7)
    pixel_loss = pixel_cross_entropy(logits, target, softmax=softmax).mean(1, keepdim=True)
    adaptive = adaptive_loss(pixel_loss, target, weights)
    segmentation = DiceCrossEntropyLoss(label_format, schedule="ordinary")(logits, targets)
    boundary = torch.stack(boundary_terms(p, target, softmax=softmax)).sum()
    loss = drgo(label_format, alpha=0.5, beta=0.1)
    total = loss(logits.requires_grad_(), targets)
    torch.testing.assert_close(total, segmentation + 0.5 * adaptive + 0.1 * boundary)
    assert sum(loss.mean_terms().values()) == pytest.approx(total.item(), rel=1e-5)
    without = drgo(label_format, beta=0.0)(logits, targets)
    torch.testing.assert_close(without, segmentation + 0.5 * adaptive)


def test_half_precision_is_computed_in_full():
    torch.manual_seed(0)
    logits, labels = 30 * torch.randn(2, 3, 40, 40).half(), torch.randint(0, 3, (2, 1, 40, 40))
    half, full = (drgo()(x, labels) for x in (logits, logits.float()))
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


def test_weights_of_regions_carry_no_gradient():
    """The gradient of the adaptive loss is that of the weighted cross-entropy, with the weights as numbers."""
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 2, 32, 32, requires_grad=True), torch.randint(0, 2, (1, 1, 32, 32))

    class Nothing(nn.Module):
        def forward(self, outputs, targets):
            return 0.0 * outputs.sum()

    loss = DRGOLoss(Nothing(), LabelFormat(), alpha=1.0, beta=0.0)
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    target, grid = split_target(labels, 2, LabelFormat()), (2, 2)
    statistics = region_statistics(logits.softmax(1), target, grid, softmax=True)
    weights = adaptive_weights(statistics, dominant_frequency(target, grid), 0.7)
    of_pixels = weights.detach().repeat_interleave(16, 2).repeat_interleave(16, 3)
    cross_entropy = (of_pixels * pixel_cross_entropy(logits, target, softmax=True)).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(cross_entropy, logits)[0])


def test_statistics_are_kept_in_training_alone():
    loss, labels = drgo(), torch.zeros(2, 1, 32, 48, dtype=torch.int64)
    with torch.no_grad():
        loss(torch.randn(2, 2, 32, 48), labels)
    assert loss.regions is None
    loss(torch.randn(2, 2, 32, 48, requires_grad=True), labels)
    assert isinstance(loss.regions, RegionStatistics)
    assert {x.shape for x in loss.regions} == {(2, 1, 2, 3)}
    assert not any(x.requires_grad for x in loss.regions)


def test_every_output_reaches_the_segmentation_loss_and_the_finest_the_rest():
    class Sum(nn.Module):
        def forward(self, outputs, targets):
            return sum(o.mean() + t.float().mean() for o, t in zip(outputs, targets, strict=True))

    outputs = [torch.randn(1, 2, s, s, requires_grad=True) for s in (32, 16)]
    targets = [torch.zeros(1, 1, s, s, dtype=torch.int64) for s in (32, 16)]
    with_coarse = DRGOLoss(Sum(), LabelFormat())(outputs, targets)
    alone = DRGOLoss(Sum(), LabelFormat())(outputs[:1], targets[:1])
    torch.testing.assert_close(with_coarse, alone + outputs[1].mean())


def test_a_scheduled_segmentation_loss_is_told_the_epoch():
    loss = DRGOLoss(DiceCrossEntropyLoss(LabelFormat(), schedule="phase_based"), LabelFormat())
    loss.start_epoch(7, 10)
    assert loss.segmentation_loss.weights == (0.7, 0.3)
    wrapped = DRGOLoss(nn.Sequential(loss.segmentation_loss), LabelFormat())
    wrapped.start_epoch(3, 10)
    assert loss.segmentation_loss.weights == (0.6, 0.4)


def test_loss_never_waits_for_the_device():
    """Fake tensors have no values, so that code which asks for one fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        drgo()(torch.randn(2, 2, 40, 40, requires_grad=True), torch.zeros(2, 1, 40, 40, dtype=torch.int16)).backward()


def memory_of(loss, label_format, size, num_classes):
    """Bytes for each pixel and class: kept for the backward pass, and the peak of both passes."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits = torch.randn(2, num_classes, *size, requires_grad=True)
        target = torch.zeros(2, num_classes if label_format.regions else 1, *size, dtype=torch.int16)
        with MemoryTracker() as memory:
            total = loss(logits, target)
            kept = memory.now
            total.backward()
        return kept / logits.numel(), memory.peak / logits.numel()


@pytest.mark.parametrize("label_format", [LabelFormat(), LabelFormat(regions=True)], ids=["labels", "regions"])
@pytest.mark.parametrize("size", [(256, 256), (64, 64, 64)], ids=str)
@pytest.mark.parametrize("num_classes", [2, 8])
def test_the_loss_takes_little_more_than_twice_the_memory_of_dice_and_cross_entropy(label_format, size, num_classes):
    plain = memory_of(DiceCrossEntropyLoss(label_format, schedule="ordinary"), label_format, size, num_classes)
    ours = memory_of(drgo(label_format), label_format, size, num_classes)
    assert ours[0] < 2.4 * plain[0] and ours[1] < 2.4 * plain[1]
    assert ours[0] < 28 and ours[1] < 46
