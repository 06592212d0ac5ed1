"""Proves: DCFFSNet's losses equal the formulas of reference [4], pixel by pixel, for classes, regions and ignore."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from nnunet_plugins.architectures.dcffsnet import DCFFSNetOutput
from nnunet_plugins.architectures.layers.directions import (
    DIRECTIONS,
    Directions,
    directional_vote,
    every_direction,
    neighbours,
    pair_masks,
)
from nnunet_plugins.losses import ConnectivityLoss, DCFFSNetLoss
from nnunet_plugins.losses.common import LabelFormat, Target, split_target
from nnunet_plugins.losses.dcffsnet import edge_loss, pair_target


def terms_of(loss: ConnectivityLoss, connectivity: torch.Tensor, target: Target) -> dict[str, torch.Tensor]:
    return loss(connectivity, target, pair_target(target))


def bce(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log1p(-p))


def plain_loss(connectivity: torch.Tensor, target: Target, directions: Directions) -> dict[str, float]:
    """Loss of sigmoid maps (regions), computed pixel by pixel from probabilities."""
    p, y = connectivity.sigmoid(), target.one_hot
    size = y.shape[2:]
    mask = torch.ones(len(y), 1, *size) if target.mask is None else target.mask
    vote_ce, conn, bilateral, edge = [], [], [], []
    votes = torch.zeros(y.shape, dtype=torch.float64)
    for b, k, *pixel in product(*map(range, y.shape)):
        known = mask[b, 0, *pixel] == 1
        pair_votes, known_votes, agreement, num_known = [], [], 0.0, 0
        for d, step in enumerate(directions):
            neighbour = [index + length for index, length in zip(pixel, step, strict=True)]
            if not all(0 <= index < length for index, length in zip(neighbour, size, strict=True)):
                continue
            connection = float(p[b, k, d, *pixel])
            vote = connection * float(p[b, k, -1 - d, *neighbour])
            pair_votes.append(vote)
            if known and mask[b, 0, *neighbour] == 1:
                truth = float(y[b, k, *pixel] * y[b, k, *neighbour])
                conn.append(bce(connection, truth))
                bilateral.append(bce(vote, truth))
                known_votes.append(vote)
                agreement, num_known = agreement + truth, num_known + 1
        votes[b, k, *pixel] = max(pair_votes)
        if known:
            vote_ce.append(bce(max(pair_votes), float(y[b, k, *pixel])))
        if 0 < agreement < num_known:
            edge.append(bce(min(known_votes), 0.0))
    axes = (0, *range(2, y.ndim))
    intersection, total = (votes * y).sum(axes), ((votes + y) * mask).sum(axes)
    return {
        "vote_ce": sum(vote_ce) / len(vote_ce),
        "vote_dice": float((1 - (2 * intersection + 1e-5) / (total + 1e-5)).mean()),
        "connectivity": sum(conn) / len(conn),
        "edge": sum(edge) / max(1, len(edge)),
        "bilateral": 0.2 * sum(bilateral) / len(bilateral),
    }


FACES = neighbours((True, True, True), diagonal=False)
CORNERS = neighbours((True, True, True), diagonal=True)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize(
    ("directions", "size"), [(DIRECTIONS, (5, 6)), (FACES, (3, 4, 5)), (CORNERS, (3, 3, 3))], ids=len
)
def test_every_term_equals_the_plain_formula(ignore, directions, size):
    torch.manual_seed(0)
    connectivity = torch.randn(2, 2, len(directions), *size, dtype=torch.float64)
    regions = torch.rand(2, 3 if ignore else 2, *size) > 0.4
    label_format = LabelFormat(regions=True, ignore_label=3 if ignore else None)
    target = Target(*(t if t is None else t.double() for t in split_target(regions, 2, label_format)))
    loss = ConnectivityLoss(label_format, directions=directions)
    terms = loss(connectivity, target, pair_target(target, directions))
    expected = plain_loss(connectivity, target, directions)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)


def test_loss_of_a_hand_worked_volume():
    """A voxel and its neighbour above are foreground in 3 x 3 x 3; all logits are 0, so that all agree with 1/2.

    54 pairs of neighbours share a face, one of which is in the mask. Every vote is 1/4. Each of the two voxels agrees
    with the other and with none of the five or more others that it has: both are at the edge.
    """
    mask = torch.zeros(1, 1, 3, 3, 3)
    mask[0, 0, 0:2, 1, 1] = 1
    target = Target(mask, None)
    pairs = pair_target(target, FACES)
    assert (int(pairs.known.sum()), int(pairs.same.sum())) == (54, 1)
    assert torch.equal(pairs.edge, mask)
    loss = ConnectivityLoss(LabelFormat(regions=True), directions=FACES)
    terms = loss(torch.zeros(1, 1, 6, 3, 3, 3), target, pairs)
    quarter, three_quarters, half = math.log(4), math.log(4 / 3), math.log(2)
    assert float(terms["vote_ce"]) == pytest.approx((2 * quarter + 25 * three_quarters) / 27)
    assert float(terms["vote_dice"]) == pytest.approx(1 - (2 * 0.5 + 1e-5) / (27 / 4 + 2 + 1e-5))
    assert float(terms["connectivity"]) == pytest.approx(half)
    assert float(terms["edge"]) == pytest.approx(three_quarters)
    assert float(terms["bilateral"]) == pytest.approx(0.2 * (quarter + 53 * three_quarters) / 54)


def test_votes_of_volumes_equal_products_with_translation_matrices():
    """Reference [4] writes a shift as a product with a matrix for each axis."""
    torch.manual_seed(0)
    size = (3, 4, 5)
    connectivity = torch.randn(1, 1, 6, *size, dtype=torch.float64)

    def shifted(x: torch.Tensor, step: tuple[int, ...]) -> torch.Tensor:
        z, y, x_axis = (
            torch.diag(torch.ones(length - abs(d), dtype=torch.float64), -d)
            for length, d in zip(size, step, strict=True)
        )
        return torch.einsum("ai,bj,ck,ijk->abc", z, y, x_axis, x)

    p = connectivity[0, 0].sigmoid()
    votes = [p[d] * shifted(p[5 - d], tuple(-length for length in step)) for d, step in enumerate(FACES)]
    torch.testing.assert_close(directional_vote(connectivity, "max", FACES)[0, 0].sigmoid(), torch.stack(votes).amax(0))


def test_edge_loss_of_a_hand_worked_mask():
    # Two foreground pixels side by side in a 1x3 image: the left one has known neighbours (right) only, all of which
    # agree; the right one disagrees with its right neighbour and is the one edge pixel.
    mask = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    logits = torch.zeros(1, 1, 4, 1, 3)  # of the votes; direction 3 is the left neighbour
    logits[0, 0, 3, 0, 1], logits[0, 0, 3, 0, 2] = 2.0, -1.0
    assert float(edge_loss(-F.softplus(logits), pair_target(Target(mask, None)))) == pytest.approx(
        math.log1p(math.exp(-1.0))
    )


def test_two_classes_train_two_sigmoid_maps():
    torch.manual_seed(0)
    connectivity, labels = torch.randn(2, 2, 8, 6, 6), torch.randint(0, 2, (2, 1, 6, 6))
    target = split_target(labels, 2, LabelFormat())
    as_labels = terms_of(ConnectivityLoss(LabelFormat()), connectivity, target)
    assert as_labels == terms_of(ConnectivityLoss(LabelFormat(regions=True)), connectivity, target)


def test_more_classes_train_their_softmax():
    torch.manual_seed(0)
    connectivity, labels = torch.randn(2, 4, 8, 6, 6, requires_grad=True), torch.randint(0, 4, (2, 1, 6, 6))
    terms = terms_of(ConnectivityLoss(LabelFormat()), connectivity, split_target(labels, 4, LabelFormat()))
    logits = directional_vote(connectivity, "max")
    torch.testing.assert_close(terms["vote_ce"], torch.nn.functional.cross_entropy(logits, labels[:, 0]))


def test_perfect_connectivity_has_next_to_no_loss():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 2:6, 3:8] = 1
    connectivity = torch.where(every_direction(pair_masks(mask), 0.0) > 0, 30.0, -30.0)
    terms = terms_of(ConnectivityLoss(LabelFormat(regions=True)), connectivity, Target(mask, None))
    assert all(value < 1e-4 for value in terms.values()), terms


def test_total_adds_three_tenths_of_the_bottleneck_loss():
    torch.manual_seed(0)
    connectivity, labels = torch.randn(2, 2, 8, 6, 6), torch.randint(0, 2, (2, 1, 6, 6))
    loss = DCFFSNetLoss(LabelFormat())
    single = loss(DCFFSNetOutput(connectivity[:, :, 0], connectivity, None), [labels])
    both = loss(DCFFSNetOutput(connectivity[:, :, 0], connectivity, connectivity), [labels])
    torch.testing.assert_close(both, 1.3 * single)


def test_half_precision_outputs_are_computed_in_float32():
    connectivity = torch.randn(2, 2, 8, 6, 6)
    labels = torch.randint(0, 2, (2, 1, 6, 6))
    loss = DCFFSNetLoss(LabelFormat())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(DCFFSNetOutput(connectivity[:, :, 0], connectivity.bfloat16(), None), [labels])
    full = loss(DCFFSNetOutput(connectivity[:, :, 0], connectivity.bfloat16().float(), None), [labels])
    assert half.dtype == torch.float32
    assert torch.equal(half, full)
