"""Proves: every term of DCSNet's loss is the paper's, by hand and in plain loops, inside boxes, and stays finite."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import LabelFormat, Target
from nnunet_plugins.losses.dcsnet import (
    boundary_loss,
    consistency_loss,
    edge_loss,
    focal_loss,
    inner_edges,
    laplacian_edges,
    segmentation_loss,
    target_in_boxes,
)

LABELS, REGIONS = LabelFormat(), LabelFormat(regions=True)
IGNORE = 3
LABELS_IGNORE, REGIONS_IGNORE = LabelFormat(ignore_label=IGNORE), LabelFormat(regions=True, ignore_label=IGNORE)


class Segments(NamedTuple):
    logits: Tensor
    levels: tuple[Tensor, ...]
    edges: Tensor


class Outputs(NamedTuple):
    """Of a network that looks at these boxes."""

    logits: Tensor
    segments: Segments | None
    boxes: Tensor | None
    weights: Tensor | None
    detection_losses: dict[str, Tensor] | None


def outputs_of(maps, boxes, weights=None, detection=None):
    """Outputs with ``(6, N, K, S, S)`` logits: of all levels, those of each, and of the edges."""
    weights = torch.ones(len(boxes)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    segments = Segments(maps[0], tuple(maps[1:5]), maps[5])
    return Outputs(
        maps.new_zeros(1, maps.shape[2], 1, 1),
        segments,
        boxes,
        weights,
        {"box": maps.new_zeros(())} if detection is None else detection,
    )


def whole(batch, size):
    """Boxes that are the images."""
    return torch.tensor([[float(index), 0, 0, size, size] for index in range(batch)])


def drawing(text):
    """A label map ``(1, 1, H, W)`` of digits; dots are background."""
    rows = [[0 if c == "." else int(c) for c in row] for row in text.split()]
    return torch.tensor(rows, dtype=torch.int16)[None, None]


def one_hots(labels, num_classes):
    return (labels.long() == torch.arange(num_classes).view(-1, 1, 1)).float()


# ---- the paper's formulas in plain loops -----------------------------------------------------------------------------

SMOOTH = 1e-5


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, dtype=float)))


def neighbours(m, row, column):
    """The values of 3x3 pixels as far as they are in the map."""
    return [
        m[r][c]
        for r in range(max(row - 1, 0), min(row + 2, len(m)))
        for c in range(max(column - 1, 0), min(column + 2, len(m[0])))
    ]


def per_pixel(function, m):
    return np.array([[function(m, row, column) for column in range(len(m[0]))] for row in range(len(m))])


def literal_inner_edges(m):
    return per_pixel(lambda m, r, c: m[r][c] - min(neighbours(m, r, c)), m)


def literal_laplacian_edges(y):
    return per_pixel(lambda y, r, c: float(len(set(neighbours(y, r, c))) > 1), y)


def dice(y, p):
    return 1 - (2 * np.sum(y * p) + SMOOTH) / (np.sum(y) + np.sum(p) + SMOOTH)


def boundary(y, p):
    return dice(literal_inner_edges(y), literal_inner_edges(p))


def focal(y, p):
    of_truth = np.where(y > 0, p, 1 - p)
    return np.mean(-((1 - of_truth) ** 2) * np.log(of_truth))


def seg(y, p):
    """Section 3.4 with the weights of section 4.2."""
    return 0.5 * dice(y, p) + 0.3 * focal(y, p) + 0.2 * boundary(y, p)


def bce(y, p):
    return np.mean(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def cons(maps):
    """Eq. 10 with a mean over pixels, of probabilities of D2 ... D5."""
    return np.mean([np.mean((p - q) ** 2) for p, q in pairwise(maps)])


Y = drawing("""
    ....
    .11.
    .111
    ..11
""")
Y_ARRAY = Y[0, 0].numpy().astype(float)


def z_maps(*shape, seed=0):
    """Logits of the foreground, or of what the shape says."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def terms_of(label_format, outputs, target, **kwargs):
    loss = DCSNetLoss(label_format, **kwargs)
    total = loss(outputs, target)
    terms = loss.mean_terms()
    assert total.item() == pytest.approx(sum(terms.values()), rel=1e-5, abs=1e-6)
    return {name: terms[name] for name in ("main", "levels", "0.2 * edge", "0.05 * cons")}


# ---- the whole by hand -----------------------------------------------------------------------------------------------


