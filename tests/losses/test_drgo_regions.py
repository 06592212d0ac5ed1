"""Proves: DRGO's regions, their statistics and the adaptive loss are section 3.4.2's, by hand on 4x4 images."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drgo_example import LABELS, target_of, two_classes

from nnunet_plugins.losses.common import LabelFormat, Target
from nnunet_plugins.losses.drgo_regions import (
    adaptive_loss,
    adaptive_weights,
    dominant_frequency,
    foreground,
    region_grid,
    region_statistics,
    region_sums,
)

LN2 = math.log(2)


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


# The upper left region is unsure; the others are sure. The upper right is all foreground, the lower right a quarter.
FOREGROUND = [[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]
UNSURE, SURE = LN2, binary_entropy(0.9)


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


def test_ignored_pixels_do_not_count_in_a_regions_statistics():
    labels = [[0, 0, 1, 1], [2, 2, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    target = target_of(labels, LabelFormat(ignore_label=2))
    p = two_classes([[0.9, 0.9, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9]])
    statistics = region_statistics(p, target, (2, 2), softmax=True)
    assert statistics.annotated.flatten().tolist() == [2, 4, 4, 4]
    assert statistics.uncertainty[0, 0, 0, 0].item() == pytest.approx(SURE)
    assert statistics.boundary[0, 0, 0, 0].item() == pytest.approx(0.4)  # steps down from 0.9 to 0.5, both annotated


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
