"""Proves: with the margin around objects, a box that errs as detectors do costs almost nothing of an object.

The measure is the Dice of a perfect head: the truth in the box, in the head's size, pasted as the network does it.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.dcsnet import narrow_dcsnet
from support.label_maps import IGNORE, LABELS, LABELS_IGNORE, drawing
from support.perfect_head import discs, perfect_dice
from torchvision.ops import box_iou

from nnunet_plugins.architectures.layers.boxes import perturbed
from nnunet_plugins.trainers.data.object_boxes import objects_in
from nnunet_plugins.trainers.dcsnet import DCSNetTrainer

MARGIN = DCSNetTrainer.box_margin, DCSNetTrainer.box_margin_share
TIGHT = 0.0, 0.0
BASE_SIZE = 64
RADII = range(4, 14)
ERROR = 0.1
"""Standard deviation of a box's centre and sides, in sides, at which its overlap with the true one is 0.72."""


def ceiling(margin):
    """Mean Dice of the perfect head over discs of all radii, and mean overlap of its boxes with the true ones."""
    torch.manual_seed(0)
    network, dices, overlaps = narrow_dcsnet(), [], []
    for radius in RADII:
        labels = discs(radius, 256, number=12)
        boxes = objects_in(labels, LABELS, *margin).boxes
        found = perturbed(boxes, (256, 256), ERROR, ERROR)
        dices.append(perfect_dice(network, labels, found, BASE_SIZE))
        overlaps.append(box_iou(boxes[:, 1:], found[:, 1:]).diagonal())
    return torch.cat(dices).mean().item(), torch.cat(overlaps).mean().item()


def test_perfect_head_is_limited_by_tight_boxes_and_hardly_by_boxes_with_a_margin():
    for margin, least, most in ((TIGHT, 0.92, 0.955), (MARGIN, 0.985, 1.0)):
        dice, overlap = ceiling(margin)
        assert overlap == pytest.approx(0.72, abs=0.02)
        assert least <= dice <= most


# ---- where the margin ends -------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(3, 90), st.integers(3, 90))
def test_margin_is_five_pixels_or_a_tenth_of_the_object_and_ends_at_the_border(left, top, width, height):
    labels = torch.zeros(1, 1, 100, 110, dtype=torch.int16)
    labels[..., top : top + height, left : left + width] = 1
    right, bottom = min(left + width, 110), min(top + height, 100)
    x, y = max(5, (right - left) / 10), max(5, (bottom - top) / 10)
    expected = [0, max(left - x, 0), max(top - y, 0), min(right + x, 110), min(bottom + y, 100)]
    assert objects_in(labels, LABELS, *MARGIN).boxes[0].tolist() == pytest.approx(expected)


def test_margin_of_a_speck_is_that_of_its_box_of_three_by_three():
    labels = torch.zeros(1, 1, 40, 40, dtype=torch.int16)
    labels[0, 0, 20, 10] = 1
    assert objects_in(labels, LABELS, *MARGIN).boxes.tolist() == [[0, 4, 14, 17, 27]]


def test_margin_may_reach_over_ignored_pixels_and_leaves_the_annotation_alone():
    labels = drawing(f"{'....11....' * 3} " * 4 + f"{str(IGNORE) * 30} " * 8)
    tight, enlarged = (objects_in(labels, LABELS_IGNORE, *margin) for margin in (TIGHT, MARGIN))
    assert len(tight.boxes) == len(enlarged.boxes) == 3
    assert (enlarged.boxes[:, 4] == tight.boxes[:, 4] + 5).all()
    assert torch.equal(tight.annotated, enlarged.annotated)


# ---- neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [*range(3, 16), 30, 60])
@pytest.mark.parametrize("gap", [1, 2, 3])
def test_neighbour_whose_box_is_suppressed_lies_inside_the_box_that_stays(side, gap):
    """Non-maximum suppression at 0.5 then loses no object: the head segments all that is in its box."""
    labels = torch.zeros(1, 1, 160, 200, dtype=torch.int16)
    for left in (20, 20 + side + gap):
        labels[..., 20 : 20 + side, left : left + side] = 1
    (one, other), (_, tight) = (objects_in(labels, LABELS, *margin).boxes[:, 1:] for margin in (MARGIN, TIGHT))
    suppressed = box_iou(one[None], other[None]).item() > narrow_dcsnet().detector.roi_heads.nms_thresh
    assert suppressed == (side == 3 and gap == 1)  # otherwise each keeps its own
    if suppressed:
        assert (tight[:2] >= one[:2]).all() and (tight[2:] <= one[2:]).all()