def expected_terms(y, z, weights=(0.8, 0.6, 0.4, 0.2)):
    """Of one map y ``(S, S)`` and ``(6, S, S)`` logits of it."""
    main, *levels, edge = sigmoid(z)
    return {
        "main": seg(y, main),
        "levels": sum(w * seg(y, p) for w, p in zip(weights, levels, strict=True)),
        "0.2 * edge": 0.2 * bce(literal_laplacian_edges(y), edge),
        "0.05 * cons": 0.05 * cons(levels),
    }


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
        "levels": sum(w * seg_of_classes(q) for w, q in zip((0.8, 0.6, 0.4, 0.2), p[1:], strict=True)),
        "0.2 * edge": 0.2 * np.mean([bce(literal_laplacian_edges(y[k]), edges[k]) for k in (0, 1, 2)]),
        "0.05 * cons": 0.05 * cons(p[1:]),
    }
    assert terms_of(LABELS, outputs_of(maps, whole(1, 4)), labels) == pytest.approx(expected, rel=1e-4)


def test_overlapping_regions_by_hand():
    """All is a mean over the regions."""
    regions = torch.cat((drawing(".... .111 .111 .111"), drawing(".... .1.. .11. ....")), 1).bool()
    maps = z_maps(6, 1, 2, 4, 4)
    each = [expected_terms(regions[0, k].numpy().astype(float), maps[:, 0, k].numpy()) for k in (0, 1)]
    expected = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
    assert terms_of(REGIONS, outputs_of(maps, whole(1, 4)), regions) == pytest.approx(expected, rel=1e-4)


def test_boxes_of_any_images_and_several_of_one_are_a_batch():
    """With one Dice for all of them, or the mean of those of each."""
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


# ---- what counts nowhere ---------------------------------------------------------------------------------------------


