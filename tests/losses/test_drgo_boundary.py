"""Proves: DRGO's boundary terms are section 3.4.3's, by hand and in loops over pixels, and take little memory."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from support.drgo_example import LABELS, target_of, two_classes

from nnunet_plugins.losses.common import LabelFormat, Target, split_target
from nnunet_plugins.losses.drgo_boundary import boundary_distances, boundary_pairs, boundary_terms, squared_distances
from nnunet_plugins.trainers.memory.tracker import MemoryTracker

# The boundary's points are the pixels with a neighbour of another label, ``x``; a pair counts from its nearer pixel.
#     . x x .
#     . x x .        24 pairs, 16 of them with an x: weight 1; six at distance 1: weight 1 / 2;
#     . . x x        two at distance sqrt(2), (2, 0)-(3, 0) and (3, 0)-(3, 1): weight 1 / (1 + sqrt(2))
#     . . . x
SUM_OF_WEIGHTS = 16 + 6 / 2 + 2 / (1 + math.sqrt(2))
STEPS = 5  # pairs with different labels


def pairs_of(target):
    return list(boundary_pairs(target, boundary_distances(target)))


def test_weights_of_pairs_by_hand():
    vertical, horizontal = pairs_of(target_of(LABELS))
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
    """The prediction has the true steps, and one of 0.5 right of the first column, where the labels agree."""
    p = two_classes(LABELS).float()
    p[:, 0, :, 0], p[:, 1, :, 0] = 0.5, 0.5
    terms = boundary_terms(p, target_of(LABELS), softmax=True)
    assert terms.pairs.item() == pytest.approx(0.5 * (1 + 1 + 0.5 + 1 / (1 + math.sqrt(2))) / SUM_OF_WEIGHTS, rel=1e-5)
    assert terms.smoothing.item() == pytest.approx(0.01 * 4 * 0.5 / 11)  # 11 pixels are not on an edge
    assert terms.edges.item() == pytest.approx(4 * 0.5 / 16)


def test_pairs_count_up_to_a_distance_of_five_pixels():
    labels = torch.zeros(1, 1, 1, 12, dtype=torch.int64)
    labels[..., 0] = 1  # the boundary's points are pixels 0 and 1; pixels 6 and 7 are 5 and 6 pixels away
    weights = pairs_of(split_target(labels, 2, LabelFormat()))[1].weights.flatten()
    assert weights.tolist() == pytest.approx([1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 0, 0, 0, 0, 0])


def slow_boundary_terms(p, one_hot, mask, share, phi=0.01):
    """Boundary terms of one sample, ``(K, *S)``, in loops over pixels."""
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


def test_ignored_pixels_have_no_boundary():
    labels = torch.zeros(1, 1, 6, 6, dtype=torch.int64)
    labels[..., 3:] = 2
    target = split_target(labels, 2, LabelFormat(ignore_label=2))
    p = torch.rand(1, 2, 6, 6).softmax(1)
    terms = boundary_terms(p, target, softmax=True)
    assert terms.pairs == 0
    changed = p.clone()
    changed[..., 3:] = torch.rand(1, 2, 6, 3).softmax(1)
    assert torch.equal(torch.stack(boundary_terms(changed, target, softmax=True)), torch.stack(terms))


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("ignored", [None, 2])
@pytest.mark.parametrize("size", [(4, 3), (3, 2, 2)], ids=str)
def test_each_boundary_term_has_the_right_gradient(softmax, ignored, size):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (5, 1, *size), generator=generator)  # five samples in four parts
    target = split_target(labels, 2 if ignored else 3, LabelFormat(ignore_label=ignored))
    logits = torch.randn(target.one_hot.shape, dtype=torch.float64, generator=generator)
    double = Target(target.one_hot.double(), target.mask)

    def terms(x):
        return tuple(boundary_terms(x.softmax(1) if softmax else x.sigmoid(), double, softmax=softmax))

    assert torch.autograd.gradcheck(terms, logits.requires_grad_())


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("size", [(32, 40), (16, 20, 24)], ids=str)
def test_boundary_terms_keep_a_byte_for_each_pixel_besides_probabilities_and_labels(softmax, size):
    target = split_target(torch.randint(0, 3, (2, 1, *size)), 3, LabelFormat())
    p = torch.rand(2, 3, *size, requires_grad=True)
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        terms = boundary_terms(p, target, softmax=softmax)
    assert {p.data_ptr(), target.one_hot.data_ptr()} <= set(kept)
    assert sum(kept.values()) - p.nbytes - target.one_hot.nbytes <= 2 * math.prod(size) + 100
    torch.stack(terms).sum().backward()
    assert p.grad.isfinite().all() and p.grad.any()


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (32, 32, 32)], ids=str)
def test_boundary_terms_and_their_gradient_take_32_bytes_for_each_pixel_and_class_at_most(softmax, size):
    target = split_target(torch.zeros(2, 1, *size, dtype=torch.int64), 2, LabelFormat())
    with MemoryTracker() as memory:
        p = torch.rand(2, 2, *size).requires_grad_()
        torch.stack(boundary_terms(p, target, softmax=softmax)).sum().backward()
    assert memory.peak <= 32 * p.numel()
