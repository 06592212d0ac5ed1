"""Proves: the graph that DCSNet is exported as computes the network's logits, whatever it detects."""

import pytest
import torch
from support.dcsnet import narrow_dcsnet

from nnunet_plugins.architectures.layers.detection_graph import detect_one, paste_all, pool, suppressed

SIZE = (64, 96)


@pytest.fixture
def image():
    return torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def detected(network, image):
    features = network.pyramid(image)
    return network.detect(features, image), detect_one(network.detector, features, SIZE)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"min_score": 0.02, "max_objects": 5}, 5),
        ({"min_score": 0.99}, 0),
        ({"use_dghc": False}, 1),
    ],
)
@torch.no_grad()
def test_graph_computes_the_networks_logits(options, number, image):
    network = narrow_dcsnet(**options).eval()
    torch.testing.assert_close(network.for_export()(image), network(image), rtol=0, atol=1e-5)
    boxes, (corners, there) = detected(network, image)
    if network.use_dghc:
        assert len(boxes) == there.sum() and (number is None or len(boxes) == number)
        torch.testing.assert_close(corners[there], boxes[:, 1:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_graph_knows_regions_and_sizes_that_are_no_multiple_of_the_stride(image):
    network = narrow_dcsnet(min_score=0.02).eval()
    network.set_regions(True)
    image = image[:, :, :50, :71]
    torch.testing.assert_close(network.for_export()(image), network(image), rtol=0, atol=1e-5)


def test_boxes_that_overlap_are_suppressed_and_the_rest_filled_up():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    kept, scores = suppressed(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5, 4)
    assert torch.equal(kept[:2], boxes[1:]) and scores.tolist()[2:] == [-1, -1]
    torch.testing.assert_close(scores[:2], torch.tensor([0.9, 0.7]))


@torch.no_grad()
def test_each_box_is_pooled_from_the_level_of_its_size(image):
    network = narrow_dcsnet().eval()
    features, edges = network.pyramid(image), torch.tensor([2.0, 20, 40, 60, 63])
    boxes = torch.stack((torch.zeros(5), torch.zeros(5), edges, edges), 1)
    levels = {str(index): feature for index, feature in enumerate(features)}
    theirs = network.detector.roi_heads.box_roi_pool(levels, [boxes], [SIZE])
    torch.testing.assert_close(pool(network.detector, features, boxes), theirs)


def test_a_box_that_is_not_there_is_not_pasted():
    onto, maps = torch.zeros(1, 2, 8, 8), torch.ones(2, 2, 4, 4)
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]])
    pasted = paste_all(maps, boxes, torch.tensor([False, True]), onto)
    assert pasted[:, :, :4].sum() == 0 and pasted[:, :, 4:, 4:].min() == 1
