"""Proves: the detector is torchvision's Faster R-CNN, ignores what is not annotated, and accepts any batch."""

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from nnunet_plugins.architectures.layers.boxes import boxes_of_images
from nnunet_plugins.architectures.layers.detector import Detector, Objects

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
    targets = Objects(BOXES).of_images(2)
    torch.manual_seed(2)  # both sample candidates
    _, expected = torchvisions(detector, features, targets)
    torch.manual_seed(2)
    losses = detector(features, SIZE, Objects(BOXES)).losses
    assert list(losses) == list(expected) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name])
        assert losses[name] > 0


def test_detections_equal_those_of_torchvision(detector, features):
    results, _ = torchvisions(detector.eval(), features)
    detections = detector(features, SIZE)
    assert detections.losses == {}
    assert 0 < len(detections.boxes) <= 64
    torch.testing.assert_close(detections.boxes, boxes_of_images([result["boxes"] for result in results]))
    assert torch.equal(detector(features, SIZE).boxes, detections.boxes)


def test_detections_in_training_do_not_contain_the_true_boxes(detector, features):
    """True boxes are among the proposals that torchvision samples."""
    heads = detector.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 1.0, 1000
    for parameter in heads.box_predictor.bbox_pred.parameters():
        parameter.data.zero_()  # boxes stay where they are
    boxes = detector(features, SIZE, Objects(BOXES)).boxes
    assert len(boxes) > 50
    assert (boxes[:, None] - BOXES).abs().amax(2).min() > 0.01


def test_validation_computes_losses_and_the_detections_of_inference(detector, features):
    inference = detector.eval()(features, SIZE).boxes
    detections = detector(features, SIZE, Objects(BOXES))
    assert torch.equal(detections.boxes, inference)
    assert list(detections.losses) == LOSSES


def test_detections_stay_inside_an_image_that_is_padded(detector, features):
    boxes = detector.eval()(features, (50, 70)).boxes
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


def test_settings_equal_those_of_torchvision_with_five_exceptions():
    ours = settings(Detector())
    theirs = settings(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))
    differing = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert differing == {
        "anchors": (((8,), (16,), (32,), (64,), (128,)), ((32,), (64,), (128,), (256,), (512,))),
        "scale of level 4": (56, 224),
        "samples": (128, 512),
        "objects": (32, 100),
        "score": (0.35, 0.05),
    }


def test_untrained_detector_detects_nothing(features):
    torch.manual_seed(0)
    assert not len(Detector(8).eval()(features, SIZE).boxes)


def test_at_most_as_many_objects_as_asked_for_in_every_image(features):
    torch.manual_seed(0)
    detector = Detector(8, min_score=0.0, max_objects=3).eval()
    assert detector(features, SIZE).boxes[:, 0].tolist() == [0, 0, 0, 1, 1, 1]


# ---- what is not annotated -------------------------------------------------------------------------------------------


def test_a_full_mask_of_annotated_pixels_equals_no_mask(detector, features):
    losses = []
    for annotated in (None, whole()):
        torch.manual_seed(2)
        losses.append(detector(features, SIZE, Objects(BOXES, annotated)).losses)
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in LOSSES)


def test_an_image_without_annotation_trains_nothing(detector, features):
    losses = detector(features, SIZE, Objects(BOXES[:0], whole(False))).losses
    assert all(loss == 0 for loss in losses.values())
    assert all(gradient is not None and not gradient.any() for gradient in gradients(detector, losses).values())


LEFT = whole()
LEFT[..., 48:] = False
ANCHORS = torch.tensor([[10.0, 10, 20, 20], [30, 30, 65, 40], [30, 30, 67, 40], [70, 30, 90, 50]])
"""Anchors, of which the first two have annotated centres."""


def test_pixels_without_annotation_are_no_background_for_proposals(detector):
    scores = torch.zeros(8, 1, requires_grad=True)
    objects = Objects(torch.zeros(0, 5), LEFT)
    losses = detector.proposal_losses(scores, torch.zeros(8, 4), [ANCHORS] * 2, objects.of_images(2), objects)
    losses["loss_objectness"].backward()
    assert (scores.grad.view(2, 4) != 0).tolist() == [[True, True, False, False]] * 2


def test_pixels_without_annotation_are_no_background_for_detections(detector):
    objects = Objects(torch.tensor([[0.0, 68, 30, 92, 50]]), LEFT)
    samples, labels, _ = detector.sample([ANCHORS] * 2, objects.of_images(2), objects)
    assert torch.equal(samples[0], torch.cat((ANCHORS[:2], objects.boxes[:, 1:])))
    assert torch.equal(samples[1], ANCHORS[:2])
    assert [label.tolist() for label in labels] == [[0, 0, 1], [0, 0]]


def test_an_object_counts_although_its_pixels_are_not_annotated(detector):
    scores = torch.zeros(4, 1, requires_grad=True)
    objects = Objects(torch.tensor([[0.0, 70, 30, 90, 50]]), LEFT[:1])
    losses = detector.proposal_losses(scores, torch.zeros(4, 4), [ANCHORS], objects.of_images(1), objects)
    losses["loss_objectness"].backward()
    assert scores.grad[3] < 0  # wants to rise


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
    losses = detector(features, SIZE, Objects(boxes)).losses
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(detector, losses).values())


def test_training_works_after_inference_mode(detector, features):
    with torch.inference_mode():
        detector.eval()(features, SIZE)
    gradients(detector, detector.train()(features, SIZE, Objects(BOXES)).losses)
