"""Dynamic Region-Guided Optimization (DRGO), section 3.4 of MedFusion-TransNet's paper: its losses.

Regions are the cells of a grid over the image. The paper's equations are missing from its text; they are rebuilt from
its sentences, and every function here says what it computes. What works on probabilities ``(B, K, *S)`` takes those
of a softmax, or of sigmoids: nnU-Net's overlapping "regions", which are labels and not cells of the grid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    full_resolution,
    masked_mean,
    split_target,
)

CELLS_PER_AXIS = 8
MIN_CELL = 16  # pixels
REACH = 5  # pixels: beyond this distance from a boundary pairs of pixels have no weight


def region_grid(size: Sequence[int]) -> tuple[int, ...]:
    """Number of regions along each axis of an image: 8, or fewer if they were shorter than 16 pixels."""
    return tuple(min(max(length // MIN_CELL, 1), CELLS_PER_AXIS) for length in size)


def cell_of(length: int, cells: int, device: torch.device | None = None) -> Tensor:
    """The cell of each of ``length`` positions of an axis: cells differ by at most one in length."""
    return torch.arange(length, device=device) * cells // length


def region_sums(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Sum of ``(B, C, *S)`` over each region: ``(B, C, *grid)``.

    A product with the 0-1 matrix of cells and positions for one axis after the other, the last first: what follows it
    in memory is then one row.
    """
    for axis, cells in reversed(list(enumerate(grid, start=2))):
        length = x.shape[axis]
        membership = (cell_of(length, cells, x.device)[:, None] == torch.arange(cells, device=x.device)).to(x.dtype)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = membership.T @ x.flatten(axis + 1) if after else x @ membership
        x = x.reshape(*before, cells, *after)
    return x


# ---- what regions are judged by --------------------------------------------------------------------------------------


def entropy(probabilities: Tensor, *, softmax: bool) -> Tensor:
    """``-sum_c p_c log p_c`` of every pixel, ``(B, 1, *S)``; of sigmoids the mean of their binary entropies."""
    if softmax:
        return torch.special.entr(probabilities).sum(1, keepdim=True)
    binary = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return binary.mean(1, keepdim=True)


def foreground(probabilities: Tensor, *, softmax: bool) -> Tensor:
    """Probability of any class but the background, or of the likeliest region: ``(B, 1, *S)``."""
    return 1 - probabilities[:, :1] if softmax else probabilities.amax(1, keepdim=True)


def gradient_magnitude(x: Tensor) -> Tensor:
    """``|grad x|`` of ``(B, C, *S)`` from the differences to the next pixel along each axis (0 at the end)."""
    return norm([differences(x, axis) for axis in range(2, x.ndim)])


def norm(components: Sequence[Tensor]) -> Tensor:
    """Root of the sum of squares, with gradient 0 at 0. torch's norm over a short leading axis is far slower."""
    squares = torch.stack([component.square() for component in components]).sum(0)
    tiny = torch.finfo(squares.dtype).tiny
    return (squares + tiny).sqrt() - tiny**0.5


def differences(x: Tensor, axis: int) -> Tensor:
    """``x_(i+1) - x_i`` along an axis, in the shape of ``x``: 0 at the end."""
    return x.diff(dim=axis, append=x.narrow(axis, -1, 1))


def dominant_frequency(target: Target, grid: Sequence[int]) -> Tensor:
    """Share of the commonest class of each cell, ``(B, 1, *grid)``; with overlapping regions "none" is a class too."""
    one_hot, mask = target.one_hot, annotated(target)
    none = mask * (1 - one_hot.amax(1, keepdim=True))  # nowhere, if the classes of a softmax cover all
    counts = region_sums(torch.cat((one_hot, none), 1), grid)
    return counts.amax(1, keepdim=True) / region_sums(mask, grid).clamp_min(1)


def annotated(target: Target) -> Tensor:
    """1 where annotated, ``(B, 1, *S)``."""
    return torch.ones_like(target.one_hot[:, :1]) if target.mask is None else target.mask


class RegionStatistics(NamedTuple):
    """What a batch showed of its regions, each ``(B, 1, *grid)``, without gradient."""

    uncertainty: Tensor
    """Mean entropy, in nats."""
    boundary: Tensor
    """Mean gradient magnitude of the predicted foreground: "boundary uncertainty"."""
    annotated: Tensor
    """Number of annotated pixels."""


@torch.no_grad()
def region_statistics(probabilities: Tensor, target: Target, grid: Sequence[int], *, softmax: bool) -> RegionStatistics:
    """Uncertainties of the prediction in each region of the grid."""
    mask = annotated(target)
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


