"""Regions of DRGO: their statistics and the adaptive loss that weights them, section 3.4.2 of MedFusion-TransNet.

Regions are the cells of a grid over the image, not nnU-Net's overlapping "regions", which are labels. Probabilities
``(B, K, *S)`` are those of a softmax, or of the sigmoids of overlapping labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_plugins.losses.common import Target
from nnunet_plugins.losses.drgo_boundary import gradient_magnitude

CELLS_PER_AXIS = 8
MIN_CELL = 16  # pixels


# ---- the grid --------------------------------------------------------------------------------------------------------


def region_grid(size: Sequence[int]) -> tuple[int, ...]:
    """Number of regions along each axis of an image: 8, or fewer if they were shorter than 16 pixels.

    Example:
        >>> region_grid((320, 40, 12))
        (8, 2, 1)
    """
    return tuple(min(max(length // MIN_CELL, 1), CELLS_PER_AXIS) for length in size)


def cell_of(length: int, cells: int, device: torch.device | None = None) -> Tensor:
    """Index of the cell of each of an axis' ``length`` positions, ``(length,)``; cells differ by at most one in length.

    Example:
        >>> cell_of(5, 2).tolist()
        [0, 0, 0, 1, 1]
    """
    return torch.arange(length, device=device) * cells // length


def region_sums(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Sum of ``(B, C, *S)`` over each region: ``(B, C, *grid)``.

    A product with the 0-1 matrix of cells and positions for one axis after the other, the last first: then the axes
    behind it in memory are already summed, and short.
    """
    for axis, cells in reversed(list(enumerate(grid, start=2))):
        length = x.shape[axis]
        membership = (cell_of(length, cells, x.device)[:, None] == torch.arange(cells, device=x.device)).to(x.dtype)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = membership.T @ x.flatten(axis + 1) if after else x @ membership
        x = x.reshape(*before, cells, *after)
    return x


# ---- statistics ------------------------------------------------------------------------------------------------------


class RegionStatistics(NamedTuple):
    """Statistics of a batch's regions, each ``(B, 1, *grid)``, without gradient."""

    uncertainty: Tensor
    """Mean entropy, in nats."""
    boundary: Tensor
    """Mean gradient magnitude of the predicted foreground: "boundary uncertainty"."""
    annotated: Tensor
    """Number of annotated pixels."""


@torch.no_grad()
def region_statistics(probabilities: Tensor, target: Target, grid: Sequence[int], *, softmax: bool) -> RegionStatistics:
    """Measure the uncertainties of ``(B, K, *S)`` probabilities in each region of the grid."""
    mask = target.annotated
    maps = torch.cat(
        (
            entropy(probabilities, softmax=softmax) * mask,
            gradient_magnitude(foreground(probabilities, softmax=softmax)) * mask,
            mask,
        ),
        1,
    )
    uncertainty, boundary, count = region_sums(maps, grid).split(1, dim=1)
    return RegionStatistics(uncertainty / count.clamp_min(1), boundary / count.clamp_min(1), count)


def entropy(probabilities: Tensor, *, softmax: bool) -> Tensor:
    """Entropy ``-sum_c p_c log p_c`` of every pixel, ``(B, 1, *S)``; for sigmoids the mean of the binary ones."""
    if softmax:
        return torch.special.entr(probabilities).sum(1, keepdim=True)
    binary = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return binary.mean(1, keepdim=True)


def foreground(probabilities: Tensor, *, softmax: bool) -> Tensor:
    """Probability of any class but the background, or of the likeliest overlapping label: ``(B, 1, *S)``."""
    return 1 - probabilities[:, :1] if softmax else probabilities.amax(1, keepdim=True)


def dominant_frequency(target: Target, grid: Sequence[int]) -> Tensor:
    """Share of each region's commonest class, ``(B, 1, *grid)``; with overlapping labels "none" is a class too."""
    mask = target.annotated
    none = mask * (1 - target.one_hot.amax(1, keepdim=True))  # nowhere, if the classes of a softmax cover all
    counts = region_sums(torch.cat((target.one_hot, none), 1), grid)
    return counts.amax(1, keepdim=True) / region_sums(mask, grid).clamp_min(1)


# ---- adaptive loss ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def adaptive_weights(statistics: RegionStatistics, dominant: Tensor, gamma: float) -> Tensor:
    """``lambda = gamma * Uncertainty + (1 - gamma) * Imbalance`` of each region, ``(B, 1, *grid)``; its mean is 1.

    Imbalance is ``1 / frequency of the dominant class``. Regions without annotation have weight 0 and do not count.
    """
    seen = (statistics.annotated > 0).float()
    weights = seen * (gamma * statistics.uncertainty + (1 - gamma) / dominant.clamp_min(1e-5))
    return weights * seen.sum() / weights.sum().clamp_min(1e-5)


def adaptive_loss(pixel_loss: Tensor, target: Target, weights: Tensor) -> Tensor:
    """``sum_i lambda_i L(R_i)`` for a loss of every pixel, ``(B, 1, *S)``, and the regions' weights ``(B, 1, *grid)``.

    ``L(R_i)`` is what a region contributes to the mean of the loss over all annotated pixels: with equal weights the
    result is that mean.
    """
    mask = target.annotated
    contributions = region_sums(pixel_loss * mask, weights.shape[2:]) / mask.sum().clamp_min(1)
    return (weights * contributions).sum()
