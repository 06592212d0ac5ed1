"""Proves: ignored pixels, and boxes that stand for no object, count nowhere in DCSNet's loss."""

import pytest
import torch
from support.dcsnet_formulas import (
    bce,
    dice,
    literal_inner_edges,
    literal_laplacian_edges,
    one_hots,
    outputs_of,
    sigmoid,
    terms_of,
    whole,
    z_maps,
)
from support.label_maps import IGNORE, LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE, drawing

from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import Target
from nnunet_plugins.losses.dcsnet import boundary_loss, edge_loss, target_in_boxes


def ignoring(label_format):
    """Target of two images with ignored pixels, logits of the boxes that cover them, and the ignored pixels."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 8, 8), dtype=torch.int16)
    labels[0, 0, :, 5:] = IGNORE
    labels[1, 0, 2, 3] = IGNORE
    if not label_format.regions:
        return labels, z_maps(6, 2, 3, 8, 8), labels == IGNORE
    target = torch.cat([labels == 1, (labels == 1) | (labels == 2), labels == IGNORE], 1)
    return target, z_maps(6, 2, 2, 8, 8), labels == IGNORE


@pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "single"])
@pytest.mark.parametrize("label_format", [LABELS_IGNORE, REGIONS_IGNORE], ids=["labels", "regions"])
def test_ignored_pixels_count_nowhere(label_format, batch_dice):
    target, maps, ignored = ignoring(label_format)
    other = torch.where(ignored, 5 * z_maps(*maps.shape, seed=1), maps)
    terms = terms_of(label_format, outputs_of(maps, whole(2, 8)), target, batch_dice=batch_dice)
    assert terms_of(label_format, outputs_of(other, whole(2, 8)), target, batch_dice=batch_dice) == pytest.approx(terms)
    maps.requires_grad_()
    DCSNetLoss(label_format, batch_dice=batch_dice)(outputs_of(maps, whole(2, 8)), target).backward()
    assert not (maps.grad * ignored).any()
    assert maps.grad[:5].abs().sum(2, keepdim=True)[:, ~ignored].all()


def test_region_labels_of_ignored_pixels_count_nowhere():
    target, maps, ignored = ignoring(REGIONS_IGNORE)
    other = target.clone()
    other[:, :2] ^= ignored & (torch.rand(2, 2, 8, 8) < 0.5)
    assert not torch.equal(other, target)
    terms = [terms_of(REGIONS_IGNORE, outputs_of(maps, whole(2, 8)), t) for t in (target, other)]
    assert terms[0] == pytest.approx(terms[1])


def test_edges_beside_ignored_pixels_are_unknown():
    """There is an edge only where all neighbours are annotated: here in two columns of five."""
    labels = drawing("""
        .1133
        .1133
        .1133
        ...33
        ...33
    """)
    z = z_maps(5, 5)
    y, p = (labels[0, 0] == 1).numpy().astype(float), sigmoid(z.numpy())
    target = target_in_boxes(
        Target(one_hots(labels, 2) * (labels < IGNORE), (labels < IGNORE).float()),
        whole(1, 5),
        torch.ones(1),
        5,
        softmax=True,
    )
    maps = torch.stack((torch.zeros_like(z), z))[None]
    inner = dice(literal_inner_edges(y)[:, :2], literal_inner_edges(p)[:, :2])
    assert boundary_loss(maps.softmax(1), target).item() == pytest.approx(inner, rel=1e-4)
    laplacian = bce(literal_laplacian_edges(y)[:, :2], p[:, :2])
    assert edge_loss(torch.stack((z, z))[None], target).item() == pytest.approx(laplacian, rel=1e-4)


@pytest.mark.parametrize("label_format", [LABELS, LABELS_IGNORE, REGIONS], ids=["labels", "labels_ignore", "regions"])
def test_boxes_of_weight_0_count_nowhere(label_format):
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (2, 1, 6, 6), dtype=torch.int16)
    target = labels.bool() if label_format.regions else labels
    maps = z_maps(6, 3, 1 if label_format.regions else 2, 6, 6)
    boxes = torch.tensor([[0.0, 0, 0, 6, 6], [1, 1, 0, 4, 6], [1, 0, 0, 6, 6]])
    maps.requires_grad_()
    outputs = outputs_of(maps, boxes, [1, 0, 1])
    alone = outputs_of(maps[:, [0, 2]], boxes[[0, 2]])
    assert terms_of(label_format, outputs, target) == pytest.approx(terms_of(label_format, alone, target))
    DCSNetLoss(label_format)(outputs, target).backward()
    assert not maps.grad[:, 1].any()
    assert maps.grad[:, [0, 2]].any(-1).any(-1).any(-1).all()


@pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "single"])
@pytest.mark.parametrize("label_format", [LABELS, REGIONS], ids=["labels", "regions"])
def test_a_batch_without_an_object_leaves_the_detectors_losses_and_zeros_for_gradients(label_format, batch_dice):
    maps = z_maps(6, 1, 2, 6, 6).requires_grad_()
    detection = {"objectness": torch.tensor(0.25, requires_grad=True)}
    target = torch.zeros(2, 2, 6, 6).bool() if label_format.regions else torch.zeros(2, 1, 6, 6, dtype=torch.int16)
    loss = DCSNetLoss(label_format, batch_dice=batch_dice)
    total = loss(outputs_of(maps, whole(1, 6), [0], detection), target)
    total.backward()
    assert total.item() == pytest.approx(0.25, abs=1e-6)
    assert maps.grad is not None and not maps.grad.any()
    assert detection["objectness"].grad == 1


def test_images_without_annotation_leave_zeros():
    target, maps = torch.full((1, 1, 6, 6), IGNORE, dtype=torch.int16), z_maps(6, 1, 3, 6, 6).requires_grad_()
    total = DCSNetLoss(LABELS_IGNORE)(outputs_of(maps, whole(1, 6)), target)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert not maps.grad.any()
