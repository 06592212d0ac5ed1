"""Proves: DCSNet has the published size, crops and perturbs as the paper does, and segments only what it detects."""

import re

import pytest
import torch
from support.dcsnet import BOXES, NARROW, SIZE, background, detects, narrow_dcsnet
from support.fake_cuda import fake_cuda_autocast
from torch.nn import functional as F

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import DGHC, OUTSIDE, STRIDES


def millions(**kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in DCSNet(3, 1, **kwargs).parameters()) / 1e6


def test_published_number_of_parameters():
    assert millions() == pytest.approx(59.42, rel=0.01)
    assert millions(use_dghc=False) == millions()
    assert millions(use_msfa=False) == pytest.approx(55.46, rel=0.02)
    assert millions(use_msfa=False) == millions(use_msfa=False, use_dghc=False)


@pytest.fixture(scope="module")
def network():
    """Narrow network with three classes, which no test changes."""
    return narrow_dcsnet(num_classes=3)


CHANNELS = 4


@pytest.fixture
def features():
    torch.manual_seed(1)
    return [torch.randn(2, CHANNELS, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]


# ---- DGHC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base_size", [32, 64, 128])
def test_every_level_is_cut_out_in_its_own_size(features, base_size):
    """Crops of maps that hold the coordinates of the image hold the coordinates of the box (eq. 6)."""
    for feature, stride in zip(features, STRIDES, strict=True):
        feature[:, 0] = stride * (torch.arange(feature.shape[3]) + 0.5)
        feature[:, 1] = stride * (torch.arange(feature.shape[2]) + 0.5)[:, None]
    box = torch.tensor([[1.0, 20, 17, 76, 45]])
    crops = DGHC(base_size)(features, box)
    assert [crop.shape for crop in crops] == [(1, CHANNELS, base_size >> i, base_size >> i) for i in range(4)]
    for crop in crops:
        cells = (torch.arange(crop.shape[-1]) + 0.5) / crop.shape[-1]
        inner = slice(1, -1)  # beyond the centres of the coarsest features' border nothing is known
        torch.testing.assert_close(crop[0, 0, 0, inner], 20 + 56 * cells[inner])
        torch.testing.assert_close(crop[0, 1, inner, 0], 17 + 28 * cells[inner])


def test_boxes_are_perturbed_in_training_alone():
    dghc = DGHC()
    assert torch.equal(dghc.eval().perturb(BOXES, SIZE), BOXES)
    torch.manual_seed(0)
    many = torch.tensor([[0.0, 400, 450, 500, 500]]).expand(20_000, 5)
    _, x1, y1, x2, y2 = dghc.train().perturb(many, (1000, 1000)).T
    for drawn, expected, unit in (
        ((x1 + x2) / 2, 450, 100),
        ((y1 + y2) / 2, 475, 50),
        (x2 - x1, 100, 100),
        (y2 - y1, 50, 50),
    ):
        assert drawn.mean().item() == pytest.approx(expected, abs=4 * 0.05 * unit / 20_000**0.5)
        assert drawn.std().item() == pytest.approx(0.05 * unit, rel=0.02)


# ---- classes and regions ---------------------------------------------------------------------------------------------


def test_classes_are_relative_to_the_background_and_regions_are_not():
    network, maps = narrow_dcsnet(num_classes=3), torch.randn(2, 3, 4, 4)
    relative = network.msfa.relative_to_background(maps)
    assert not relative[:, 0].any()
    torch.testing.assert_close(relative.softmax(1), maps.softmax(1))
    network.set_regions(True)
    torch.testing.assert_close(network.msfa.relative_to_background(maps), maps)


def test_state_dict_keeps_whether_the_maps_are_regions():
    regions, loaded = narrow_dcsnet(), narrow_dcsnet()
    regions.set_regions(True)
    loaded.load_state_dict(regions.state_dict())
    assert loaded.msfa.has_background == 0


@pytest.mark.parametrize("training", [True, False])
def test_features_and_logits_in_mixed_precision(training):
    with fake_cuda_autocast():
        network = DCSNet(3, 2, **NARROW).train(training)
        features = network.pyramid(torch.randn(2, 3, *SIZE))
        objectness, _ = network.detector.rpn.head(features)
        segments = network.segment(features, torch.zeros(5, 5))
        assert {x.dtype for x in (*features, *objectness)} == {torch.float16}
        assert {x.dtype for x in (segments.logits, *segments.levels, segments.edges)} == {torch.float32}
        assert segments.logits.shape == (5, 2, 64, 64)


# ---- inference -------------------------------------------------------------------------------------------------------


def test_no_detection_is_background(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES[:0])
    logits = network.eval()(images)
    assert torch.equal(logits, background(network, images))
    assert (logits.argmax(1) == 0).all()


def test_regions_are_absent_where_nothing_is_detected(images, monkeypatch):
    network = narrow_dcsnet().eval()
    network.set_regions(True)
    detects(monkeypatch, network, BOXES[:1])
    logits = network(images)
    assert (logits[1] == OUTSIDE).all() and (logits[0, :, 45:] == OUTSIDE).all()


def test_detections_are_segmented_and_the_rest_is_background(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES)
    logits, outside = network.eval()(images), background(network, images)
    inside = torch.zeros(2, *SIZE, dtype=torch.bool)
    inside[0, 8:40, 8:40] = inside[1, 20:50, 30:60] = inside[1, 5:30, 10:50] = True  # 60.5 leaves out the centre of 60
    inside[1, 20:50, 60] = False
    assert torch.equal(logits.movedim(1, -1)[~inside], outside.movedim(1, -1)[~inside])
    assert (logits.movedim(1, -1)[inside] >= outside.movedim(1, -1)[inside]).all()
    assert (logits[:, 1:].movedim(1, -1)[inside] > OUTSIDE).any()


def test_the_maximum_counts_where_boxes_overlap(network, images, monkeypatch):
    logits = []
    for places in ([1, 0], [0, 1], [1, 1]):  # one box in the second of two equal images, the other one, and both
        boxes = torch.cat((torch.tensor(places)[:, None], BOXES[1:, 1:]), 1)
        detects(monkeypatch, network, boxes)
        logits.append(network.eval()(images[1:].expand(2, -1, -1, -1))[1])
    torch.testing.assert_close(logits[2], torch.maximum(logits[0], logits[1]))


def test_images_of_a_batch_do_not_depend_on_each_other(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES)
    together = network.eval()(images)
    for index in range(2):
        mine = BOXES[BOXES[:, 0] == index] * torch.tensor([0.0, 1, 1, 1, 1])
        detects(monkeypatch, network, mine)
        torch.testing.assert_close(network(images[index : index + 1])[0], together[index], rtol=1e-4, atol=1e-4)


def test_without_dghc_the_whole_image_is_one_box(images):
    network = narrow_dcsnet(use_dghc=False).eval()
    features = network.pyramid(images)
    maps = network.segment(features, torch.tensor([[0.0, 0, 0, 96, 64], [1, 0, 0, 96, 64]])).logits
    expected = F.interpolate(maps, size=SIZE, mode="bilinear").maximum(background(network, images))
    torch.testing.assert_close(network(images), expected)


# ---- training --------------------------------------------------------------------------------------------------------


def test_inference_repeats_exactly(images):
    network = narrow_dcsnet(base_size=32, min_score=0.0, max_objects=4).eval()
    first, second = network(images), network(images)
    assert (first[:, 1] > OUTSIDE).any()
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_size": 20}, "base_size=20: expected a multiple of 8"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes=(8, 16): give 5"),
        ({"widths": (8, 8, 8)}, "widths=(8, 8, 8): expected 4"),
        ({"features": 20}, "features=20, widths=(8, 16, 24, 32), fused_channels=8: expected multiples of 8"),
    ],
)
def test_impossible_sizes_are_refused_in_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DCSNet(1, 2, **NARROW | wrong)


def test_a_backbone_without_the_strides_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="strides"):
        DCSNet(1, 2, backbone="vit_tiny_patch16_224")
