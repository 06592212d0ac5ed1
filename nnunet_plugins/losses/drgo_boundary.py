"""Boundary refinement of DRGO, section 3.4.3 of MedFusion-TransNet's paper: steps between neighbouring pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_plugins.losses.common import Target, masked_mean

REACH = 5  # pixels: beyond this distance from a boundary pairs of pixels have no weight


class BoundaryTerms(NamedTuple):
    """Terms of the boundary loss, each a scalar."""

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
    labels are judged one by one, and the mean is taken.
    """
    penalties, weights, steps, true_steps = [], [], [], []
    for pair in boundary_pairs(target):
        step, true_step = differences(probabilities, pair.axis).abs() * pair.annotated, pair.steps
        # | |dp| - |dy| | is |dp| where the labels agree and 1 - |dp| where they differ, for |dy| is 0 or 1
        penalty = combine_classes(step * (1 - 2 * true_step) + true_step, softmax=softmax)
        penalties.append((pair.weights * penalty).sum() / penalty.shape[1])
        weights.append(pair.weights.sum())
        steps.append(combine_classes(step, softmax=softmax))
        true_steps.append(combine_classes(true_step, softmax=softmax))
    pairs = torch.stack(penalties).sum() / torch.stack(weights).sum().clamp_min(1e-5)
    gradient = norm(steps)
    true_edges = torch.stack(true_steps).amax(0)
    smoothing = masked_mean(gradient, target.annotated * (1 - true_edges))
    edges = masked_mean((gradient.clamp_max(1) - true_edges).abs(), target.annotated)
    return BoundaryTerms(pairs, phi * smoothing, edges)


def combine_classes(steps: Tensor, *, softmax: bool) -> Tensor:
    """Half the sum of the steps ``(B, K, *S)`` of a softmax's classes, ``(B, 1, *S)``; those of sigmoids unchanged."""
    return steps.sum(1, keepdim=True) / 2 if softmax else steps


# ---- pairs of neighbouring pixels ------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Neighbouring pixels (i, i + 1) along one axis, a pair for each i. The pair that the axis' end lacks is all 0."""

    axis: int
    steps: Tensor
    """``|y_i - y_(i+1)|`` of every class, ``(B, K, *S)``: 0 or 1, in a byte, as the backward pass keeps it."""
    weights: Tensor
    """w, ``(B, 1, *S)``."""
    annotated: Tensor
    """1 if both pixels are, ``(B, 1, *S)``."""


@torch.no_grad()
def boundary_pairs(target: Target) -> list[Pairs]:
    """Pairs of neighbours along each axis, weighted by their distance to the boundary; ignored pixels have none."""
    mask = target.annotated
    axes = range(2, mask.ndim)
    both = [mask * next_pixel(mask, axis) for axis in axes]
    steps = [
        (differences(target.one_hot, axis).abs() * valid).to(torch.int8) for axis, valid in zip(axes, both, strict=True)
    ]
    changes = [step.amax(1, keepdim=True) for step in steps]
    # Both pixels of a pair with different labels are on the boundary; the pair that is rolled to the beginning is 0.
    either_end = [torch.maximum(change, change.roll(1, axis)) for axis, change in zip(axes, changes, strict=True)]
    squared = squared_distances(torch.stack(either_end).amax(0) > 0)
    pairs = []
    for axis, step, valid in zip(axes, steps, both, strict=True):
        nearest = torch.minimum(squared, next_pixel(squared, axis)).float()
        pairs.append(Pairs(axis, step, valid * (nearest <= REACH**2) / (1 + nearest.sqrt()), valid))
    return pairs


def next_pixel(x: Tensor, axis: int) -> Tensor:
    """Value of the next pixel along an axis, ``x_(i+1)`` in the place of ``x_i``; 0 at the axis' end.

    Example:
        >>> next_pixel(torch.tensor([1, 2, 3]), 0)
        tensor([2, 3, 0])
    """
    rest = x.narrow(axis, 1, x.shape[axis] - 1)
    return torch.cat((rest, torch.zeros_like(x.narrow(axis, 0, 1))), axis)


def squared_distances(points: Tensor) -> Tensor:
    """Squared Euclidean distance in pixels to the nearest point, exact up to ``REACH`` and larger beyond, uint8.

    The distance transform takes one axis after the other, each a lower envelope of parabolas (Felzenszwalb and
    Huttenlocher, 2012); here the envelope is the minimum over eleven shifts, for farther points do not count.

    Args:
        points: ``(B, 1, *S)``, boolean.

    Example:
        >>> squared_distances(torch.tensor([[[True, False, False, False]]])).tolist()
        [[[0, 1, 4, 9]]]
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


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradient_magnitude(x: Tensor) -> Tensor:
    """``|grad x|`` of ``(B, C, *S)`` from the differences to the next pixel along each axis (0 at the end)."""
    return norm([differences(x, axis) for axis in range(2, x.ndim)])


def differences(x: Tensor, axis: int) -> Tensor:
    """``x_(i+1) - x_i`` along an axis, in the shape of ``x``: 0 at the end.

    Example:
        >>> differences(torch.tensor([1, 4, 9]), 0)
        tensor([3, 5, 0])
    """
    return x.diff(dim=axis, append=x.narrow(axis, -1, 1))


def norm(components: Sequence[Tensor]) -> Tensor:
    """Root of the sum of squares of tensors of one shape, with gradient 0 at 0.

    torch's norm over a short leading axis is far slower.
    """
    squares = torch.stack([component.square() for component in components]).sum(0)
    tiny = torch.finfo(squares.dtype).tiny
    return (squares + tiny).sqrt() - tiny**0.5
