"""Proves: targets in boxes are 0 and 1 again, with the class of most of a cell, and masked where half is unknown."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.dcsnet_formulas import one_hots
from support.label_maps import IGNORE, drawing

from nnunet_plugins.losses.common import Target
from nnunet_plugins.losses.dcsnet import target_in_boxes


def labels_of(target):
    """Label maps ``(N, S, S)`` of a target, -1 where its mask is 0."""
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
    """In a binary map the nearest of four pixels has the majority by itself: 9/16."""
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


def test_regions_and_classes_of_a_partly_annotated_cell_follow_its_annotated_part():
    """Two of five pixels have class 1, one is background, and two are ignored: 1 has the majority of the known ones."""
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
