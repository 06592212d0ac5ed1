"""Proves: DCSNet has the published sizes, its modules are the paper's, and it segments what it detects and no more."""

import re

import pytest
import torch
from support.fake_cuda import fake_cuda_autocast
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import (
    DGHC,
    OUTSIDE,
    STRIDES,
    Annotated,
    whole_images,
)
from nnunet_plugins.architectures.layers.detector import Detections, Objects
from nnunet_plugins.architectures.layers.msfa import MSFA, LevelAttention, MeanFusion, PixelFusion

SIZE = (64, 96)
FEATURES = 256  # the published width
MAX_TRUE_BOXES = 24


def millions(**kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in DCSNet(3, 1, **kwargs).parameters()) / 1e6


def test_published_number_of_parameters():
    assert millions() == pytest.approx(59.42, rel=0.01)
    assert millions(use_dghc=False) == millions()
    assert millions(use_msfa=False) == pytest.approx(55.46, rel=0.02)
    assert millions(use_msfa=False) == millions(use_msfa=False, use_dghc=False)


def test_multiply_accumulates_of_a_box():
    """For docs/dcsnet.md. The paper's figures for its image sizes leave open how many boxes they count."""
    counts = {}
    for base_size in (32, 64, 128):
        levels = [torch.zeros(1, FEATURES, base_size >> level, base_size >> level) for level in range(4)]
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
            MSFA(1, base_size)(levels)
        counts[base_size] = counter.get_total_flops() / 2e9
    print(counts)
    assert counts[64] == pytest.approx(4 * counts[32], rel=0.1) and counts[128] == pytest.approx(
        4 * counts[64], rel=0.1
    )


@pytest.fixture(scope="module")
def network():
    """With a small encoder, which is timm's business."""
    torch.manual_seed(0)
    return DCSNet(1, 3, backbone="resnet10t")


@pytest.fixture
def features():
    torch.manual_seed(1)
    return [torch.randn(2, FEATURES, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]


@pytest.fixture
def images():
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(2))


BOXES = torch.tensor([[0.0, 8, 8, 40, 40], [1, 30, 20, 60.5, 50], [1, 10, 5, 50, 30]])


def detects(monkeypatch, network, boxes):
    """Let the detector find these boxes, whatever it sees."""
    losses = dict.fromkeys(("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"), torch.zeros(()))
    found = Detections(boxes, losses)
    monkeypatch.setattr(network.detector, "forward", lambda features, size, objects: found)


# ---- DGHC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base_size", [32, 64, 128])
def test_every_level_is_cut_out_in_its_own_size(features, base_size):
    """Of features that are the coordinates of the image, the crops are the coordinates of the box (eq. 6)."""
    for feature, stride in zip(features, STRIDES, strict=True):
        feature[:, 0] = stride * (torch.arange(feature.shape[3]) + 0.5)
        feature[:, 1] = stride * (torch.arange(feature.shape[2]) + 0.5)[:, None]
    box = torch.tensor([[1.0, 20, 17, 76, 45]])
    crops = DGHC(base_size)(features, box)
    assert [crop.shape for crop in crops] == [(1, FEATURES, base_size >> i, base_size >> i) for i in range(4)]
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


# ---- MSFA ------------------------------------------------------------------------------------------------------------


