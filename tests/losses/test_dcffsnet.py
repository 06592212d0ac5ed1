"""Proves: DCFFSNet's losses equal the formulas of reference [4], pixel by pixel, for classes, regions and ignore."""

import math

import pytest
import torch
from torch.nn import functional as F

from nnunet_plugins.architectures.dcffsnet import DCFFSNetOutput
from nnunet_plugins.architectures.layers.directions import DIRECTIONS, directional_vote, every_direction, pair_masks
from nnunet_plugins.losses import ConnectivityLoss, DCFFSNetLoss
from nnunet_plugins.losses.common import LabelFormat, Target, split_target
from nnunet_plugins.losses.dcffsnet import edge_loss, pair_target


def terms_of(loss: ConnectivityLoss, connectivity: torch.Tensor, target: Target) -> dict[str, torch.Tensor]:
    return loss(connectivity, target, pair_target(target))


def bce(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log1p(-p))


def plain_loss(connectivity: torch.Tensor, target: Target) -> dict[str, float]:
    """Loss of sigmoid maps (regions), computed pixel by pixel from probabilities."""
    p = connectivity.sigmoid().tolist()
    y, mask = target.one_hot.tolist(), (target.mask if target.mask is not None else torch.ones(1)).tolist()
    batch, classes, _, height, width = connectivity.shape
    vote_ce, conn, bilateral, edge = [], [], [], []
    votes = torch.zeros(batch, classes, height, width, dtype=torch.float64)
    for b in range(batch):
        known = [[target.mask is None or mask[b][0][i][j] == 1 for j in range(width)] for i in range(height)]
        for k in range(classes):
            for i in range(height):
                for j in range(width):
                    pair_votes, known_votes, agreement, num_known = [], [], 0.0, 0
                    for d, (dy, dx) in enumerate(DIRECTIONS):
                        ni, nj = i + dy, j + dx
                        if not (0 <= ni < height and 0 <= nj < width):
                            continue
                        vote = p[b][k][d][i][j] * p[b][k][7 - d][ni][nj]
                        pair_votes.append(vote)
                        if known[i][j] and known[ni][nj]:
                            truth = y[b][k][i][j] * y[b][k][ni][nj]
                            conn.append(bce(p[b][k][d][i][j], truth))
                            bilateral.append(bce(vote, truth))
                            known_votes.append(vote)
                            agreement, num_known = agreement + truth, num_known + 1
                    votes[b, k, i, j] = max(pair_votes)
                    if known[i][j]:
                        vote_ce.append(bce(max(pair_votes), y[b][k][i][j]))
                    if 0 < agreement < num_known:
                        edge.append(bce(min(known_votes), 0.0))
    m = 1.0 if target.mask is None else target.mask
    intersection, total = (votes * target.one_hot).sum((0, 2, 3)), ((votes + target.one_hot) * m).sum((0, 2, 3))
    return {
        "vote_ce": sum(vote_ce) / len(vote_ce),
        "vote_dice": float((1 - (2 * intersection + 1e-5) / (total + 1e-5)).mean()),
        "connectivity": sum(conn) / len(conn),
        "edge": sum(edge) / max(1, len(edge)),
        "bilateral": 0.2 * sum(bilateral) / len(bilateral),
    }


@pytest.mark.parametrize("ignore", [False, True])
def test_every_term_equals_the_plain_formula(ignore):
    torch.manual_seed(0)
    connectivity = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    regions = torch.rand(2, 3 if ignore else 2, 5, 6) > 0.4
    label_format = LabelFormat(regions=True, ignore_label=3 if ignore else None)
    target = split_target(regions, 2, label_format)
    terms = terms_of(
        ConnectivityLoss(label_format), connectivity, Target(*(t if t is None else t.double() for t in target))
    )
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(plain_loss(connectivity, target))


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
