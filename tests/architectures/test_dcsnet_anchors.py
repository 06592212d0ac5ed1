"""Proves: many anchors fit boxes with a margin, and weights of version 0.2.0 keep the anchors they were trained for."""

import copy

import pytest
import torch
from support.dcsnet import narrow_dcsnet
from support.label_maps import LABELS
from support.perfect_head import discs
from torchvision.ops import box_iou

from nnunet_plugins.architectures.layers.detector import ANCHOR_IOU, ANCHOR_SIZES, FIRST_ANCHOR_SIZES, Detector
from nnunet_plugins.trainers.data.object_boxes import objects_in
from nnunet_plugins.trainers.dcsnet import DCSNetTrainer

RADII = (1, 2, 4, 6, 8, 10, 13, 20, 30, 50)


def overlaps(sizes, radius):
    """Overlaps ``(N, A)`` of all anchors with the boxes of discs in images of 256 x 256."""
    margin = DCSNetTrainer.box_margin, DCSNetTrainer.box_margin_share
    features = [torch.empty(1, 8, 256 // stride, 256 // stride) for stride in (4, 8, 16, 32, 64)]
    anchors = Detector(8, anchor_sizes=sizes, box_head_channels=8).anchors(features)
    return box_iou(objects_in(discs(radius, 256, number=20), LABELS, *margin).boxes[:, 1:], anchors)


@pytest.mark.parametrize("radius", RADII)
def test_every_object_has_many_anchors_that_are_not_background(radius):
    found = overlaps(ANCHOR_SIZES, radius)
    assert found.amax(1).mean() > 0.5
    near, before = ((x >= ANCHOR_IOU[1]).sum(1).float().mean() for x in (found, overlaps(FIRST_ANCHOR_SIZES, radius)))
    assert near > 20
    assert near > 1.3 * before


# ---- weights ---------------------------------------------------------------------------------------------------------


def anchors_of(network, images):
    features = network.pyramid(images)
    return network.detector.anchors(features)


def old_state(network):
    """State dict as version 0.2.0 would have it: no sizes of anchors, and positions that all levels share."""
    state = network.state_dict()
    del state["detector.anchor_sizes"]
    return state | {"msfa.attention.positions": state["msfa.attention.positions"][0]}


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, FIRST_ANCHOR_SIZES), ({"anchor_sizes": (4, 8, 16, 32, 64)}, (4, 8, 16, 32, 64))],
    ids=["default", "of an own trainer"],
)
def test_weights_of_the_first_versions_keep_their_anchors(images, options, kept):
    network, expected = narrow_dcsnet(**options), narrow_dcsnet(anchor_sizes=kept)
    network.load_state_dict(old_state(narrow_dcsnet()))
    assert torch.equal(anchors_of(network, images), anchors_of(expected, images))
    again = narrow_dcsnet(**options)  # a training that goes on, and is saved anew
    again.load_state_dict(copy.deepcopy(network).state_dict())
    assert torch.equal(anchors_of(again, images), anchors_of(expected, images))


def test_weights_of_the_first_versions_detect_and_segment_the_same(images):
    options = {"min_score": 0.0, "max_objects": 4}
    old, new = narrow_dcsnet(anchor_sizes=FIRST_ANCHOR_SIZES, **options).eval(), narrow_dcsnet(**options).eval()
    state = old_state(old)
    old.msfa.attention.positions.data[:] = state["msfa.attention.positions"]
    with torch.no_grad():
        assert not torch.equal(new(images), old(images))
        new.load_state_dict(state)
        assert torch.equal(new(images), old(images))


def test_own_weights_keep_own_anchors(images):
    network = narrow_dcsnet()
    before = anchors_of(network, images)
    network.load_state_dict(network.state_dict())
    assert torch.equal(anchors_of(network, images), before)
