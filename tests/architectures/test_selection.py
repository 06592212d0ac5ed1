"""Proves: what a detector trains on is selected as torchvision does, in shapes that are known beforehand."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection._utils import BoxCoder

from nnunet_plugins.architectures.layers.boxes import moved
from nnunet_plugins.architectures.layers.selection import (
    Selection,
    empty_anchors,
    empty_boxes,
    select,
    selected_anchors,
    selected_boxes,
)

SIZE = (64, 96)
TRUE = torch.tensor([[0.0, 10, 12, 20, 24], [0, 50, 30, 90, 60], [1, 40, 40, 46, 45]])


def random_boxes(number, seed=0):
    """Boxes ``(N, 4)`` of 4 to 40 pixels inside an image."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * torch.tensor([56.0, 24.0])
    return torch.cat((corners, corners + 4 + 36 * torch.rand(number, 2, generator=generator)), 1)


def random_candidates(number):
    """Candidates ``(2, P, 6)``."""
    boxes = torch.stack((random_boxes(number, 1), random_boxes(number, 2)))
    return torch.cat((boxes, torch.randn(2, number, 1), torch.randint(0, 5, (2, number, 1))), 2)


def selected(candidates=200, anchors=900, true=TRUE, annotated=None, max_boxes=24) -> Selection:
    torch.manual_seed(0)
    return select(random_candidates(candidates), random_boxes(anchors), true, annotated, SIZE, 2000, max_boxes)


def literal_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def best_object(box, image, true=TRUE):
    """Largest overlap of a box with the objects of its image, and that object."""
    return max((literal_iou(box, row[1:]), row[1:]) for row in true.tolist() if row[0] == image)


# ---- samples ---------------------------------------------------------------------------------------------------------


def test_samples_are_labelled_by_their_overlap_with_the_nearest_object():
    selection = selected()
    boxes, labels = torch.cat(selection.samples).tolist(), selection.of_samples.labels.tolist()
    weights, offsets = selection.of_samples.weights.tolist(), selection.of_samples.offsets
    assert len(TRUE) < sum(labels) < 64
    for box, label, weight, offset in zip(boxes, labels, weights, offsets, strict=True):
        if not weight:
            continue
        overlap, nearest = best_object(box[1:], box[0])
        assert label == (overlap >= 0.5)
        expected = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(torch.tensor([nearest]), torch.tensor([box[1:]]))
        torch.testing.assert_close(offset, expected[0] if label else torch.zeros(4), rtol=1e-4, atol=1e-4)


def test_anchors_are_labelled_by_their_overlap_or_as_the_nearest_to_an_object():
    selection, anchors = selected(), random_boxes(900).tolist()
    overlaps = [[best_object(box, image) for box in anchors] for image in (0, 1)]
    nearest = {
        (image, max(range(900), key=lambda i: literal_iou(anchors[i], row))) for image, *row in TRUE.long().tolist()
    }
    seen = set()
    truth = selection.of_anchors
    for index, label, weight in zip(selection.anchors.tolist(), truth.labels.tolist(), truth.weights, strict=True):
        image, anchor = divmod(index, 900)
        assert weight == 1 / 512
        overlap = overlaps[image][anchor][0]
        assert label == (overlap >= 0.7 or (image, anchor) in nearest)
        assert label or overlap < 0.3
        seen |= {(image, anchor)}
    assert len(seen) == 512 and nearest <= seen


def test_at_most_a_quarter_of_the_samples_are_objects_where_there_are_many():
    many = torch.cat((torch.zeros(100, 1), random_boxes(100, 1)), 1)
    selection = selected(true=many)
    labels = selection.of_samples.labels[torch.cat(selection.samples)[:, 0] == 0]
    assert labels.sum() == 32


def test_larger_samples_lie_on_coarser_levels():
    """P4 begins at 56 x 56 pixels, P3 at a half of that, and P5 at twice as much."""
    big = torch.tensor([[0.0, 0, 0, 96, 64], [1, 0, 0, 60, 60], [1, 0, 0, 96, 64]])
    selection = selected(true=torch.cat((TRUE, big)))
    assert [len(boxes) > 0 for boxes in selection.samples] == [True, True, True, False]
    for level, boxes in enumerate(selection.samples):
        for _, x1, y1, x2, y2 in boxes.tolist():
            edge = math.sqrt((x2 - x1) * (y2 - y1))
            assert level == sum(edge >= limit for limit in (28, 56, 112))


def test_only_proposed_boxes_count_as_proposed():
    selection = selected()
    boxes = torch.cat(selection.samples)
    is_true = (boxes[:, None] == TRUE).all(2).any(1)
    assert is_true.sum() == len(TRUE), "true boxes are among the samples"
    assert torch.equal(selection.proposed == 0, is_true | (selection.of_samples.weights == 0))


def test_too_few_boxes_are_filled_up_with_some_that_have_no_weight():
    selection = selected(candidates=20, anchors=100)
    samples, anchors = selection.of_samples, selection.of_anchors
    assert len(samples.weights) == 256 and len(anchors.weights) == 512
    for truth in (samples, anchors):
        used = truth.weights > 0
        assert 0 < used.sum() < 210
        assert truth.weights.sum().item() == pytest.approx(1) and len(truth.weights[used].unique()) == 1
        assert not truth.labels[~used].any() and not truth.offsets[~used].any()


