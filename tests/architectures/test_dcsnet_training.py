"""Proves: DCSNet trains on true and matching boxes, knows its losses in validation, and compiles to few graphs."""

import pytest
import torch
from support.dcsnet import BOXES, SIZE, background, detects, narrow_dcsnet

from nnunet_plugins.architectures.dcsnet import Annotated, whole_images
from nnunet_plugins.architectures.layers.detector import Objects

MAX_TRUE_BOXES = 24


@pytest.fixture(scope="module")
def network():
    """Narrow network with three classes and deep supervision, which no test changes."""
    return narrow_dcsnet(num_classes=3, deep_supervision=True)


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


def test_number_of_true_boxes_is_limited_and_every_one_is_drawn_at_times(network, images):
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


def test_validation_scores_the_detected_boxes_and_not_the_true_ones(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES[:0])
    with torch.no_grad():
        outputs = network.eval()(Annotated(images, Objects(BOXES)))
    assert torch.equal(outputs.logits, background(network, images))
    assert len(outputs.boxes) == len(BOXES)


def test_a_box_of_weight_0_stands_in_where_there_is_none(network, images):
    boxes, weights = network.train().boxes_to_train_on(BOXES[:0], BOXES, images)
    assert torch.equal(boxes, whole_images(images)[:1])
    assert weights.tolist() == [0]


def test_training_returns_the_segments_of_its_boxes(network, images):
    outputs = network.train()(Annotated(images, Objects(BOXES)))
    assert outputs.logits.shape == (2, 3, *SIZE) and not outputs.logits.requires_grad
    assert outputs.segments.logits.shape == (len(outputs.boxes), 3, 64, 64) and len(outputs.boxes) >= 3
    assert len(outputs.detection_losses) == 4


def test_compiled_training_needs_no_new_graph_for_other_numbers_of_objects(images):
    torch.compiler.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]  # compiled by other tests: a reset keeps the count
    network = narrow_dcsnet(base_size=32, deep_supervision=True)
    compiled = torch.compile(network, backend="eager")

    def train(numbers):
        for number in numbers:
            boxes = torch.tensor([[i % 2, 9.0 * i, 3, 9 * i + 6, 9] for i in range(number)]).view(-1, 5)
            assert compiled(Annotated(images, Objects(boxes))).segments.logits.isfinite().all()

    train((3, 1, 2))
    settled = stats["unique_graphs"]
    assert settled - before == 5  # pyramid, proposals, and the head for three boxes, one, and any number
    train((0, 4, 5, 1, 6, 3))
    assert stats["unique_graphs"] == settled
