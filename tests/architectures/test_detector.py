"""Proves: the detector is torchvision's Faster R-CNN, ignores what is not annotated, and accepts any batch."""

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from nnunet_plugins.architectures.layers.boxes import boxes_of_images
from nnunet_plugins.architectures.layers.detector import Detector, Objects
from nnunet_plugins.architectures.layers.selection import Selection, Truth

SIZE = (64, 96)
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
BOXES = torch.tensor([[0.0, 10, 12, 20, 24], [0, 50, 30, 90, 60], [1, 40, 40, 46, 45]])


@pytest.fixture
def detector():
    torch.manual_seed(0)
    detector = Detector(8)
    for parameter in detector.parameters():  # scores on both sides of the thresholds
        parameter.data += 0.05 * torch.randn_like(parameter)
    return detector


@pytest.fixture
def features():
    torch.manual_seed(1)
    return [torch.randn(2, 8, SIZE[0] // stride, SIZE[1] // stride) for stride in (4, 8, 16, 32, 64)]


def lesson(detector, features, objects, max_boxes=24):
    return detector.learn(features, detector.propose(features), SIZE, objects, max_boxes)


def whole(value=True):
    return torch.full((2, 1, *SIZE), value)


def gradients(detector, losses):
    detector.zero_grad()
    sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in detector.named_parameters()}


def torchvisions(detector, features, targets=None):
    """Detect with torchvision's own modules."""
    images = ImageList(torch.empty(2, 3, *SIZE), [SIZE] * 2)
    levels = {str(index): feature for index, feature in enumerate(features)}
    proposals, losses = detector.rpn(images, levels, targets)
    results, more_losses = detector.roi_heads(levels, proposals, [SIZE] * 2, targets)
    return results, losses | more_losses


def test_losses_equal_those_of_torchvision(detector, features):
    boxes = [BOXES[BOXES[:, 0] == image, 1:] for image in (0, 1)]
    targets = [{"boxes": of_image, "labels": torch.ones(len(of_image), dtype=torch.int64)} for of_image in boxes]
    torch.manual_seed(2)  # both sample candidates
    _, expected = torchvisions(detector, features, targets)
    torch.manual_seed(2)
    losses = lesson(detector, features, Objects(BOXES)).losses
    assert list(losses) == list(expected) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name])
        assert losses[name] > 0


def test_detections_equal_those_of_torchvision(detector, features):
    results, _ = torchvisions(detector.eval(), features)
    boxes = detector(features, SIZE)
    assert 0 < len(boxes) <= 64
    torch.testing.assert_close(boxes, boxes_of_images([result["boxes"] for result in results]))
    assert torch.equal(detector(features, SIZE), boxes)


def test_validation_computes_the_losses_of_inferences_candidates(detector, features):
    targets = [
        {"boxes": BOXES[:2, 1:], "labels": torch.ones(2).long()},
        {"boxes": BOXES[2:, 1:], "labels": torch.ones(1).long()},
    ]
    detector.rpn._pre_nms_top_n["training"] = detector.rpn._post_nms_top_n["training"] = 1000
    torch.manual_seed(2)
    _, expected = torchvisions(detector, features, targets)
    torch.manual_seed(2)
    losses = lesson(detector.eval(), features, Objects(BOXES)).losses
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name])


def test_detections_stay_inside_an_image_that_is_padded(detector, features):
    boxes = detector.eval()(features, (50, 70))
    assert len(boxes)
    assert (boxes[:, 1:] >= 0).all() and (boxes[:, 3] <= 70).all() and (boxes[:, 4] <= 50).all()


def settings(detector):
    rpn, heads = detector.rpn, detector.roi_heads
    return {
        "anchors": rpn.anchor_generator.sizes,
        "shapes": rpn.anchor_generator.aspect_ratios,
        "proposals": (rpn._pre_nms_top_n, rpn._post_nms_top_n),
        "scale of level 4": heads.box_roi_pool.canonical_scale,
        "samples": heads.fg_bg_sampler.batch_size_per_image,
        "objects": heads.detections_per_img,
        "score": heads.score_thresh,
        "rest": [
            (
                part.nms_thresh,
                part.box_coder.weights,
                part.proposal_matcher.high_threshold,
                part.proposal_matcher.low_threshold,
                part.fg_bg_sampler.positive_fraction,
            )
            for part in (rpn, heads)
        ],
    }


def test_settings_equal_those_of_torchvision_with_six_exceptions():
    ours = settings(Detector())
    theirs = settings(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))
    differing = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert differing == {
        "anchors": (((16,), (32,), (64,), (128,), (256,)), ((32,), (64,), (128,), (256,), (512,))),
        "proposals": (
            ({"training": 500, "testing": 1000}, {"training": 2000, "testing": 1000}),
            ({"training": 2000, "testing": 1000}, {"training": 2000, "testing": 1000}),
        ),
        "scale of level 4": (56, 224),
        "samples": (128, 512),
        "objects": (32, 100),
        "score": (0.35, 0.05),
    }


def test_untrained_detector_detects_nothing(features):
    torch.manual_seed(0)
    assert not len(Detector(8).eval()(features, SIZE))