def ignoring(label_format):
    """A target of two images with ignored pixels, and logits of the boxes that are these images."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 8, 8), dtype=torch.int16)
    labels[0, 0, :, 5:] = IGNORE
    labels[1, 0, 2, 3] = IGNORE
    if not label_format.regions:
        return labels, z_maps(6, 2, 3, 8, 8), labels == IGNORE
    target = torch.cat([labels == 1, (labels == 1) | (labels == 2), labels == IGNORE], 1)
    return target, z_maps(6, 2, 2, 8, 8), labels == IGNORE


@pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "single"])
@pytest.mark.parametrize("label_format", [LABELS_IGNORE, REGIONS_IGNORE], ids=["labels", "regions"])
def test_ignored_pixels_count_nowhere(label_format, batch_dice):
    target, maps, ignored = ignoring(label_format)
    other = torch.where(ignored, 5 * z_maps(*maps.shape, seed=1), maps)
    terms = terms_of(label_format, outputs_of(maps, whole(2, 8)), target, batch_dice=batch_dice)
    assert terms_of(label_format, outputs_of(other, whole(2, 8)), target, batch_dice=batch_dice) == pytest.approx(terms)
    maps.requires_grad_()
    DCSNetLoss(label_format, batch_dice=batch_dice)(outputs_of(maps, whole(2, 8)), target).backward()
    assert not (maps.grad * ignored).any()
    assert maps.grad[:5].abs().sum(2, keepdim=True)[:, ~ignored].all()


def test_what_regions_say_about_ignored_pixels_counts_nowhere():
    target, maps, ignored = ignoring(REGIONS_IGNORE)
    other = target.clone()
    other[:, :2] ^= ignored & (torch.rand(2, 2, 8, 8) < 0.5)
    assert not torch.equal(other, target)
    terms = [terms_of(REGIONS_IGNORE, outputs_of(maps, whole(2, 8)), t) for t in (target, other)]
    assert terms[0] == pytest.approx(terms[1])


def test_edges_beside_ignored_pixels_are_unknown():
    """There is an edge only where all neighbours are annotated: here in two columns of five."""
    labels = drawing("""
        .1133
        .1133
        .1133
        ...33
        ...33
    """)
    z = z_maps(5, 5)
    y, p = (labels[0, 0] == 1).numpy().astype(float), sigmoid(z.numpy())
    target = target_in_boxes(
        Target(one_hots(labels, 2) * (labels < IGNORE), (labels < IGNORE).float()),
        whole(1, 5),
        torch.ones(1),
        5,
        softmax=True,
    )
    maps = torch.stack((torch.zeros_like(z), z))[None]
    inner = dice(literal_inner_edges(y)[:, :2], literal_inner_edges(p)[:, :2])
    assert boundary_loss(maps.softmax(1), target).item() == pytest.approx(inner, rel=1e-4)
    laplacian = bce(literal_laplacian_edges(y)[:, :2], p[:, :2])
    assert edge_loss(torch.stack((z, z))[None], target).item() == pytest.approx(laplacian, rel=1e-4)


@pytest.mark.parametrize("label_format", [LABELS, LABELS_IGNORE, REGIONS], ids=["labels", "labels_ignore", "regions"])
def test_boxes_of_weight_0_count_nowhere(label_format):
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (2, 1, 6, 6), dtype=torch.int16)
    target = labels.bool() if label_format.regions else labels
    maps = z_maps(6, 3, 1 if label_format.regions else 2, 6, 6)
    boxes = torch.tensor([[0.0, 0, 0, 6, 6], [1, 1, 0, 4, 6], [1, 0, 0, 6, 6]])
    maps.requires_grad_()
    outputs = outputs_of(maps, boxes, [1, 0, 1])
    alone = outputs_of(maps[:, [0, 2]], boxes[[0, 2]])
    assert terms_of(label_format, outputs, target) == pytest.approx(terms_of(label_format, alone, target))
    DCSNetLoss(label_format)(outputs, target).backward()
    assert not maps.grad[:, 1].any()
    assert maps.grad[:, [0, 2]].any(-1).any(-1).any(-1).all()


@pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "single"])
@pytest.mark.parametrize("label_format", [LABELS, REGIONS], ids=["labels", "regions"])
def test_a_batch_without_an_object_leaves_the_detectors_losses_and_zeros_for_gradients(label_format, batch_dice):
    maps = z_maps(6, 1, 2, 6, 6).requires_grad_()
    detection = {"objectness": torch.tensor(0.25, requires_grad=True)}
    target = torch.zeros(2, 2, 6, 6).bool() if label_format.regions else torch.zeros(2, 1, 6, 6, dtype=torch.int16)
    loss = DCSNetLoss(label_format, batch_dice=batch_dice)
    total = loss(outputs_of(maps, whole(1, 6), [0], detection), target)
    total.backward()
    assert total.item() == pytest.approx(0.25, abs=1e-6)
    assert maps.grad is not None and not maps.grad.any()
    assert detection["objectness"].grad == 1


def test_images_without_annotation_leave_zeros():
    target, maps = torch.full((1, 1, 6, 6), IGNORE, dtype=torch.int16), z_maps(6, 1, 3, 6, 6).requires_grad_()
    total = DCSNetLoss(LABELS_IGNORE)(outputs_of(maps, whole(1, 6)), target)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert not maps.grad.any()


# ---- targets in boxes ------------------------------------------------------------------------------------------------


def labels_of(target):
    """``(N, S, S)``, and -1 where the mask is 0."""
    return target.one_hot.argmax(1).where(target.mask[:, 0] > 0, -1)


def in_boxes(labels, boxes, size, *, num_classes=3, weights=None, ignore=None):
    known = None if ignore is None else (labels != ignore).float()
    maps = one_hots(labels, num_classes)
    target = Target(maps if known is None else maps * known, known)
    weights = torch.ones(len(boxes)) if weights is None else torch.tensor(weights)
    return target_in_boxes(target, torch.tensor(boxes), weights, size, softmax=True)


def test_a_box_of_as_many_pixels_as_the_head_has_is_the_label_map():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 9, 11))
    target = in_boxes(labels, [[1.0, 2, 3, 7, 8], [0, 6, 4, 11, 9]], 5)
    assert torch.equal(labels_of(target), torch.stack((labels[1, 0, 3:8, 2:7], labels[0, 0, 4:9, 6:11])))
    assert torch.equal(target.one_hot.sum(1), torch.ones(2, 5, 5))
    assert torch.equal(target.mask, torch.ones(2, 1, 5, 5))


def test_a_box_of_half_as_many_pixels_is_the_label_map_with_every_pixel_doubled():
    """Binary, where the nearest of four pixels has the majority by itself: 9/16."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (1, 1, 9, 11))
    target = in_boxes(labels, [[0.0, 2, 3, 6, 7]], 8, num_classes=2)
    expected = labels[0, 0, 3:7, 2:6].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(labels_of(target)[0], expected)


def test_a_magnified_edge_lies_between_the_pixels():
    labels = drawing("..111 ..111 ..111")
    target = in_boxes(labels, [[0.0, 1, 1, 3, 3]], 16, num_classes=2)
    assert torch.equal(labels_of(target)[0], (torch.arange(16) >= 8).long().expand(16, 16))


def test_a_cell_of_many_pixels_has_the_class_of_most():
    labels = drawing("""
        112...
        112..1
        1.2221
        1..222
    """)
    target = in_boxes(labels, [[0.0, 0, 0, 6, 4]], 2)  # cells of 3x2 pixels
    assert labels_of(target)[0].tolist() == [[1, 0], [0, 2]]


