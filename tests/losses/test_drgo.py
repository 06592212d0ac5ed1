"""Proves: DRGO's terms are section 3.4's, by hand on 4x4 images and in loops over pixels, and leave out the ignored."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch import nn

from nnunet_plugins.losses import DiceCrossEntropyLoss, DRGOLoss
from nnunet_plugins.losses.common import LabelFormat, Target, pixel_cross_entropy, split_target
from nnunet_plugins.losses.drgo_boundary import boundary_pairs, boundary_terms, squared_distances
from nnunet_plugins.losses.drgo_regions import (
    RegionStatistics,
    adaptive_loss,
    adaptive_weights,
    dominant_frequency,
    foreground,
    region_grid,
    region_statistics,
    region_sums,
)

LABELS = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
REGIONS = LabelFormat(regions=True)
LN2 = math.log(2)


def target_of(labels, label_format=LabelFormat(), num_classes=2):  # noqa: B008
    return split_target(torch.tensor(labels)[None, None], num_classes, label_format)


def two_classes(foreground):
    """Probabilities ``(1, 2, H, W)``."""
    p = torch.tensor(foreground)[None, None]
    return torch.cat((1 - p, p), 1)


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


# The upper left region is unsure; the others are sure. The upper right is all foreground, the lower right a quarter.
FOREGROUND = [[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]
UNSURE, SURE = LN2, binary_entropy(0.9)


# ---- regions ---------------------------------------------------------------------------------------------------------


def test_regions_are_eight_along_an_axis_or_at_least_16_pixels_long():
    assert region_grid((1000, 128, 127, 40, 12)) == (8, 8, 7, 2, 1)


@given(st.lists(st.integers(1, 23), min_size=2, max_size=3), st.integers(1, 5))
@settings(deadline=None)
def test_every_pixel_is_in_one_region(size, cells):
    grid = tuple(min(cells, length) for length in size)
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = torch.zeros(2, 3, *grid, dtype=torch.float64)
    for position in product(*map(range, size)):
        cell = [index * n // length for index, n, length in zip(position, grid, size, strict=True)]
        expected[:, :, *cell] += x[:, :, *position]
    torch.testing.assert_close(region_sums(x, grid), expected)


def test_uncertainties_of_regions_by_hand():
    statistics = region_statistics(two_classes(FOREGROUND), target_of(LABELS), (2, 2), softmax=True)
    torch.testing.assert_close(statistics.uncertainty[0, 0], torch.tensor([[UNSURE, SURE], [SURE, SURE]]))
    # |grad p| from the steps to the right and down: (0.4, 0), (0, 0.4), the corner (0.4, 0.4), and (0, 0.8) below 0.9
    upper_left = (0 + 0.4 + 0.4 + math.hypot(0.4, 0.4)) / 4
    upper_right = (0 + 0 + 0.8 + 0.8) / 4
    torch.testing.assert_close(statistics.boundary[0, 0], torch.tensor([[upper_left, upper_right], [0.0, 0.0]]))
    assert statistics.annotated.flatten().tolist() == [4, 4, 4, 4]


def test_uncertainty_of_overlapping_regions_is_the_mean_of_theirs():
    p = torch.tensor([0.3, 0.9]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    statistics = region_statistics(p, Target(torch.zeros_like(p), None), (1, 1), softmax=False)
    assert statistics.uncertainty.item() == pytest.approx((binary_entropy(0.3) + binary_entropy(0.9)) / 2)


def test_foreground_is_all_but_the_background_or_the_likeliest_region():
    p = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    assert foreground(p, softmax=True).item() == pytest.approx(0.5)
    assert foreground(p, softmax=False).item() == pytest.approx(0.5)
    assert foreground(p[:, 1:], softmax=False).item() == pytest.approx(0.3)


def test_ignored_pixels_tell_nothing_of_a_region():
    labels = [[0, 0, 1, 1], [2, 2, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    target = target_of(labels, LabelFormat(ignore_label=2))
    p = two_classes([[0.9, 0.9, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9]])
    statistics = region_statistics(p, target, (2, 2), softmax=True)
    assert statistics.annotated.flatten().tolist() == [2, 4, 4, 4]
    assert statistics.uncertainty[0, 0, 0, 0].item() == pytest.approx(SURE)
    assert statistics.boundary[0, 0, 0, 0].item() == pytest.approx(0.4)  # steps down from 0.9 to 0.5, both annotated


# ---- adaptive loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.7, 0.3])
def test_weights_of_regions_by_hand(gamma):
    target = target_of(LABELS)
    statistics = region_statistics(two_classes(FOREGROUND), target, (2, 2), softmax=True)
    dominant = dominant_frequency(target, (2, 2))
    assert dominant.flatten().tolist() == [1, 1, 1, 0.75]
    raw = [gamma * h + (1 - gamma) * 1 / f for h, f in ((UNSURE, 1), (SURE, 1), (SURE, 1), (SURE, 0.75))]
    expected = [4 * weight / sum(raw) for weight in raw]  # mean 1
    weights = adaptive_weights(statistics, dominant, gamma)
    assert weights.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_adaptive_loss_by_hand():
    target = target_of(LABELS)
    pixel_loss = -torch.log((two_classes(FOREGROUND) * target.one_hot).sum(1, keepdim=True))
    weights = torch.tensor([[[[2.0, 1.0], [0.5, 0.5]]]])
    sums = [4 * LN2, -4 * math.log(0.9), -4 * math.log(0.9), -3 * math.log(0.9) - math.log(0.1)]
    expected = (2 * sums[0] + sums[1] + 0.5 * sums[2] + 0.5 * sums[3]) / 16
    assert adaptive_loss(pixel_loss, target, weights).item() == pytest.approx(expected, rel=1e-5)
    mean = adaptive_loss(pixel_loss, target, torch.ones_like(weights))
    torch.testing.assert_close(mean, pixel_loss.mean())


def test_regions_without_annotation_do_not_count():
    target = target_of([[2, 2, 1, 1], [2, 2, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], LabelFormat(ignore_label=2))
    statistics = region_statistics(two_classes(FOREGROUND), target, (2, 2), softmax=True)
    weights = adaptive_weights(statistics, dominant_frequency(target, (2, 2)), 0.7)
    assert weights.flatten()[0] == 0
    assert weights.sum().item() == pytest.approx(3)
    pixel_loss = torch.ones(1, 1, 4, 4)
    assert adaptive_loss(pixel_loss, target, weights).item() == pytest.approx(1)


def test_none_of_the_overlapping_regions_is_a_class_too():
    one_hot = torch.zeros(1, 2, 4, 4)
    one_hot[:, :, :1] = 1  # both regions on a quarter, none of them on the rest
    assert dominant_frequency(Target(one_hot, None), (1, 1)).item() == 0.75


@pytest.mark.parametrize("softmax", [True, False])
def test_pixel_cross_entropy_is_torchs(softmax):
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 1, 4, 5))
    target = split_target(labels, 3, LabelFormat())
    if softmax:
        expected = nn.functional.cross_entropy(logits, labels[:, 0], reduction="none")[:, None]
    else:
        expected = nn.functional.binary_cross_entropy(logits.sigmoid(), target.one_hot, reduction="none")
    ours = pixel_cross_entropy(logits, target, softmax=softmax)
    torch.testing.assert_close(ours, expected)


# ---- boundary refinement ---------------------------------------------------------------------------------------------

# The boundary's points are the pixels with a neighbour of another label, ``x``; a pair counts from its nearer pixel.
#     . x x .
#     . x x .        24 pairs, 16 of them with an x: weight 1; six at distance 1: weight 1 / 2;
#     . . x x        two at distance sqrt(2), (2, 0)-(3, 0) and (3, 0)-(3, 1): weight 1 / (1 + sqrt(2))
#     . . . x
SUM_OF_WEIGHTS = 16 + 6 / 2 + 2 / (1 + math.sqrt(2))
STEPS = 5  # pairs with different labels


def test_weights_of_pairs_by_hand():
    horizontal, vertical = boundary_pairs(target_of(LABELS))[::-1]
    far = 1 / (1 + math.sqrt(2))
    torch.testing.assert_close(
        horizontal.weights[0, 0], torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0.5, 1, 1, 0], [far, 0.5, 1, 0]])
    )
    torch.testing.assert_close(
        vertical.weights[0, 0], torch.tensor([[0.5, 1, 1, 0.5], [0.5, 1, 1, 1], [far, 0.5, 1, 1], [0, 0, 0, 0]])
    )
    assert horizontal.weights.sum() + vertical.weights.sum() == pytest.approx(SUM_OF_WEIGHTS)


def test_boundary_terms_of_a_flat_prediction_by_hand():
    terms = boundary_terms(torch.full((1, 2, 4, 4), 0.5), target_of(LABELS), softmax=True)
    assert terms.pairs.item() == pytest.approx(STEPS / SUM_OF_WEIGHTS, rel=1e-5)
    assert terms.smoothing.item() == 0
    assert terms.edges.item() == pytest.approx(5 / 16)  # of the pixels with another label to the right or below


def test_boundary_terms_of_a_wrong_step_by_hand():
    """A step of 0.5 to the right of the first column, where the labels agree, and the true steps."""
    p = two_classes(LABELS).float()
    p[:, 0, :, 0], p[:, 1, :, 0] = 0.5, 0.5
    terms = boundary_terms(p, target_of(LABELS), softmax=True)
    assert terms.pairs.item() == pytest.approx(0.5 * (1 + 1 + 0.5 + 1 / (1 + math.sqrt(2))) / SUM_OF_WEIGHTS, rel=1e-5)
    assert terms.smoothing.item() == pytest.approx(0.01 * 4 * 0.5 / 11)  # 11 pixels are not on an edge
    assert terms.edges.item() == pytest.approx(4 * 0.5 / 16)


def test_pairs_count_up_to_a_distance_of_five_pixels():
    labels = torch.zeros(1, 1, 1, 12, dtype=torch.int64)
    labels[..., 0] = 1  # the boundary's points are pixels 0 and 1; pixels 6 and 7 are 5 and 6 pixels away
    weights = boundary_pairs(split_target(labels, 2, LabelFormat()))[1].weights.flatten()
    assert weights.tolist() == pytest.approx([1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 0, 0, 0, 0, 0])


def slow_boundary_terms(p, one_hot, mask, share, phi=0.01):
    """For one sample, ``(K, *S)``: the docstring of ``boundary_terms`` in loops over pixels."""
    size = p.shape[1:]
    pixels = [x for x in product(*map(range, size)) if mask[x]]

    def neighbours(x):
        for axis in range(len(size)):
            y = tuple(i + (a == axis) for a, i in enumerate(x))
            if y[axis] < size[axis] and mask[y]:
                yield y

    pairs = [(x, y) for x in pixels for y in neighbours(x)]
    differ = [pair for pair in pairs if (one_hot[:, *pair[0]] != one_hot[:, *pair[1]]).any()]
    boundary = {x for pair in differ for x in pair}

    def weight(pair):
        distance = min((math.dist(x, b) for x in pair for b in boundary), default=math.inf)
        return 1 / (1 + distance) if distance <= 5 else 0.0

    def steps(values, pair):
        return np.abs(values[:, *pair[0]] - values[:, *pair[1]])

    penalty = sum(weight(q) * np.abs(steps(p, q) - steps(one_hot, q)).sum() * share for q in pairs)
    total = sum(weight(q) for q in pairs)
    maps = (lambda s: s[None].sum(1) / 2) if share == 0.5 else (lambda s: s)
    smooth, edges = [], []
    for x in pixels:
        gradient, edge = np.zeros(len(maps(p[:, *x]))), np.zeros(len(maps(p[:, *x])))
        for y in neighbours(x):
            gradient += maps(steps(p, (x, y))) ** 2
            edge = np.maximum(edge, maps(steps(one_hot, (x, y))))
        gradient = np.sqrt(gradient)
        smooth += list(gradient[edge == 0])
        edges += list(np.abs(np.minimum(gradient, 1) - edge))
    return penalty / total if total else 0.0, phi * np.mean(smooth) if smooth else 0.0, np.mean(edges)


@pytest.mark.parametrize("size", [(11, 9), (5, 6, 4)], ids=str)
@pytest.mark.parametrize("softmax", [True, False])
def test_boundary_terms_are_those_of_loops_over_pixels(size, softmax):
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(1, 1, *size, generator=generator) > 0.93).long()
    labels[..., -2:] = 2
    labels[:, :, 0] = 3  # ignored
    logits = 3 * torch.randn(1, 3, *size, generator=generator)
    target = split_target(labels, 3, LabelFormat(ignore_label=3))
    p = logits.softmax(1) if softmax else logits.sigmoid()
    if not softmax:  # class 1 within region 1 within region 0
        one_hot = torch.stack(((labels > 0).float(), (labels > 1).float(), (labels == 1).float()), 1)[:, :, 0]
        target = Target(one_hot * target.mask, target.mask)
    expected = slow_boundary_terms(
        p[0].numpy(), target.one_hot[0].numpy(), target.mask[0, 0].numpy(), 0.5 if softmax else 1 / 3
    )
    terms = boundary_terms(p, target, softmax=softmax)
    assert [float(term) for term in terms] == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_a_perfect_prediction_has_no_boundary_loss_and_any_wrong_edge_has_more(seed):
    generator = torch.Generator().manual_seed(seed)
    dimensions, softmax = 2 + seed % 2, seed % 3 > 0
    size = (6,) * dimensions
    labels = torch.randint(0, 3, (1, 1, *size), generator=generator)
    target = split_target(labels, 3, LabelFormat())
    perfect = boundary_terms(target.one_hot, target, softmax=softmax)
    assert (perfect.pairs, perfect.edges) == (0, 0)
    wrong = labels.clone()
    wrong.view(-1)[seed % wrong.numel()] += 1
    prediction = split_target(wrong % 3, 3, LabelFormat()).one_hot
    worse = boundary_terms(prediction, target, softmax=softmax)
    assert worse.pairs > 0


@pytest.mark.parametrize("size", [(23, 40), (9, 14, 11), (3, 50)], ids=str)
def test_distances_are_exact_as_far_as_they_count(size):
    points = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) < 0.01
    distances = squared_distances(points)
    for sample, ours in zip(points[:, 0], distances[:, 0], strict=True):
        true = distance_transform_edt(~sample.numpy()) ** 2 if sample.any() else np.full(size, 1e4)
        near = true <= 25
        assert np.allclose(ours.numpy()[near], true[near])
        assert (ours.numpy()[~near] > 25).all()


def test_what_is_ignored_has_no_boundary():
    labels = torch.zeros(1, 1, 6, 6, dtype=torch.int64)
    labels[..., 3:] = 2
    target = split_target(labels, 2, LabelFormat(ignore_label=2))
    p = torch.rand(1, 2, 6, 6).softmax(1)
    terms = boundary_terms(p, target, softmax=True)
    assert terms.pairs == 0
    changed = p.clone()
    changed[..., 3:] = torch.rand(1, 2, 6, 3).softmax(1)
    assert torch.equal(torch.stack(boundary_terms(changed, target, softmax=True)), torch.stack(terms))


# ---- the loss --------------------------------------------------------------------------------------------------------


def drgo(label_format=LabelFormat(), **kwargs):  # noqa: B008
    return DRGOLoss(DiceCrossEntropyLoss(label_format, schedule="ordinary"), label_format, **kwargs)


def test_gamma_goes_from_first_to_last_epoch():
    loss, gammas = drgo(), []
    for epoch in (0, 50, 100):
        loss.start_epoch(epoch, 101)
        gammas.append(loss.gamma)
    assert gammas == pytest.approx([0.7, 0.5, 0.3])
    loss.start_epoch(0, 1)
    assert loss.gamma == 0.7


def test_the_total_is_the_weighted_sum_of_its_terms():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 40, 40), torch.randint(0, 3, (2, 1, 40, 40))
    target = split_target(labels, 3, LabelFormat())
    p, grid = logits.softmax(1), (2, 2)
    statistics = region_statistics(p, target, grid, softmax=True)
    weights = adaptive_weights(statistics, dominant_frequency(target, grid), 0.7)
    adaptive = adaptive_loss(pixel_cross_entropy(logits, target, softmax=True), target, weights)
    segmentation = DiceCrossEntropyLoss(LabelFormat(), schedule="ordinary")(logits, labels)
    boundary = torch.stack(boundary_terms(p, target, softmax=True)).sum()
    loss = drgo(alpha=0.5, beta=0.1)
    total = loss(logits.requires_grad_(), labels)
    torch.testing.assert_close(total, segmentation + 0.5 * adaptive + 0.1 * boundary)
    assert sum(loss.mean_terms().values()) == pytest.approx(total.item(), rel=1e-5)
    without = drgo(beta=0.0)(logits, labels)
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


def test_boundary_loss_has_the_right_gradient():
    labels = torch.tensor(LABELS)[None, None]
    target = split_target(labels, 2, LabelFormat())
    logits = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    double = Target(target.one_hot.double(), None)

    def total(x):
        return torch.stack(boundary_terms(x.softmax(1), double, softmax=True)).sum()

    assert torch.autograd.gradcheck(total, logits.requires_grad_())


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


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: whoever asks for one fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        drgo()(torch.randn(2, 2, 40, 40, requires_grad=True), torch.zeros(2, 1, 40, 40, dtype=torch.int16)).backward()
