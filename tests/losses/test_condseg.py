"""Proves: ConDSeg's losses of both stages are the paper's, by hand and in plain loops, and finite at their limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.architectures.condseg import ConDSegOutput
from nnunet_plugins.losses import ConDSegLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.losses.condseg import MAX_BETA, complementarity_loss, consistency_loss, penalty


def logit(p):
    return math.log(p / (1 - p))


def two_classes(foreground):
    """Softmax logits ``(1, 2, 1, N)`` with these foreground probabilities."""
    z = torch.tensor([logit(p) for p in foreground]).view(1, 1, 1, -1)
    return torch.cat((torch.zeros_like(z), z), 1)


def bce(y, m):
    """Binary cross-entropy, eq. 2."""
    return -sum(a * math.log(b) + (1 - a) * math.log(1 - b) for a, b in zip(y, m, strict=True)) / len(y)


def dice(y, m):
    """Dice loss, eq. 3."""
    return 1 - 2 * sum(a * b for a, b in zip(y, m, strict=True)) / (sum(m) + sum(y))


def mask(y, m):
    """Mask loss, eq. 4."""
    return bce(y, m) + dice(y, m)


def cons(m1, m2):
    """Consistency loss, eq. 5-6 with t = 1/2."""
    b1, b2 = ([1 if p >= 0.5 else 0 for p in m] for m in (m1, m2))
    return 0.5 * (bce(b2, m1) + bce(b1, m2))


Y, M1, M2 = [1, 1, 0, 0], [0.8, 0.4, 0.3, 0.1], [0.6, 0.7, 0.2, 0.55]
LABELS = torch.tensor(Y).view(1, 1, 1, -1)
REGIONS = LabelFormat(regions=True)


@pytest.mark.parametrize("label_format", [LabelFormat(), REGIONS], ids=["labels", "regions"])
def test_stage_1_by_hand(label_format):
    views = torch.cat([two_classes(m) for m in (M1, M2)])
    if label_format.regions:
        views = views[:, 1:]
    loss = ConDSegLoss(label_format)
    total = loss(ConDSegOutput(views.requires_grad_(), None), [LABELS])
    assert total.item() == pytest.approx(mask(Y, M1) + mask(Y, M2) + cons(M1, M2), rel=1e-5)
    assert loss.mean_terms() == {
        "mask1": pytest.approx(mask(Y, M1), rel=1e-5),
        "mask2": pytest.approx(mask(Y, M2), rel=1e-5),
        "cons": pytest.approx(cons(M1, M2), rel=1e-5),
    }


def test_one_view_without_decoupled_masks_leaves_the_mask_loss():
    for outputs in (two_classes(M1), ConDSegOutput(two_classes(M1), None)):
        assert ConDSegLoss(LabelFormat())(outputs, LABELS).item() == pytest.approx(mask(Y, M1), rel=1e-5)


@pytest.mark.parametrize("label_format", [LabelFormat(), REGIONS], ids=["labels", "regions"])
def test_stage_2_by_hand(label_format):
    fg, bg, uc = [0.7, 0.6, 0.2, 0.1], [0.2, 0.3, 0.9, 0.8], [0.4, 0.5, 0.1, 0.3]
    decoupled = torch.tensor([[logit(p) for p in m] for m in (fg, bg, uc)]).view(1, 3, 1, -1)
    logits = two_classes(M1)[:, 1:] if label_format.regions else two_classes(M1)
    beta1, beta2 = (1 / math.tanh(sum(m) / 4) for m in (fg, bg))  # eq. 9
    compl = sum(a * b + a * c + b * c for a, b, c in zip(fg, bg, uc, strict=True)) / 4  # eq. 10
    expected = mask(Y, M1) + beta1 * mask(Y, fg) + beta2 * mask([1 - y for y in Y], bg) + compl  # eq. 15
    assert ConDSegLoss(label_format)(ConDSegOutput(logits, decoupled), [LABELS]).item() == pytest.approx(expected, 1e-5)


def test_foreground_is_every_class_and_every_region_and_ignored_pixels_count_nowhere():
    decoupled = torch.randn(1, 3, 1, 6)
    labels = torch.tensor([0, 1, 2, 2, 0, 3]).view(1, 1, 1, -1)
    regions = torch.cat([(labels == 1) | (labels == 2), labels == 2, labels == 3], 1)
    binary = torch.tensor([0, 1, 1, 1, 0]).view(1, 1, 1, -1)
    terms = []
    for label_format, target, heads in (
        (LabelFormat(ignore_label=3), labels, 3),
        (LabelFormat(regions=True, ignore_label=3), regions, 2),
        (LabelFormat(), binary, 2),
    ):
        n = target.shape[-1]
        loss = ConDSegLoss(label_format)
        logits = torch.zeros(1, heads, 1, n, requires_grad=True)
        loss(ConDSegOutput(logits, decoupled[..., :n]), target)
        terms.append({name: value for name, value in loss.mean_terms().items() if name != "mask"})
    assert terms[0] == pytest.approx(terms[2], rel=1e-5)
    assert terms[1] == pytest.approx(terms[2], rel=1e-5)


@pytest.mark.parametrize("label_format", [LabelFormat(ignore_label=3), LabelFormat(True, 3)], ids=["labels", "regions"])
def test_views_of_ignored_pixels_count_nowhere(label_format):
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 6, 6))
    labels[..., 3:] = 3
    target = torch.cat([labels == 1, labels == 2, labels == 3], 1) if label_format.regions else labels
    views = torch.randn(4, 2 if label_format.regions else 3, 6, 6)
    other = views.clone()
    other[..., 3:] = torch.randn_like(other[..., 3:])
    loss = ConDSegLoss(label_format)
    torch.testing.assert_close(loss(views, target), loss(other, target))
    views.requires_grad_()
    loss(views, target).backward()
    assert not views.grad[..., 3:].any() and views.grad[..., :3].all()


def test_foreground_is_the_union_of_disjoint_regions():
    labels = torch.tensor([0, 1, 2, 2, 0]).view(1, 1, 1, -1)
    decoupled = torch.randn(1, 3, 1, 5)
    regions = torch.cat([labels == 1, labels == 2], 1)
    terms = []
    for label_format, target, heads in ((LabelFormat(True), regions, 2), (LabelFormat(), (labels > 0).int(), 2)):
        loss = ConDSegLoss(label_format)
        loss(ConDSegOutput(torch.zeros(1, heads, 1, 5, requires_grad=True), decoupled), target)
        terms.append(loss.mean_terms())
    assert terms[0]["beta1 * fg"] == pytest.approx(terms[1]["beta1 * fg"], rel=1e-5)
    assert terms[0]["beta2 * bg"] == pytest.approx(terms[1]["beta2 * bg"], rel=1e-5)


def test_dice_of_single_samples_is_their_mean():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 2, 8, 8), torch.randint(0, 2, (3, 1, 8, 8))
    labels[0] = 0
    single = ConDSegLoss(LabelFormat(), batch_dice=False)
    each = torch.stack([single(logits[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(single(logits, labels), each.mean())
    assert not torch.isclose(ConDSegLoss(LabelFormat())(logits, labels), each.mean())


def test_half_precision_outputs_are_judged_in_float32():
    logits, decoupled = 30 * torch.randn(2, 2, 8, 8).half(), 30 * torch.randn(2, 3, 8, 8).half()
    labels = torch.randint(0, 2, (2, 1, 8, 8))
    loss = ConDSegLoss(LabelFormat())
    value = loss(ConDSegOutput(logits, decoupled), [labels])
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(ConDSegOutput(logits.float(), decoupled.float()), [labels]))


def test_consistency_of_identical_confident_masks_is_0():
    labels = torch.randint(0, 3, (2, 8, 8))
    confident = 40 * (torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) - 0.5)
    for softmax in (True, False):
        assert consistency_loss(confident, confident, None, softmax=softmax) == pytest.approx(0, abs=1e-6)


@given(st.booleans(), st.integers(0, 2**31))
def test_consistency_is_symmetric_and_binarised_masks_get_no_gradient(softmax, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 1, 3, 4, 4, generator=generator, dtype=torch.float64).unbind()
    loss = consistency_loss(first, second, None, softmax=softmax)
    assert loss.item() == pytest.approx(consistency_loss(second, first, None, softmax=softmax).item())
    first.requires_grad_()
    consistency_loss(first, second, None, softmax=softmax).backward()
    # With the other mask's values fixed, the gradient is that of cross-entropy with the other mask binarised, halved.
    with torch.no_grad():
        p = first.softmax(1) if softmax else first.sigmoid()
        y = torch.zeros_like(p).scatter_(1, second.argmax(1, keepdim=True), 1.0) if softmax else (second >= 0).double()
        expected = 0.5 * (p - y) / (16 if softmax else 48)
    torch.testing.assert_close(first.grad, expected)


def test_complementarity_is_0_for_certain_masks_and_counts_every_overlap():
    certain = 60 * torch.nn.functional.one_hot(torch.randint(0, 3, (2, 5, 5)), 3).movedim(-1, 1).double() - 30
    assert complementarity_loss(certain, None).item() == pytest.approx(0, abs=1e-9)
    assert complementarity_loss(torch.zeros(1, 3, 4, 4), None).item() == pytest.approx(3 / 4)
    assert complementarity_loss(torch.full((1, 3, 4, 4), 30.0), None).item() == pytest.approx(3)


def test_no_predictable_pixel_is_left_to_uncertainty():
    """Adam on free logits: with a softmax over the three uncertainty keeps a third of the pixels for good."""
    torch.manual_seed(0)
    decoupled = torch.randn(1, 3, 32, 32, requires_grad=True)
    labels = (torch.rand(1, 1, 32, 32) < 0.3).long()
    loss, optimizer = ConDSegLoss(LabelFormat()), torch.optim.Adam([decoupled], 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss(ConDSegOutput(torch.zeros(1, 2, 32, 32), decoupled), labels).backward()
        optimizer.step()
    largest = decoupled.argmax(1, keepdim=True)
    assert not (largest == 2).any()
    assert torch.equal(largest, 1 - labels)


@given(st.floats(-80, 80))
def test_penalty_is_finite_and_grows_as_the_area_shrinks(z):
    beta = penalty(torch.full((1, 1, 4, 4), z), None).item()
    assert 1 / math.tanh(1) - 1e-6 <= beta <= MAX_BETA * (1 + 1e-6)
    assert penalty(torch.full((1, 1, 4, 4), z + 1), None).item() <= beta


def test_penalty_of_nothing_annotated_is_finite_and_has_no_gradient():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    beta = penalty(logits, torch.zeros(1, 1, 4, 4))
    assert beta.item() == pytest.approx(MAX_BETA)
    assert not beta.requires_grad