def test_a_cell_is_in_a_region_that_has_half_of_it():
    regions = torch.cat(
        (drawing("11.. .... .... ...."), drawing("1111 1.11 11.. 1..."), drawing("1... .... .... ...1")), 1
    )
    target = target_in_boxes(
        Target(regions.float(), None), torch.tensor([[0.0, 0, 0, 4, 4]]), torch.ones(1), 2, softmax=False
    )
    assert target.one_hot[0].tolist() == [[[1, 0], [0, 0]], [[1, 1], [1, 0]], [[0, 0], [0, 0]]]


def test_a_cell_is_annotated_if_half_of_it_is_and_has_a_class_of_what_is_annotated():
    labels = drawing("""
        1133
        3322
        .333
        ..23
    """)
    target = in_boxes(labels, [[0.0, 0, 0, 4, 4]], 2, ignore=IGNORE)
    assert labels_of(target)[0].tolist() == [[1, 2], [0, -1]]
    assert target.one_hot[0, :, 1, 1].tolist() == [0, 0, 0]
    target = in_boxes(labels, [[0.0, 0, 0, 4, 4]], 4, ignore=IGNORE)
    assert torch.equal(labels_of(target)[0], labels[0, 0].where(labels[0, 0] < IGNORE, -1).long())


def test_of_a_cell_annotated_in_part_regions_are_judged_by_that_part_as_classes_are():
    """Five pixels: two of class 1, one of background, two ignored. Of what is known, 1 has the majority."""
    labels = drawing("11.33").expand(1, 1, 5, 5)
    known = (labels < IGNORE).float()
    box, weight = torch.tensor([[0.0, 0, 0, 5, 5]]), torch.ones(1)
    classes = target_in_boxes(Target(one_hots(labels, 2) * known, known), box, weight, 1, softmax=True)
    regions = target_in_boxes(Target((labels == 1).float(), known), box, weight, 1, softmax=False)
    assert classes.mask.item() == regions.mask.item() == 1
    assert classes.one_hot[0, 1].item() == 1
    assert regions.one_hot[0, 0].item() == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 1), *[st.floats(0, 8, width=32)] * 2, *[st.floats(0.5, 12, width=32)] * 2), min_size=1
    ),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_targets_in_any_boxes_are_0_and_1_and_one_class_everywhere(rows, size, ignore, seed):
    labels = torch.randint(0, 4 if ignore else 3, (2, 1, 10, 9), generator=torch.Generator().manual_seed(seed))
    boxes = [[float(i), x, y, min(x + w, 9.0), min(y + h, 10.0)] for i, x, y, w, h in rows]
    weights = [float(index % 3 > 0) for index in range(len(boxes))]
    target = in_boxes(labels, boxes, size, weights=weights, ignore=IGNORE if ignore else None)
    assert set(target.one_hot.unique().tolist()) | set(target.mask.unique().tolist()) <= {0, 1}
    assert torch.equal(target.one_hot.sum(1, keepdim=True), target.mask)
    if not ignore:
        assert torch.equal(target.mask, torch.tensor(weights).view(-1, 1, 1, 1).expand(-1, 1, size, size))


# ---- terms -----------------------------------------------------------------------------------------------------------


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
    """Eq. 10 of two pixels: probabilities 0.5 and 0.8; 0.7 and 0.8; 0.4 and 0.2; 0.4 and 0.2."""
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
def test_levels_that_agree_are_consistent_whatever_they_say(softmax):
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


# ---- levels and the total --------------------------------------------------------------------------------------------

EARLY, MIDDLE, LATE = (0.8, 0.6, 0.4, 0.2), (0.9, 1.0, 1.1, 1.2), (0.8, 0.9, 1.0, 1.1)  # of D2 ... D5
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


def test_validation_loss_does_not_jump_where_the_weights_change():
    """Or a schedule that waits for a better one would take that for a plateau."""
    loss = DCSNetLoss(LabelFormat())
    with torch.no_grad():
        for epoch in range(100):
            loss.start_epoch(epoch, 100)
            assert loss.level_weights == LATE


def test_every_level_has_its_own_weight():
    """A level counts as much as its loss exceeds that of levels that are right."""
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


# ---- limits ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("softmax", [True, False])
def test_gradients_are_those_of_finite_differences(softmax):
    """In float64, with a box of which a part is ignored."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 4, 4))
    mask = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    mask[1, :, :, 3] = 0
    target = Target(one_hots(labels, 3).double() * mask, mask)
    levels = torch.randn(4, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    for function in (
        lambda levels: segmentation_loss(levels[0], target, softmax=softmax),
        lambda levels: segmentation_loss(levels[0], target, softmax=softmax, batch_dice=False),
        lambda levels: edge_loss(levels[0], target),
        lambda levels: consistency_loss(list(levels), mask, softmax=softmax),
    ):
        assert torch.autograd.gradcheck(function, levels)
