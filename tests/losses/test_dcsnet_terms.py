"""Proves: each term of DCSNet's loss is the paper's, by hand and in plain loops, with finite and right gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.dcsnet_formulas import (
    literal_inner_edges,
    literal_laplacian_edges,
    one_hots,
    outputs_of,
    terms_of,
    whole,
    z_maps,
)
from support.label_maps import LABELS, REGIONS, drawing

from nnunet_plugins.losses.common import Target
from nnunet_plugins.losses.dcsnet import (
    boundary_loss,
    consistency_loss,
    edge_loss,
    focal_loss,
    inner_edges,
    laplacian_edges,
    segmentation_loss,
)


def test_binary_loss_in_figures():
    """A single pixel of 16 with p = 0.8 and 0.1 elsewhere, worked out with paper and pencil."""
    p = torch.full((4, 4), 0.1)
    p[1, 1] = 0.8
    target = Target(drawing(".... .1.. .... ....").float(), None)
    focal_by_hand = (0.2**2 * -math.log(0.8) + 15 * 0.1**2 * -math.log(0.9)) / 16
    boundary_by_hand = 1 - 2 * 0.7 / (1 + 0.7)  # 0.8 - 0.1; all else is as small as a neighbour
    dice_by_hand = 1 - 2 * 0.8 / (1 + 0.8 + 1.5)
    logits = p.logit()[None, None]
    assert focal_loss(logits, target, softmax=False).item() == pytest.approx(focal_by_hand, rel=1e-4)
    assert boundary_loss(p[None, None], target, background=True).item() == pytest.approx(boundary_by_hand, rel=1e-4)
    expected = 0.5 * dice_by_hand + 0.3 * focal_by_hand + 0.2 * boundary_by_hand
    assert segmentation_loss(logits, target, softmax=False).item() == pytest.approx(expected, rel=1e-4)


def test_focal_loss_is_cross_entropy_weighted_by_what_is_missing():
    p = torch.tensor([0.9, 0.5, 0.2, 1e-3])
    target = Target(torch.tensor([1.0, 0, 1, 0]).view(1, 1, 1, 4), None)
    of_truth = [0.9, 0.5, 0.2, 1 - 1e-3]
    expected = sum((1 - q) ** 2 * -math.log(q) for q in of_truth) / 4
    assert focal_loss(p.logit().view(1, 1, 1, 4), target, softmax=False).item() == pytest.approx(expected, rel=1e-4)


def test_inner_edges_of_a_square_are_its_outermost_pixels_but_not_at_the_border_of_the_map():
    square = drawing("""
        .......
        .1111..
        .1111..
        .1111..
        .1111..
        .......
    """)
    ring = drawing("""
        .......
        .1111..
        .1..1..
        .1..1..
        .1111..
        .......
    """)
    assert torch.equal(inner_edges(square.float()), ring.float())
    assert torch.equal(inner_edges(drawing("111. 111. 111. ....").float()), drawing("..1. ..1. 111. ....").float())
    assert not inner_edges(torch.ones(1, 1, 4, 4)).any()


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
def test_inner_edges_of_probabilities_are_what_3x3_erosion_takes_away(seed, height, width):
    p = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    expected = torch.from_numpy(literal_inner_edges(p[0, 0].numpy()))
    torch.testing.assert_close(inner_edges(p)[0, 0], expected.float())


def test_laplacian_edges_lie_on_both_sides_and_not_along_the_border_of_the_map():
    square = drawing("""
        .......
        .......
        ..111..
        ..111..
        ..111..
        .......
        .......
    """)
    both_sides = drawing("""
        .......
        .11111.
        .11111.
        .11.11.
        .11111.
        .11111.
        .......
    """)
    assert torch.equal(laplacian_edges(square.float()), both_sides.float())
    assert torch.equal(laplacian_edges(1 - square.float()), both_sides.float())
    corner = drawing("111.. 111.. 111.. ..... .....").float()
    assert torch.equal(laplacian_edges(corner), drawing("..11. ..11. 1111. 1111. .....").float())
    assert not laplacian_edges(torch.ones(1, 2, 4, 4)).any()


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
def test_laplacian_edges_are_where_a_neighbour_differs(seed, height, width):
    maps = torch.randint(0, 2, (2, 2, height, width), generator=torch.Generator().manual_seed(seed)).float()
    for edges, map_ in zip(laplacian_edges(maps).flatten(0, 1), maps.flatten(0, 1), strict=True):
        assert edges.tolist() == literal_laplacian_edges(map_.tolist()).tolist()


def test_consistency_by_hand():
    """Two pixels have the probabilities 0.5 and 0.8; 0.7 and 0.8; 0.4 and 0.2; 0.4 and 0.2 in D2 ... D5 (eq. 10)."""
    p = torch.tensor([[0.5, 0.8], [0.7, 0.8], [0.4, 0.2], [0.4, 0.2]]).view(4, 1, 1, 1, 2)
    expected = ((0.2**2 + 0) / 2 + (0.3**2 + 0.6**2) / 2 + 0) / 3
    levels = p.logit()
    assert consistency_loss(list(levels), None, softmax=False).item() == pytest.approx(expected, rel=1e-4)
    classes = torch.cat((torch.zeros_like(levels), levels), 2)
    assert consistency_loss(list(classes), None, softmax=True).item() == pytest.approx(expected, rel=1e-4)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    masked = (0.2**2 + 0.3**2 + 0) / 3
    assert consistency_loss(list(levels), mask, softmax=False).item() == pytest.approx(masked, rel=1e-4)


@pytest.mark.parametrize("softmax", [True, False])
def test_levels_with_equal_probabilities_are_consistent(softmax):
    maps = z_maps(2, 3, 4, 4)
    assert consistency_loss([maps] * 4, None, softmax=softmax).item() == 0
    shifted = [maps + shift for shift in (0, 7, -3, 1)] if softmax else [maps] * 4  # the same probabilities
    assert consistency_loss(shifted, None, softmax=softmax).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("probability", [0.0, 0.02, 0.5, 1.0])
def test_boundary_loss_of_uniform_probabilities_is_1_with_a_finite_gradient(probability):
    p = torch.full((2, 2, 6, 6), probability, requires_grad=True)
    square = drawing("...... .1111. .1111. .1111. ...... ......").expand(2, 2, 6, 6).float()
    loss = boundary_loss(p, Target(square, None), background=True)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-5)
    assert p.grad.isfinite().all() and p.grad.any()


def test_boundary_loss_where_there_is_no_edge_is_finite():
    for y in (torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 5, 5)):
        for p in (y.clone(), 1 - y, torch.rand(1, 1, 5, 5)):
            p.requires_grad_()
            loss = boundary_loss(p, Target(y, None), background=True)
            loss.backward()
            assert 0 <= loss.item() <= 1
            assert p.grad.isfinite().all()
        assert boundary_loss(y, Target(y, None), background=True).item() == 0


@pytest.mark.parametrize("label_format", [LABELS, REGIONS], ids=["labels", "regions"])
def test_a_perfect_confident_prediction_has_no_loss_and_a_wrong_one_has_much(label_format):
    labels = drawing("""
        ........
        .111....
        .111....
        .111.22.
        .....222
        ......22
        ........
        ........
    """)
    first = 1 if label_format.regions else 0
    y = one_hots(labels, 3)[:, first:]
    target = y.bool() if label_format.regions else labels
    right = (40 * (y - 0.5)).expand(6, *y.shape).clone()
    right[5] = 40 * (laplacian_edges(y) - 0.5)
    wrong = -right if label_format.regions else right.roll(1, 2)
    wrong[5] = -right[5]
    softmax = not label_format.regions
    truth = Target(y, None)
    for of_one in (
        lambda maps: terms_of(label_format, outputs_of(maps, whole(1, 8)), target)["main"],
        lambda maps: terms_of(label_format, outputs_of(maps, whole(1, 8)), target)["levels"],
        lambda maps: terms_of(label_format, outputs_of(maps, whole(1, 8)), target)["0.2 * edge"],
        lambda maps: focal_loss(maps[0], truth, softmax=softmax).item(),
        lambda maps: boundary_loss(
            maps[0].softmax(1) if softmax else maps[0].sigmoid(), truth, background=not softmax
        ).item(),
        lambda maps: edge_loss(maps[5], truth).item(),
    ):
        assert of_one(right) == pytest.approx(0, abs=1e-5)
        assert of_one(wrong) > 0.2


@pytest.mark.parametrize("softmax", [True, False])
def test_gradients_are_those_of_finite_differences(softmax):
    """Checked in float64, with a box of which a part is ignored."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 4, 4))
    mask = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    mask[1, :, :, 3] = 0
    target = Target(one_hots(labels, 3).double() * mask, mask)
    levels = torch.randn(4, 2, 3, 4, 4, dtype=torch.float64)
    for function in (
        lambda logits: segmentation_loss(logits, target, softmax=softmax),
        lambda logits: segmentation_loss(logits, target, softmax=softmax, batch_dice=False),
        lambda logits: edge_loss(logits, target),
    ):
        assert torch.autograd.gradcheck(function, levels[0].clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda levels: consistency_loss(list(levels), mask, softmax=softmax), levels.requires_grad_()
    )
