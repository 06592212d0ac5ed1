"""Proves: DCSNet trains on as many boxes as it shall, knows its losses in validation, and compiles to few graphs."""

import pytest
import torch
from support.dcsnet import BOXES, SIZE, background, detects, narrow_dcsnet

from nnunet_plugins.architectures.dcsnet import Annotated, whole_images
from nnunet_plugins.architectures.layers.detector import Objects


@pytest.fixture(scope="module")
def network():
    """Narrow network with three classes and deep supervision, which no test changes."""
    return narrow_dcsnet(num_classes=3, deep_supervision=True)


def test_boxes_to_train_on_are_perturbed_and_keep_their_weights(network, images):
    boxes, weights = network.train().boxes_to_train_on(BOXES, torch.tensor([1.0, 0, 1]), images)
    assert (boxes[:, 1:] != BOXES[:, 1:]).all() and ((boxes - BOXES).abs() < 15).all()
    assert weights.tolist() == [1, 0, 1]
    boxes, _ = network.eval().boxes_to_train_on(BOXES, torch.ones(3), images)
    assert torch.equal(boxes, BOXES)


@pytest.mark.parametrize(("batch", "number"), [(1, 2), (2, 4), (13, 24)])
def test_two_boxes_for_each_image_are_trained_on_and_24_at_most(network, batch, number):
    images = torch.randn(batch, 1, *SIZE)
    many = torch.tensor([[i % batch, i, 0, i + 3, 3] for i in range(60)], dtype=torch.float32)
    with torch.no_grad():
        outputs = network.eval()(Annotated(images, Objects(many)))
    assert len(outputs.boxes) == len(outputs.segments.logits) == number


def test_validation_scores_the_detected_boxes_and_not_the_true_ones(network, images, monkeypatch):
    detects(monkeypatch, network, BOXES[:0])
    with torch.no_grad():
        outputs = network.eval()(Annotated(images, Objects(BOXES)))
    assert torch.equal(outputs.logits, background(network, images))
    assert torch.equal(outputs.boxes[:, 1:].unique(dim=0), BOXES[:, 1:].unique(dim=0))


def test_a_box_of_weight_0_stands_in_where_there_is_none(network, images):
    with torch.no_grad():
        outputs = network.eval()(Annotated(images, Objects(BOXES[:0])))
    assert torch.equal(outputs.boxes, whole_images(images)[:1])
    assert outputs.weights.tolist() == [0]


def test_training_returns_the_segments_of_its_boxes(network, images):
    outputs = network.train()(Annotated(images, Objects(BOXES)))
    assert outputs.logits.shape == (2, 3, *SIZE) and not outputs.logits.requires_grad
    assert outputs.segments.logits.shape == (len(outputs.boxes), 3, 64, 64) and len(outputs.boxes) == 4
    assert len(outputs.detection_losses) == 4


def test_compiled_training_needs_no_new_graph_for_other_numbers_of_objects(images):
    torch.compiler.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]  # compiled by other tests: a reset keeps the count
    network = narrow_dcsnet(base_size=32, deep_supervision=True, boxes_per_image=6)
    compiled = torch.compile(network, backend="eager")

    def train(numbers):
        for number in numbers:
            boxes = torch.tensor([[i % 2, 9.0 * i, 3, 9 * i + 6, 9] for i in range(number)]).view(-1, 5)
            assert compiled(Annotated(images, Objects(boxes))).segments.logits.isfinite().all()

    train((3, 1, 0))
    settled = stats["unique_graphs"]
    assert settled - before == 5  # pyramid, proposals, and the head for six boxes, any number, and one
    train((2, 4, 5, 1, 0, 3))
    assert stats["unique_graphs"] == settled
