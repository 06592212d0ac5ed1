"""The connectivity losses of DCFFSNet, from its reference [4] (Yang & Farsiu, CVPR 2023), for K classes or regions."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.directions import (
    DIRECTIONS,
    Directions,
    both_ends,
    largest_pair,
    pair_masks,
    pair_votes,
    pick,
    vote_of_pairs,
)
from nnunet_plugins.architectures.layers.recomputation import recomputable
from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    segmentation_cross_entropy,
    soft_dice_loss,
    to_probabilities,
)


class ConnectivityOutputs(Protocol):
    """Outputs of a network that :class:`DCFFSNetLoss` can judge; they begin with logits ``(B, K, *S)``."""

    @property
    def connectivity(self) -> Tensor: ...
    @property
    def bottleneck_connectivity(self) -> Tensor | None: ...


class PairTarget(NamedTuple):
    """True connectivity of all pairs of neighbours, ``(B, K, D/2, *S)`` of 0 and 1."""

    same: Tensor
    """``conn(Y)``: both pixels belong to the mask."""
    different: Tensor
    """Known pairs of which not both pixels belong to the mask."""
    known: Tensor
    """``(B or 1, 1, D/2, *S)``: pairs of which both pixels are annotated and inside the image."""
    number: Tensor
    """Number of known pairs in all maps, at least 1."""
    edge: Tensor
    """``(B, K, *S)``: pixels that agree with some neighbour, but not with all."""


def pair_target(target: Target, directions: Directions = DIRECTIONS) -> PairTarget:
    """Derive the true connectivity from one-hot maps ``(B, K, *S)`` and their mask."""
    one_hot, mask = target
    known = pair_masks(one_hot.new_ones((1, 1, *one_hot.shape[2:])) if mask is None else mask, directions)
    same = pair_masks(one_hot, directions)
    different = known - same
    number = (known.sum() * (same.numel() / known.numel())).clamp_min(1)
    edge = belongs_to_any(same, directions) * belongs_to_any(different, directions)
    return PairTarget(same, different, known, number, edge)


class ConnectivityLoss(nn.Module):
    """``BCE(vote, Y) + Dice(vote, Y) + BCE(conn, conn(Y)) + L_edge + 0.2 BCE(bilateral votes, conn(Y))``.

    Every term is a mean over all K maps, the background's too: without its share of each, it would lose against a
    foreground that Dice pushes. For softmax labels of more than two classes the first two terms are cross-entropy and
    Dice of the softmax, the latter without the background, as in nnU-Net.

    Deviation: a pair of pixels counts only where both are annotated and inside the image; what lies outside is as
    unknown as what carries the ignore label. Reference [4] trains the connectivity across the border towards 0, which
    at the border of a patch teaches the position in the patch.
    """

    bilateral_weight = 0.2

    def __init__(
        self,
        label_format: LabelFormat,
        *,
        batch_dice: bool = True,
        voting: str = "max",
        directions: Directions = DIRECTIONS,
    ):
        super().__init__()
        self.label_format = label_format
        self.batch_dice = batch_dice
        self.voting = voting
        self.directions = directions

    @recomputable
    def forward(self, connectivity: Tensor, target: Target, pairs: PairTarget) -> dict[str, Tensor]:
        """The weighted terms, each a scalar.

        Args:
            connectivity: ``(B, K, D, *S)`` logits.
            target: one-hot maps ``(B, K, *S)`` and mask.
            pairs: :func:`pair_target` of ``target``.
        """
        votes = pair_votes(connectivity, self.directions)
        logits = vote_of_pairs(votes, self.voting, self.directions)
        softmax = not self.label_format.regions and logits.shape[1] > 2
        agreement = (votes.log_vote * pairs.same).sum()
        return {
            "vote_ce": segmentation_cross_entropy(logits, target, softmax=softmax),
            "vote_dice": soft_dice_loss(
                to_probabilities(logits, softmax=softmax), target, batch_dice=self.batch_dice, background=not softmax
            ),
            "connectivity": -(agreement + (votes.log_neither * pairs.different).sum()) / (2 * pairs.number),
            "edge": edge_loss(votes.log_no_vote, pairs, self.directions),
            "bilateral": -self.bilateral_weight
            * (agreement + (votes.log_no_vote * pairs.different).sum())
            / pairs.number,
        }


def edge_loss(log_no_vote: Tensor, pairs: PairTarget, directions: Directions = DIRECTIONS) -> Tensor:
    """BCE of the smallest vote against 0, mean over the edge pixels; ``log_no_vote`` is ``(B, K, D/2, *S)``.

    Deviation: reference [4] divides by the sum of the smallest votes, not by the number of edge pixels.
    """
    smallest_vote = largest_pair(log_no_vote.detach().masked_fill(pairs.known == 0, -torch.inf), directions)
    return -(pick(log_no_vote, smallest_vote) * pairs.edge).sum() / pairs.edge.sum().clamp_min(1)


def belongs_to_any(pairs: Tensor, directions: Directions = DIRECTIONS) -> Tensor:
    """Mark every pixel that is an end of any of the pairs: ``(B, K, D/2, *S)`` to ``(B, K, *S)``."""
    result = torch.zeros_like(pairs[:, :, 0])
    for place, values in both_ends(pairs, directions):
        result[place] = torch.maximum(result[place], values)
    return result


class DCFFSNetLoss(PluginLoss):
    """``L(connectivity) + 0.3 * L(P_out)`` with :class:`ConnectivityLoss` L; without P_out, the first alone.

    Args:
        label_format: the dataset's.
        batch_dice: one Dice for the batch (under DDP that of all processes) instead of one for each sample.
        voting: kind of the bilateral vote, as of :func:`~nnunet_plugins.architectures.layers.directions.vote_of_pairs`.
        directions: steps to the D neighbours; by default the paper's eight of images.
    """

    bottleneck_weight = 0.3

    def __init__(
        self,
        label_format: LabelFormat,
        *,
        batch_dice: bool = True,
        voting: str = "max",
        directions: Directions = DIRECTIONS,
    ):
        super().__init__(label_format)
        self.connectivity_loss = ConnectivityLoss(
            label_format, batch_dice=batch_dice, voting=voting, directions=directions
        )

    def terms(self, outputs: ConnectivityOutputs, target: Target) -> dict[str, Tensor]:
        """Return the terms of a ``DCFFSNetOutput``: those of the connectivity, and one for all of P_out's."""
        pairs = pair_target(target, self.connectivity_loss.directions)
        terms: dict[str, Tensor] = self.connectivity_loss(outputs.connectivity, target, pairs)
        if outputs.bottleneck_connectivity is not None:
            bottleneck = self.connectivity_loss(outputs.bottleneck_connectivity, target, pairs)
            terms["P_out"] = self.bottleneck_weight * torch.stack(list(bottleneck.values())).sum()
        return terms