# ---- adaptive loss, section 3.4.2 ------------------------------------------------------------------------------------


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
    mask = annotated(target)
    contributions = region_sums(pixel_loss * mask, weights.shape[2:]) / mask.sum().clamp_min(1)
    return (weights * contributions).sum()


def pixel_cross_entropy(logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
    """Cross-entropy of every pixel, ``(B, 1, *S)``, or the mean of its binary ones; 0 where ignored, with a softmax."""
    if softmax:
        return -(logits.log_softmax(1) * target.one_hot).sum(1, keepdim=True)
    return F.binary_cross_entropy_with_logits(logits, target.one_hot, reduction="none").mean(1, keepdim=True)


# ---- boundary refinement, section 3.4.3 ------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Neighbouring pixels (i, i + 1) along one axis, a pair for each i. The pair that the axis' end lacks is all 0."""

    axis: int
    steps: Tensor
    """``|y_i - y_(i+1)|`` of every class, ``(B, K, *S)``: 0 or 1."""
    weights: Tensor
    """w, ``(B, 1, *S)``."""
    annotated: Tensor
    """1 if both pixels are, ``(B, 1, *S)``."""


@torch.no_grad()
def boundary_pairs(target: Target) -> list[Pairs]:
    """For each axis the pairs of neighbours, weighted by their distance to the boundary. What is ignored has none."""
    mask = annotated(target)
    axes = range(2, mask.ndim)
    both = [mask * next_pixel(mask, axis) for axis in axes]
    steps = [differences(target.one_hot, axis).abs() * valid for axis, valid in zip(axes, both, strict=True)]
    changes = [step.amax(1, keepdim=True) for step in steps]
    # On the boundary are both pixels of a pair with different labels; the pair that is rolled to the beginning is 0.
    on_boundary = torch.stack([torch.maximum(c, c.roll(1, axis)) for axis, c in zip(axes, changes, strict=True)]).amax(
        0
    )
    squared = squared_distances(on_boundary > 0)
    pairs = []
    for axis, step, valid in zip(axes, steps, both, strict=True):
        nearest = torch.minimum(squared, next_pixel(squared, axis)).float()
        pairs.append(Pairs(axis, step, valid * (nearest <= REACH**2) / (1 + nearest.sqrt()), valid))
    return pairs


def next_pixel(x: Tensor, axis: int) -> Tensor:
    """``x_(i+1)`` in the place of ``x_i`` along an axis, 0 at its end."""
    rest = x.narrow(axis, 1, x.shape[axis] - 1)
    return torch.cat((rest, torch.zeros_like(x.narrow(axis, 0, 1))), axis)


def squared_distances(points: Tensor) -> Tensor:
    """Squared Euclidean distance in pixels to the nearest point, exact up to ``REACH`` and larger beyond, uint8.

    The distance transform takes one axis after the other, each a lower envelope of parabolas (Felzenszwalb and
    Huttenlocher, 2012); here the envelope is the minimum over eleven shifts, for what is farther away does not count.

    Args:
        points: ``(B, 1, *S)``, boolean.
    """
    far = REACH**2 + 1
    squared = torch.where(points, 0, far).to(torch.uint8)
    for axis in range(2, points.ndim):
        before, squared = squared, squared.clone()
        for shift in range(1, min(REACH, points.shape[axis] - 1) + 1):
            length = points.shape[axis] - shift
            raised = before + shift**2  # at most 51: uint8 does not overflow
            for here, there in ((0, shift), (shift, 0)):
                lowest = squared.narrow(axis, here, length)
                torch.minimum(lowest, raised.narrow(axis, there, length), out=lowest)
        squared.clamp_(max=far)
    return squared


class BoundaryTerms(NamedTuple):
    """The parts of the boundary loss."""

    pairs: Tensor
    smoothing: Tensor
    edges: Tensor


def boundary_terms(probabilities: Tensor, target: Target, *, softmax: bool, phi: float = 0.01) -> BoundaryTerms:
    """Boundary refinement of ``(B, K, *S)`` probabilities p for labels y.

    - pairs: weighted mean over neighbouring pixels of ``| |p_i - p_j| - |y_i - y_j| |`` with ``w = 1 / (1 + dist)``:
      the prediction must step where the labels do, and there alone. Deviation: the paper's sentence, read word for
      word, would punish the step at the true boundary too. dist is that of the pair's nearer pixel to the boundary,
      whose points are the pixels with a neighbour of another label; w is 0 beyond 5 pixels.
    - smoothing: ``phi * |grad p|``, mean over the pixels that are not on an edge.
    - edges: ``| min(|grad p|, 1) - E |``, mean over all pixels, with ``E = (|grad y| > 0)``.

    With a softmax, the step from one pixel to the next is half the sum of all classes' steps, at most 1. Overlapping
    regions are judged one by one, and the mean is taken.
    """
    penalties, weights, steps, true_steps = [], [], [], []
    for pair in boundary_pairs(target):
        step, true_step = differences(probabilities, pair.axis).abs() * pair.annotated, pair.steps
        # | |dp| - |dy| | is |dp| where the labels agree and 1 - |dp| where they differ, for |dy| is 0 or 1
        penalty = of_all_classes(step * (1 - 2 * true_step) + true_step, softmax=softmax)
        penalties.append((pair.weights * penalty).sum() / penalty.shape[1])
        weights.append(pair.weights.sum())
        steps.append(of_all_classes(step, softmax=softmax))
        true_steps.append(of_all_classes(true_step, softmax=softmax))
    pairs = torch.stack(penalties).sum() / torch.stack(weights).sum().clamp_min(1e-5)
    gradient = norm(steps)
    true_edges = torch.stack(true_steps).amax(0)
    mask = annotated(target)
    smoothing = masked_mean(gradient, mask * (1 - true_edges))
    edges = masked_mean((gradient.clamp_max(1) - true_edges).abs(), mask)
    return BoundaryTerms(pairs, phi * smoothing, edges)


def of_all_classes(steps: Tensor, *, softmax: bool) -> Tensor:
    """Total variation of the classes of a softmax, ``(B, 1, *S)``; overlapping regions as they are."""
    return steps.sum(1, keepdim=True) / 2 if softmax else steps


# ---- the loss --------------------------------------------------------------------------------------------------------


class DRGOLoss(PluginLoss):
    """``L_seg + alpha * L_adaptive + beta * L_boundary`` for any segmentation loss.

    Args:
        segmentation_loss: called with the network's outputs and nnU-Net's targets as they come, deep supervision and
            all. The other terms look at the logits at full resolution alone.
        label_format: of the dataset.
        alpha: weight of the adaptive loss.
        beta: weight of the boundary loss; 0 leaves it out ("w/o boundary refinement", Tables 3 and 4).
        gamma: weight of uncertainty against imbalance in the first epoch and in the last one.

    Attributes:
        regions: statistics of the regions in the last training step, for the sampling.
    """

    def __init__(
        self,
        segmentation_loss: nn.Module,
        label_format: LabelFormat,
        *,
        alpha: float = 0.5,
        beta: float = 0.1,
        gamma: tuple[float, float] = (0.7, 0.3),
    ):
        super().__init__()
        self.segmentation_loss = segmentation_loss
        self.label_format = label_format
        self.alpha = alpha
        self.beta = beta
        self.gamma_of = gamma
        self.regions: RegionStatistics | None = None

    @property
    def gamma(self) -> float:
        """Of this epoch: from the first epoch to the last in equal steps."""
        first, last = self.gamma_of
        return first + (last - first) * self.epoch / max(self.num_epochs - 1, 1)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        super().start_epoch(epoch, num_epochs)
        for module in self.segmentation_loss.modules():
            if isinstance(module, PluginLoss):
                module.start_epoch(epoch, num_epochs)

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Total loss for the outputs of a network, which begin with logits ``(B, K, *S)``, and nnU-Net's targets.

        Raises:
            ValueError: there are not as many logits as targets.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if len(logits) != len(full_resolution(targets)):
            raise ValueError(
                f"{len(logits)} logits for {len(full_resolution(targets))} targets: DRGO needs a network that predicts "
                "every image once (of ConDSeg's trainers those without consistency reinforcement)."
            )
        segmentation = self.segmentation_loss(outputs, targets)
        with torch.autocast(logits.device.type, enabled=False):
            logits, softmax = logits.float(), not self.label_format.regions
            target = split_target(full_resolution(targets), logits.shape[1], self.label_format)
            probabilities = logits.softmax(1) if softmax else logits.sigmoid()
            grid = region_grid(logits.shape[2:])
            statistics = region_statistics(probabilities, target, grid, softmax=softmax)
            weights = adaptive_weights(statistics, dominant_frequency(target, grid), self.gamma)
            adaptive = adaptive_loss(pixel_cross_entropy(logits, target, softmax=softmax), target, weights)
            terms = {"segmentation": segmentation.float(), "alpha * adaptive": self.alpha * adaptive}
            if self.beta:
                boundary = boundary_terms(probabilities, target, softmax=softmax)
                terms |= {f"beta * {name}": self.beta * term for name, term in boundary._asdict().items()}
        if torch.is_grad_enabled():
            self.regions = statistics
        return self.total(terms)