@pytest.mark.parametrize("number", [0, 40])
def test_everything_is_finite_without_objects_and_without_candidates(number):
    selection = selected(candidates=number, true=TRUE[:0])
    for truth in (selection.of_anchors, selection.of_samples):
        assert not truth.labels.any() and truth.offsets.isfinite().all() and truth.weights.isfinite().all()


def test_candidates_that_overlap_better_ones_of_their_level_are_no_samples():
    box, other = [10.0, 10, 30, 30], [10.0, 10, 30, 29]
    rows = [[*box, 2.0, 0], [*other, 1.0, 0], [*other, 0.5, 1], [60, 5, 80, 25, 0.1, 0]]
    select_from = torch.tensor([rows])
    selection = select(select_from, random_boxes(50), TRUE[:0], None, SIZE, 2000, 4)
    kept = torch.cat(selection.samples)[selection.of_samples.weights > 0, 1:]
    assert sorted(kept.tolist()) == sorted([box, other, [60, 5, 80, 25]])
    one = select(select_from, random_boxes(50), TRUE[:0], None, SIZE, 1, 4)
    assert torch.cat(one.samples)[one.of_samples.weights > 0, 1:].tolist() == [box]


# ---- what is not annotated -------------------------------------------------------------------------------------------

LEFT = torch.ones(2, 1, *SIZE, dtype=torch.bool)
LEFT[..., 48:] = False
ANCHORS = torch.tensor([[10.0, 10, 20, 20], [30, 30, 65, 40], [30, 30, 67, 40], [70, 30, 90, 50]])
"""Anchors, of which the first two have annotated centres."""


def selected_of_left(true):
    candidates = torch.cat((ANCHORS, torch.zeros(4, 2)), 1).expand(2, 4, 6)
    return select(candidates, ANCHORS, true, LEFT, SIZE, 2000, 4)


def test_pixels_without_annotation_are_no_background():
    selection = selected_of_left(TRUE[:0])
    assert selection.anchors[selection.of_anchors.weights > 0].tolist() == [0, 1, 4, 5]
    boxes = torch.cat(selection.samples)[selection.of_samples.weights > 0]
    assert sorted(boxes.tolist()) == sorted([float(i), *box] for i in (0, 1) for box in ANCHORS[:2].tolist())


def test_an_object_counts_although_its_pixels_are_not_annotated():
    selection = selected_of_left(torch.tensor([[0.0, 68, 30, 92, 50]]))
    assert selection.anchors[selection.of_anchors.labels > 0].tolist() == [3]
    boxes = torch.cat(selection.samples)[selection.of_samples.labels > 0]
    assert boxes.tolist() == [[0, 68, 30, 92, 50]], "the true box, and not the proposal of which nothing is seen"


# ---- true boxes ------------------------------------------------------------------------------------------------------


def test_every_true_box_is_drawn_at_times_and_twice_at_most():
    many = torch.tensor([[i % 2, i, 0, i + 3, 3] for i in range(40)], dtype=torch.float32)
    drawn = torch.cat([select(random_candidates(9), random_boxes(9), many, None, SIZE, 9, 24).true for _ in range(30)])
    assert len(drawn) == 30 * 24 and len(drawn.unique(dim=0)) == 40
    boxes, counts = selected(max_boxes=5).true.unique(dim=0, return_counts=True)
    assert torch.equal(boxes, TRUE.unique(dim=0)) and sorted(counts.tolist()) == [1, 2, 2]
    assert len(selected(max_boxes=24).true) == 2 * len(TRUE)


def test_a_whole_image_of_no_weight_stands_in_where_there_is_no_object():
    selection = selected(true=TRUE[:0])
    assert selection.true.tolist() == [[0, 0, 0, 96, 64]] and selection.weights.tolist() == [0]
    assert selected().weights.tolist() == [1] * 6


# ---- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objects", "max_boxes"), [(0, 4), (1, 4), (3, 4), (3, 24)])
def test_shapes_are_known_before_the_data_are(objects, max_boxes):
    def shapes(selection):
        *rest, samples, of_samples, proposed, true, weights = selection
        return [x.shape for x in (rest[0], *rest[1], *of_samples, proposed, true, weights)], sum(map(len, samples))

    annotated = torch.ones(2, 1, *SIZE, dtype=torch.bool)
    real = selected(true=TRUE[:objects], max_boxes=max_boxes, annotated=annotated)
    with FakeTensorMode():
        fake = select(
            torch.empty(2, 200, 6),
            torch.empty(900, 4),
            torch.empty(objects, 5),
            torch.empty(annotated.shape, dtype=torch.bool),
            SIZE,
            2000,
            max_boxes,
        )
    assert shapes(real) == shapes(fake)
    for compute, empty, arguments in (
        (selected_anchors, empty_anchors, (random_boxes(300), TRUE, None, 2)),
        (selected_boxes, empty_boxes, (random_candidates(200), TRUE, None, SIZE, 9, 4)),
    ):
        assert [x.dtype for x in compute(*arguments)] == [x.dtype for x in empty(*arguments)]


def test_moving_a_box_equals_torchvisions_coder():
    torch.manual_seed(1)
    boxes, offsets, weights = random_boxes(50), 3 * torch.randn(50, 4), (10.0, 10.0, 5.0, 5.0)
    offsets[:5, 2:] = 100.0  # beyond the largest scale
    torch.testing.assert_close(moved(boxes, offsets, weights), BoxCoder(weights).decode_single(offsets, boxes))
