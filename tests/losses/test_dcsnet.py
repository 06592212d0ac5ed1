"""Proves: DCSNet's loss is eq. 11 of the paper inside boxes, for classes and regions, with its schedule of levels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.dcsnet_formulas import (
    Y_ARRAY,
    Y,
    bce,
    boundary,
    cons,
    dice,
    expected_terms,
    focal,
    literal_inner_edges,
    literal_laplacian_edges,
    one_hots,
    outputs_of,
    seg,
    sigmoid,
    terms_of,
    whole,
    z_maps,
)
from support.label_maps import IGNORE, LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE, drawing

from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import LabelFormat, Target
from nnunet_plugins.losses.dcsnet import segmentation_loss


@pytest.mark.parametrize("as_list", [True, False], ids=["list", "tensor"])
@pytest.mark.parametrize("label_format", [LABELS, REGIONS], ids=["labels", "regions"])
def test_binary_masks_have_the_papers_loss(label_format, as_list):
    z = z_maps(6, 1, 1, 4, 4)
    maps = z if label_format.regions else torch.cat((torch.zeros_like(z), z), 2)
    if not label_format.regions:
        maps[5, :, 0] = z[5, :, 0]  # the background has the foreground's edges
    target = Y.bool() if label_format.regions else Y
    terms = terms_of(label_format, outputs_of(maps, whole(1, 4)), [target] if as_list else target)
    assert terms == pytest.approx(expected_terms(Y_ARRAY, z[:, 0, 0].numpy()), rel=1e-4)


@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_softmax_of_two_classes_is_the_sigmoid_of_their_difference(seed, boxes, batch_dice):
    a, b = z_maps(2, 6, boxes, 1, 5, 5, seed=seed)
    labels = torch.randint(0, 2, (boxes, 1, 5, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    a[5] = b[5]  # the edges are sigmoids either way
    classes = outputs_of(torch.cat((a, b), 2), whole(boxes, 5))
    regions = outputs_of(torch.cat((b[:5] - a[:5], b[5:])), whole(boxes, 5))
    theirs = terms_of(REGIONS, regions, labels.bool(), batch_dice=batch_dice)
    assert terms_of(LABELS, classes, labels, batch_dice=batch_dice) == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_three_classes_by_hand():
    labels = drawing("""
        .11.
        .112
        .222
        ..2.
    """)
    maps = z_maps(6, 1, 3, 4, 4)
    y = one_hots(labels[0], 3).numpy()
    p = maps[:5, 0].double().softmax(1).numpy()
    edges = sigmoid(maps[5, 0].numpy())

    def seg_of_classes(p):
        of_truth = np.sum(p * y, 0)
        focal_of_classes = np.mean(-((1 - of_truth) ** 2) * np.log(of_truth))
        dices, boundaries = ([function(y[k], p[k]) for k in (1, 2)] for function in (dice, boundary))
        return 0.5 * np.mean(dices) + 0.3 * focal_of_classes + 0.2 * np.mean(boundaries)

    expected = {
        "main": seg_of_classes(p[0]),
        "levels": sum(w * seg_of_classes(q) for w, q in zip((1.0, 0.8, 0.6, 0.4), p[1:], strict=True)),
        "0.2 * edge": 0.2 * np.mean([bce(literal_laplacian_edges(y[k]), edges[k]) for k in (0, 1, 2)]),
        "0.05 * cons": 0.05 * cons(p[1:]),
    }
    assert terms_of(LABELS, outputs_of(maps, whole(1, 4)), labels) == pytest.approx(expected, rel=1e-4)


def test_overlapping_regions_by_hand():
    """Every term is a mean over the regions."""
    regions = torch.cat((drawing(".... .111 .111 .111"), drawing(".... .1.. .11. ....")), 1).bool()
    maps = z_maps(6, 1, 2, 4, 4)
    each = [expected_terms(regions[0, k].numpy().astype(float), maps[:, 0, k].numpy()) for k in (0, 1)]
    expected = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
    assert terms_of(REGIONS, outputs_of(maps, whole(1, 4)), regions) == pytest.approx(expected, rel=1e-4)


def test_boxes_of_any_images_and_several_of_one_are_a_batch():
    """One Dice counts for all boxes, or the mean of every box's own."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (2, 1, 9, 10), dtype=torch.int16)
    boxes = torch.tensor([[1.0, 2, 1, 6, 5], [0, 0, 0, 4, 4], [1, 6, 5, 10, 9]])
    y = np.stack([labels[1, 0, 1:5, 2:6], labels[0, 0, :4, :4], labels[1, 0, 5:9, 6:10]]).astype(float)
    z = z_maps(6, 3, 1, 4, 4)
    p = sigmoid(z[0, :, 0].numpy())
    inner_y, inner_p = (np.stack([literal_inner_edges(m) for m in maps]) for maps in (y, p))
    common = 0.5 * dice(y, p) + 0.3 * focal(y, p) + 0.2 * dice(inner_y, inner_p)
    single = np.mean([seg(*pair) for pair in zip(y, p, strict=True)])
    outputs = outputs_of(z, boxes)
    assert terms_of(REGIONS, outputs, labels.bool())["main"] == pytest.approx(common, rel=1e-4)
    assert terms_of(REGIONS, outputs, labels.bool(), batch_dice=False)["main"] == pytest.approx(single, rel=1e-4)