def test_at_most_as_many_objects_as_asked_for_in_every_image(features):
    torch.manual_seed(0)
    detector = Detector(8, min_score=0.0, max_objects=3).eval()
    assert detector(features, SIZE)[:, 0].tolist() == [0, 0, 0, 1, 1, 1]


# ---- boxes to learn the segmentation from ----------------------------------------------------------------------------


def literal_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def selection_of(samples, true, proposed):
    """Selection of samples on two levels, for what :meth:`Detector.matching` reads."""
    weights, unused = torch.ones(len(true)), torch.empty(0)
    truth = Truth(unused, unused, unused)
    return Selection(unused, truth, [samples[:7], samples[7:]], truth, proposed, true, weights)


def test_the_best_detection_that_matches_a_true_box_replaces_it(detector):
    """A plain loop over true boxes and detections chooses the same."""
    torch.manual_seed(4)
    true = torch.cat((BOXES, torch.tensor([[1.0, 70, 30, 90, 50]])))
    samples = BOXES[torch.arange(40) % 3] + torch.cat((torch.zeros(40, 1), 4 * torch.randn(40, 4)), 1)
    samples[:, 3:] = torch.maximum(samples[:, 3:], samples[:, 1:3] + 2)
    logits, offsets, proposed = 2 * torch.randn(40, 2), torch.randn(40, 8), (torch.rand(40) < 0.8).float()
    chosen = detector.matching(logits, offsets, selection_of(samples, true, proposed), SIZE)
    refined = detector.roi_heads.box_coder.decode(offsets, [samples[:, 1:]])[:, 1]
    refined = clip_boxes_to_image(refined, SIZE).tolist()
    scores, replaced = logits.softmax(1)[:, 1].tolist(), 0
    for box, (image, *corners) in zip(chosen.tolist(), true.tolist(), strict=True):
        fitting = [
            (scores[i], [image, *refined[i]])
            for i in range(40)
            if proposed[i] and samples[i, 0] == image and scores[i] > 0.35 and literal_iou(refined[i], corners) >= 0.5
        ]
        assert box == pytest.approx(max(fitting)[1] if fitting else [image, *corners], abs=1e-4)
        replaced += bool(fitting)
    assert replaced == 3, "the example shows both"


def test_half_of_the_boxes_are_detected_ones_where_these_match(detector, features, monkeypatch):
    moved = BOXES[:1] + torch.tensor([0.0, 1, 1, 1, 1])
    monkeypatch.setattr(detector, "matching", lambda logits, offsets, selection, size: moved.expand(2, 5))
    torch.manual_seed(0)
    boxes = torch.cat([lesson(detector, features, Objects(BOXES[:1])).boxes for _ in range(50)])
    detected = (boxes == moved).all(1)
    assert torch.equal(boxes[~detected], BOXES[:1].expand(len(boxes) - int(detected.sum()), 5))
    assert 30 < detected.sum() < 70


def test_true_boxes_among_the_samples_are_no_detections(detector, features):
    """True boxes are among the proposals that torchvision samples."""
    detector.roi_heads.score_thresh = 0.0
    for parameter in detector.roi_heads.box_predictor.bbox_pred.parameters():
        parameter.data.zero_()  # boxes stay where they are
    tiny = torch.tensor([[0.0, 3, 3, 6, 6]])  # no anchor is as small
    assert torch.equal(lesson(detector, features, Objects(tiny)).boxes, tiny.expand(2, 5))


# ---- what is not annotated -------------------------------------------------------------------------------------------


def test_a_full_mask_of_annotated_pixels_equals_no_mask(detector, features):
    losses = []
    for annotated in (None, whole()):
        torch.manual_seed(2)
        losses.append(lesson(detector, features, Objects(BOXES, annotated)).losses)
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in LOSSES)


def test_an_image_without_annotation_trains_nothing(detector, features):
    losses = lesson(detector, features, Objects(BOXES[:0], whole(False))).losses
    assert all(loss == 0 for loss in losses.values())
    assert all(gradient is not None and not gradient.any() for gradient in gradients(detector, losses).values())


# ---- degenerate batches ----------------------------------------------------------------------------------------------


FORTY = torch.tensor([[0.0, x, y, x + 5, y + 4] for x in range(0, 72, 9) for y in range(0, 60, 12)])


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param(torch.zeros(0, 5), id="none"),
        pytest.param(torch.tensor([[1.0, 0, 0, 96, 64]]), id="fills an image"),
        pytest.param(torch.tensor([[0.0, 0, 0, 3, 3]]), id="three pixels in a corner"),
        pytest.param(FORTY, id="forty"),
    ],
)
def test_every_parameter_has_a_finite_gradient_for_any_objects(detector, features, boxes):
    losses = lesson(detector, features, Objects(boxes)).losses
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(detector, losses).values())


def test_training_works_after_inference_mode(detector, features):
    with torch.inference_mode():
        detector.eval()(features, SIZE)
    gradients(detector, lesson(detector.train(), features, Objects(BOXES)).losses)
