"""The connectivity losses of DCFFSNet, from its reference [4] (Yang & Farsiu, CVPR 2023), for K classes or regions."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.directions import bilateral_logits, directional_vote, neighbours
from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    full_resolution,
    masked_mean,
    segmentation_cross_entropy,
    soft_dice_loss,
    split_target,
)


class ConnectivityOutputs(Protocol):
    """What :class:`DCFFSNetLoss` needs of the network's outputs."""

    @property
    def connectivity(self) -> Tensor: ...
    @property
    def bottleneck_connectivity(self) -> Tensor | None: ...


def connectivity_map(masks: Tensor) -> Tensor:
    """``conn(Y)_d(x) = Y(x) * Y(x + d)``: ``(B, K, H, W)`` to ``(B, K, 8, H, W)``, 0 where the neighbour is outside."""
    return masks.unsqueeze(2) * neighbours(masks)


class ConnectivityLoss(nn.Module):
    """``BCE(vote, Y) + Dice(vote, Y) + BCE(conn, conn(Y)) + L_edge + 0.2 BCE(bilateral votes, conn(Y))``.

    For softmax labels of more than two classes the first two terms are cross-entropy and Dice of the softmax. Dice
    leaves out the background of softmax labels, as nnU-Net's does; every other term is a mean over all K maps.

    A pair of pixels counts only where both are annotated and inside the image: what lies outside is as unknown as what
    carries the ignore label. (Reference [4] trains the connectivity across the border towards 0, which at the border of
    a patch teaches the position in the patch.)
    """

    bilateral_weight = 0.2

    def __init__(self, label_format: LabelFormat, *, batch_dice: bool = True, voting: str = "max"):
        super().__init__()
        self.label_format = label_format
        self.batch_dice = batch_dice
        self.voting = voting

    def forward(self, connectivity: Tensor, target: Target) -> dict[str, Tensor]:
        """The weighted terms for connectivity logits ``(B, K, 8, H, W)``, each a scalar."""
        one_hot, mask = target
        pairs = connectivity_map(one_hot)
        known = connectivity_map(one_hot.new_ones((1, 1, *one_hot.shape[2:])) if mask is None else mask)

        bilateral = bilateral_logits(connectivity)
        logits = directional_vote(bilateral, self.voting)
        softmax = not self.label_format.regions and logits.shape[1] > 2
        return {
            "vote_ce": segmentation_cross_entropy(logits, target, softmax=softmax),
            "vote_dice": soft_dice_loss(
                logits.softmax(1) if softmax else logits.sigmoid(),
                target,
                batch_dice=self.batch_dice,
                background=self.label_format.regions,
            ),
            "connectivity": masked_mean(bce_with_logits(connectivity, pairs), known),
            "edge": edge_loss(bilateral, pairs, known),
            "bilateral": self.bilateral_weight * masked_mean(bce_with_logits(bilateral, pairs), known),
        }


def bce_with_logits(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def edge_loss(bilateral: Tensor, pairs: Tensor, known: Tensor) -> Tensor:
    """BCE of the smallest vote against 0, mean over the edge pixels: an edge pixel disagrees with some neighbour.

    Edge pixels belong to the mask (``sum_d conn(Y)_d > 0``) and have a neighbour that does not.
    """
    agreeing = pairs.sum(2)
    edge = ((agreeing > 0) & (agreeing < known.sum(2))).to(bilateral.dtype)
    smallest = bilateral.masked_fill(known == 0, torch.finfo(bilateral.dtype).max).amin(2)
    return (F.softplus(smallest * edge) * edge).sum() / edge.sum().clamp_min(1)


class DCFFSNetLoss(PluginLoss):
    """``L(connectivity) + 0.3 * L(P_out)`` with :class:`ConnectivityLoss` L; one term without P_out."""

    bottleneck_weight = 0.3

    def __init__(self, label_format: LabelFormat, *, batch_dice: bool = True, voting: str = "max"):
        super().__init__()
        self.connectivity_loss = ConnectivityLoss(label_format, batch_dice=batch_dice, voting=voting)

    def forward(self, outputs: ConnectivityOutputs, targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Total loss for ``DCFFSNetOutput`` and nnU-Net's (list of one) full-resolution target."""
        label_format = self.connectivity_loss.label_format
        with torch.autocast(outputs.connectivity.device.type, enabled=False):
            target = split_target(full_resolution(targets), outputs.connectivity.shape[1], label_format)
            terms = self.connectivity_loss(outputs.connectivity.float(), target)
            if outputs.bottleneck_connectivity is not None:
                bottleneck = self.connectivity_loss(outputs.bottleneck_connectivity.float(), target)
                terms["P_out"] = self.bottleneck_weight * torch.stack(list(bottleneck.values())).sum()
            return self.total(terms)