def test_tokens_are_patches_of_all_levels_with_positions_and_levels(monkeypatch):
    """Eq. 7, and that every level gets its own tokens back, at their places."""
    torch.manual_seed(0)
    attention = LevelAttention((8, 8, 16, 16), grid=3, channels=FEATURES).eval()
    monkeypatch.setattr(attention, "transformer", nn.Identity())
    encoded = [torch.randn(2, c, 3 * p, 3 * p) for c, p in ((8, 8), (8, 4), (16, 2), (16, 1))]
    for level, (before, after) in enumerate(zip(encoded, attention(encoded), strict=True)):
        patch = before.shape[-1] // 3
        token, position = (1, 2), 1 * 3 + 2
        rows, columns = (slice(patch * i, patch * (i + 1)) for i in token)
        projection = attention.tokens[level]
        expected = projection.weight.flatten(1) @ before[0, :, rows, columns].flatten() + projection.bias
        expected = expected + attention.positions[position] + attention.levels[level, 0]
        given = attention.projections[level](expected[None, :, None, None])[0, :, 0, 0]
        middle = (0, slice(None), *(patch * i + patch // 2 for i in token))
        if patch == 1:  # elsewhere it is blended with its neighbours
            torch.testing.assert_close(after[middle] - before[middle], given)
        else:
            blended = F.interpolate(added_of(attention, encoded, level), scale_factor=patch, mode="bilinear")
            torch.testing.assert_close(after - before, blended, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(added_of(attention, encoded, level)[0, :, *token], given, rtol=1e-4, atol=1e-5)


def added_of(attention, encoded, level):
    """What is added to a level if the transformer is the identity, one value for each token."""
    embeddings = (attention.positions + attention.levels[level]).T.view(1, FEATURES, 3, 3)
    return attention.projections[level](attention.tokens[level](encoded[level]) + embeddings)


def test_tokens_of_all_levels_attend_to_each_other():
    torch.manual_seed(0)
    attention = LevelAttention((8, 8, 8, 8), grid=2, channels=FEATURES).eval()
    encoded = [torch.randn(1, 8, 2 * p, 2 * p, requires_grad=True) for p in (8, 4, 2, 1)]
    attention(encoded)[3][..., 0, 0].sum().backward()
    assert all((x.grad != 0).all() for x in encoded[:3])


def test_fusion_is_a_weighted_mean_of_the_levels_in_every_pixel():
    torch.manual_seed(0)
    fusion, decoded = PixelFusion(8, 4), [torch.randn(2, 8, 5, 5) for _ in range(4)]
    logits = fusion.gate(torch.cat(decoded, 1))
    expected = torch.zeros(2, 8, 5, 5)
    for level in range(4):
        expected += logits.exp()[:, level, None] / logits.exp().sum(1, keepdim=True) * decoded[level]
    torch.testing.assert_close(fusion(decoded), expected)
    torch.testing.assert_close(MeanFusion()(decoded), sum(decoded) / 4)


def literal_msfa(head, levels):
    """Section 3.3, step by step: encode, attend, decode from coarse to fine, refine, fuse, refine, predict."""
    encoded = []
    for block, x in zip(head.encoders, levels, strict=True):
        x = block.projection(x)
        encoded.append(F.relu(x + block.residual(x)))
    if head.use_msfa:
        encoded = head.attention(encoded)
    decoded = [head.bottleneck(encoded[3])]
    for level in (2, 1, 0):
        above = F.interpolate(decoded[0], scale_factor=2, mode="bilinear")
        skip = encoded[level]
        if head.use_msfa:
            skip = torch.sigmoid(head.gates[level](torch.cat((skip, above), 1))) * skip
        decoded = [head.decoders[level](torch.cat((skip, above), 1)), *decoded]
    refined = [
        F.interpolate(refine(x), size=levels[0].shape[2:], mode="bilinear")
        for refine, x in zip(head.refinements, decoded, strict=True)
    ]
    fused = head.refinement(head.fusion(refined))
    maps = [layer(x) for layer, x in zip(head.seg_layers, (fused, *refined, fused), strict=True)]
    return [x - x[:, :1] for x in maps[:5]], maps[5]


@pytest.mark.parametrize("use_msfa", [True, False])
def test_the_head_is_what_the_paper_describes(use_msfa):
    torch.manual_seed(0)
    head = MSFA(3, 32, use_msfa=use_msfa, widths=(8, 16, 24, 32), fused_channels=8).eval()
    levels = [torch.randn(2, FEATURES, 32 >> level, 32 >> level) for level in range(4)]
    segments = head(levels)
    expected, edges = literal_msfa(head, levels)
    for ours, theirs in zip((segments.logits, *segments.levels, segments.edges), (*expected, edges), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_transformer_has_four_layers_of_eight_heads():
    *layers, _ = LevelAttention((8, 8, 8, 8), grid=2, channels=FEATURES).transformer
    sizes = [(layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.dropout.p) for layer in layers]
    assert sizes == [(256, 8, 0.2)] * 4


@pytest.mark.parametrize("use_msfa", [True, False])
def test_every_level_and_the_fusion_give_logits_in_the_finest_size(use_msfa):
    segments = MSFA(3, 32, use_msfa=use_msfa)(
        [torch.randn(2, FEATURES, 32 >> level, 32 >> level) for level in range(4)]
    )
    assert [x.shape for x in (segments.logits, *segments.levels, segments.edges)] == [(2, 3, 32, 32)] * 6


def test_classes_are_relative_to_the_background_and_regions_are_not():
    head, maps = MSFA(3, 32), torch.randn(2, 3, 4, 4)
    relative = head.relative_to_background(maps)
    assert not relative[:, 0].any()
    torch.testing.assert_close(relative.softmax(1), maps.softmax(1))
    network = DCSNet(1, 3, backbone="resnet10t")
    network.set_regions(True)
    torch.testing.assert_close(network.msfa.relative_to_background(maps), maps)


def test_what_the_maps_are_is_kept_with_the_weights():
    regions, loaded = DCSNet(1, 3, backbone="resnet10t"), DCSNet(1, 3, backbone="resnet10t")
    regions.set_regions(True)
    loaded.load_state_dict(regions.state_dict())
    assert loaded.msfa.has_background == 0


@pytest.mark.parametrize("training", [True, False])
def test_features_and_logits_in_mixed_precision(training):
    with fake_cuda_autocast():
        network = DCSNet(3, 2, backbone="resnet10t").train(training)
        features = network.pyramid(torch.randn(2, 3, *SIZE))
        objectness, _ = network.detector.rpn.head(features)
        segments = network.segment(features, torch.zeros(5, 5))
        assert {x.dtype for x in (*features, *objectness)} == {torch.float16}
        assert {x.dtype for x in (segments.logits, *segments.levels, segments.edges)} == {torch.float32}
        assert segments.logits.shape == (5, 2, 64, 64)


# ---- inference -------------------------------------------------------------------------------------------------------


def background(network, images):
    logits = torch.full((len(images), network.num_classes, *images.shape[2:]), OUTSIDE)
    logits[:, 0] = 0 if network.msfa.has_background else OUTSIDE
    return logits


def test_no_detection_is_background(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES[:0])
    logits = network.eval()(images)
    assert torch.equal(logits, background(network, images))
    assert (logits.argmax(1) == 0).all()


def test_regions_are_absent_where_nothing_is_detected(images, monkeypatch):
    network = DCSNet(1, 2, backbone="resnet10t").eval()
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
    for boxes in (BOXES[1:2], BOXES[2:3], BOXES[1:]):
        detects(monkeypatch, network, boxes)
        logits.append(network.eval()(images)[1])
    torch.testing.assert_close(logits[2], torch.maximum(logits[0], logits[1]))


def test_images_of_a_batch_do_not_depend_on_each_other(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES)
    together = network.eval()(images)
    for index in range(2):
        mine = BOXES[BOXES[:, 0] == index] * torch.tensor([0.0, 1, 1, 1, 1])
        detects(monkeypatch, network, mine)
        torch.testing.assert_close(network(images[index : index + 1])[0], together[index], rtol=1e-4, atol=1e-4)


def test_without_dghc_the_whole_image_is_one_box(images):
    network = DCSNet(1, 2, backbone="resnet10t", use_dghc=False).eval()
    features = network.pyramid(images)
    maps = network.segment(features, torch.tensor([[0.0, 0, 0, 96, 64], [1, 0, 0, 96, 64]])).logits
    expected = F.interpolate(maps, size=SIZE, mode="bilinear").maximum(background(network, images))
    torch.testing.assert_close(network(images), expected)


# ---- training --------------------------------------------------------------------------------------------------------


def test_true_boxes_and_detections_that_match_them_are_trained_on(network, images):
    true = BOXES
    close, far = torch.tensor([1.0, 31, 21, 60, 50]), torch.tensor([1.0, 70, 20, 90, 50])
    boxes, weights = network.eval().boxes_to_train_on(true, torch.stack((close, far)), images)
    assert sorted(boxes.tolist()) == sorted([*true.tolist(), close.tolist()])
    assert weights.tolist() == [1] * 4


def test_boxes_to_train_on_are_perturbed(network, images):
    boxes, _ = network.train().boxes_to_train_on(BOXES[:1], BOXES[:1], images)
    assert len(boxes) == 2
    assert (boxes[:, 1:] != BOXES[:1, 1:]).all() and ((boxes - BOXES[:1]).abs() < 15).all()


def test_boxes_to_train_on_have_a_limit_and_all_their_chance(network, images):
    true = torch.tensor([[i % 2, i, 0, i + 3, 3] for i in range(60)], dtype=torch.float32)
    seen = set()
    for _ in range(60):
        boxes, _ = network.eval().boxes_to_train_on(true, true, images)
        assert len(boxes) == 2 * MAX_TRUE_BOXES
        seen |= {box[1] for box in boxes[:MAX_TRUE_BOXES].tolist()}
    assert len(seen) == 60


def test_a_detection_matches_a_true_box_of_its_own_image_from_an_overlap_of_a_half(network, images):
    true = torch.tensor([[0.0, 0, 0, 10, 10]])
    for detected, number in (([0, 0, 0, 10, 5.1], 2), ([0, 0, 0, 10, 4.9], 1), ([1, 0, 0, 10, 10], 1)):
        boxes, _ = network.eval().boxes_to_train_on(true, torch.tensor([detected]), images)
        assert len(boxes) == number


def test_validation_scores_what_was_detected_and_knows_nothing_of_the_truth(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES[:0])
    network.deep_supervision = True
    try:
        with torch.no_grad():
            outputs = network.eval()(Annotated(images, Objects(BOXES)))
    finally:
        network.deep_supervision = False
    assert torch.equal(outputs.logits, background(network, images))
    assert len(outputs.boxes) == len(BOXES)


def test_a_box_without_weight_stands_for_none(network, images):
    boxes, weights = network.train().boxes_to_train_on(BOXES[:0], BOXES, images)
    assert torch.equal(boxes, whole_images(images)[:1])
    assert weights.tolist() == [0]


def test_training_knows_the_segments_of_its_boxes(network, images):
    network.deep_supervision = True
    objects = Objects(BOXES)
    try:
        outputs = network.train()(Annotated(images, objects))
    finally:
        network.deep_supervision = False
    assert outputs.logits.shape == (2, 3, *SIZE) and not outputs.logits.requires_grad
    assert outputs.segments.logits.shape == (len(outputs.boxes), 3, 64, 64) and len(outputs.boxes) >= 3
    assert len(outputs.detection_losses) == 4


def test_compiled_training_settles_whatever_the_number_of_objects(images):
    torch.compiler.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    network = DCSNet(1, 2, backbone="resnet10t", base_size=32, deep_supervision=True)
    compiled = torch.compile(network, backend="eager")

    def train(numbers):
        for number in numbers:
            boxes = torch.tensor([[i % 2, 9.0 * i, 3, 9 * i + 6, 9] for i in range(number)]).view(-1, 5)
            assert compiled(Annotated(images, Objects(boxes))).segments.logits.isfinite().all()

    train((3, 1, 2))
    settled = graphs["unique_graphs"]
    assert settled == 5  # pyramid, proposals, and the head for three boxes, one, and any number
    train((0, 4, 5, 1, 6, 3))
    assert graphs["unique_graphs"] == settled


def test_inference_repeats_exactly(images):
    torch.manual_seed(0)
    network = DCSNet(1, 2, backbone="resnet10t", base_size=32).eval()
    network.detector.roi_heads.score_thresh = 0.0
    network.detector.roi_heads.detections_per_img = 4
    first, second = network(images), network(images)
    assert (first[:, 1] > OUTSIDE).any()
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_size": 20}, "base_size=20: expected a multiple of 8"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes=(8, 16): give 5"),
    ],
)
def test_impossible_sizes_are_refused_in_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DCSNet(1, 2, backbone="resnet10t", **wrong)


def test_a_backbone_without_the_strides_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="strides"):
        DCSNet(1, 2, backbone="vit_tiny_patch16_224")