# ---- levels and the total --------------------------------------------------------------------------------------------


EARLY, MIDDLE, LATE = (1.0, 0.8, 0.6, 0.4), (0.8, 0.9, 1.0, 1.1), (0.7, 0.8, 0.9, 1.0)  # of D2 ... D5
SCHEDULE = [(0, EARLY), (29, EARLY), (30, MIDDLE), (59, MIDDLE), (60, LATE), (99, LATE)]


@pytest.mark.parametrize(("epoch", "weights"), SCHEDULE)
def test_level_weights_change_at_30_and_60_percent_of_the_training(epoch, weights):
    loss = DCSNetLoss(REGIONS)
    for epochs_per_percent in (1, 10):
        loss.start_epoch(epoch * epochs_per_percent, 100 * epochs_per_percent)
        assert loss.level_weights == weights
    z = z_maps(6, 1, 1, 4, 4)
    loss(outputs_of(z, whole(1, 4)), Y.bool())
    expected = expected_terms(Y_ARRAY, z[:, 0, 0].numpy(), weights)
    assert loss.mean_terms()["levels"] == pytest.approx(expected["levels"], rel=1e-4)
    assert loss.mean_terms()["main"] == pytest.approx(expected["main"], rel=1e-4)


def test_coarse_levels_weigh_ever_more_against_finer_ones():
    """Section 3.4: "progressively increased for lower-resolution outputs"."""
    loss, ratios = DCSNetLoss(REGIONS), []
    for epoch in (0, 30, 60):
        loss.start_epoch(epoch, 100)
        ratios.append([coarse / fine for fine, coarse in pairwise(loss.level_weights)])
    assert (np.diff(ratios, axis=0) > 0).all()
    assert np.min(ratios[1:]) > 1


def test_validation_loss_does_not_jump_where_the_weights_change():
    """A schedule that waits for a better loss would take a jump for a plateau."""
    loss = DCSNetLoss(LabelFormat())
    with torch.no_grad():
        for epoch in range(100):
            loss.start_epoch(epoch, 100)
            assert loss.level_weights == LATE


def test_every_level_has_its_own_weight():
    """Only one level is wrong, so that the term is that level's loss times its weight."""
    right = 30 * (2 * Y.float() - 1)
    for level, weight in enumerate(EARLY):
        maps = right.expand(6, 1, 1, 4, 4).clone()
        maps[1 + level] *= -1
        wrong = segmentation_loss(maps[1 + level], Target(Y.float(), None), softmax=False).item()
        assert wrong > 1
        terms = terms_of(REGIONS, outputs_of(maps, whole(1, 4)), Y.bool())
        assert terms["levels"] == pytest.approx(weight * wrong, rel=1e-4)


def test_total_is_the_sum_of_its_terms_and_of_the_detectors_losses():
    detection = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in (("loss_objectness", 0.5), ("loss_rpn_box_reg", 0.125), ("loss_classifier", 2.0))
    }
    z = z_maps(6, 1, 1, 4, 4)
    loss = DCSNetLoss(REGIONS)
    total = loss(outputs_of(z, whole(1, 4), detection=detection), [Y.bool()])
    terms = loss.mean_terms()
    expected = expected_terms(Y_ARRAY, z[:, 0, 0].numpy())
    assert terms == pytest.approx(expected | {name: value.item() for name, value in detection.items()}, rel=1e-4)
    assert total.item() == pytest.approx(sum(terms.values()), rel=1e-5)
    total.backward()
    assert all(value.grad == 1 for value in detection.values())


def test_a_network_that_was_given_images_alone_is_refused():
    outputs = outputs_of(z_maps(6, 1, 2, 4, 4), whole(1, 4))
    for part in outputs._fields[1:]:
        with pytest.raises(ValueError, match="given images alone; in training it needs Annotated ones"):
            DCSNetLoss(LABELS)(outputs._replace(**{part: None}), Y)


@pytest.mark.parametrize("magnitude", [1000.0, 30.0])
@pytest.mark.parametrize("kind", ["random", "nothing", "everything"])
@pytest.mark.parametrize("label_format", [LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE])
def test_everything_is_finite_for_logits_at_the_limits(label_format, kind, magnitude):
    torch.manual_seed(0)
    labels = {
        "random": torch.randint(0, 3 + (label_format.ignore_label is not None), (2, 1, 6, 6), dtype=torch.int16),
        "nothing": torch.zeros(2, 1, 6, 6, dtype=torch.int16),
        "everything": torch.full((2, 1, 6, 6), 2, dtype=torch.int16),
    }[kind]
    target = labels
    if label_format.regions:
        channels = [labels == 1, labels >= 1] + [labels == IGNORE] * (label_format.ignore_label is not None)
        target = torch.cat(channels, 1)
    num_maps = 2 if label_format.regions else 3
    random = magnitude * torch.randn(6, 2, num_maps, 6, 6).sign()
    for maps in (random, torch.full_like(random, magnitude), torch.full_like(random, -magnitude)):
        maps = maps.clone().requires_grad_()
        boxes = torch.tensor([[1.0, 0.25, 0, 5.5, 6], [0, 2, 3, 2.5, 3.25]])
        loss = DCSNetLoss(label_format)(outputs_of(maps, boxes), target)
        loss.backward()
        assert loss.isfinite()
        assert maps.grad.isfinite().all()
