"""Boundary refinement of DRGO, section 3.4.3 of MedFusion-TransNet's paper: steps between neighbouring pixels."""

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunet_plugins.losses.common import Target

REACH = 5  # pixels: beyond this distance from a boundary pairs of pixels have no weight
PARTS = 4  # of a batch, one computed after the other, so that the steps of one alone take memory


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
    pairs, smoothing, edges = BoundaryMeans.apply(probabilities, *target, softmax)
    return BoundaryTerms(pairs, phi * smoothing, edges)


def combine_classes(steps: Tensor, *, softmax: bool) -> Tensor:
    """Half the sum of the steps ``(B, K, *S)`` of a softmax's classes, ``(B, 1, *S)``; those of sigmoids unchanged."""
    return steps.sum(1, keepdim=True) / 2 if softmax else steps


class BoundaryMeans(torch.autograd.Function):
    """Means of pairs, smoothing without phi, and edges, ``(3,)``, of :func:`boundary_terms`.

    Autograd would keep a dozen maps of every class for the backward pass. This keeps the probabilities, as the softmax
    does too, and computes the steps again, of one part of the batch after the other, along one axis after the other.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, one_hot: Tensor, mask: Tensor | None, softmax: bool) -> Tensor:
        squared, sums = [], []
        for p, target in parts(probabilities, one_hot, mask):
            squared.append(boundary_distances(target))
            sums.append(sums_of_means(p, target, squared[-1], softmax=softmax))
        values, numbers = torch.stack(sums).sum(0).unbind(1)
        numbers = numbers.clamp_min(1e-5)
        ctx.softmax = softmax
        ctx.save_for_backward(probabilities, one_hot, mask, numbers, *squared)
        return values / numbers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, one_hot, mask, numbers, *squared = ctx.saved_tensors
        result = torch.zeros_like(probabilities)
        of_parts = zip(parts(probabilities, one_hot, mask), result.chunk(PARTS), squared, strict=True)
        for (p, target), of_p, distances in of_parts:
            add_gradient(of_p, p, target, distances, of_means / numbers, softmax=ctx.softmax)
        return result, None, None, None


def parts(probabilities: Tensor, one_hot: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Target]]:
    """Probabilities and target of each part of a batch."""
    masks = repeat(None) if mask is None else mask.chunk(PARTS)
    for p, y, m in zip(probabilities.chunk(PARTS), one_hot.chunk(PARTS), masks, strict=False):
        yield p, Target(y, m)


def sums_of_means(probabilities: Tensor, target: Target, squared: Tensor, *, softmax: bool) -> Tensor:
    """Sums of pairs, smoothing and edges, ``(3, 2)``: of the weighted values, and of the weights."""
    gradient, edges = gradient_and_edges(probabilities, target, softmax=softmax)
    everywhere = target.annotated.expand_as(edges)
    flat = everywhere * (1 - edges)
    differing = (gradient.clamp_max(1) - edges).abs_()
    sums = [(gradient * flat).sum(), flat.sum(), (differing * everywhere).sum(), everywhere.sum()]
    pairs = [sums_of_pairs(probabilities, pair, softmax=softmax) for pair in boundary_pairs(target, squared)]
    return torch.stack([*torch.stack(pairs).sum(0), *sums]).unflatten(0, (3, 2))


def sums_of_pairs(probabilities: Tensor, pair: "Pairs", *, softmax: bool) -> Tensor:
    """Sum of the weighted penalties of the pairs along an axis, and of their weights, ``(2,)``."""
    steps = differences(probabilities, pair.axis).abs_().mul_(pair.annotated)
    penalty = combine_classes(steps.sub_(pair.steps).abs_(), softmax=softmax)
    return torch.stack([(pair.weights * penalty).sum() / penalty.shape[1], pair.weights.sum()])


def add_gradient(
    result: Tensor, probabilities: Tensor, target: Target, squared: Tensor, of_sums: Tensor, *, softmax: bool
) -> None:
    """Add the gradient of the sums' values to that of the probabilities.

    Args:
        result: gradient of the probabilities, ``(B, K, *S)``.
        probabilities: ``(B, K, *S)``.
        target: of the same size.
        squared: squared distances to the boundary.
        of_sums: gradient of the three values of :func:`sums_of_means`.
        softmax: see :func:`boundary_terms`.
    """
    of_pairs, of_smoothing, of_edges = of_sums
    gradient, edges = gradient_and_edges(probabilities, target, softmax=softmax)
    of_gradient = of_edges * (gradient - edges).sign_().mul_(gradient <= 1)
    of_gradient += of_smoothing * (1 - edges)
    of_gradient *= target.annotated
    of_gradient /= gradient.add_(tiny_root(gradient.dtype))  # of the root; the factor it lacks is the step
    for pair in boundary_pairs(target, squared):
        add_gradient_along(result, probabilities, pair, of_gradient, of_pairs / edges.shape[1], softmax=softmax)


def add_gradient_along(
    result: Tensor, probabilities: Tensor, pair: "Pairs", of_gradient: Tensor, of_pairs: Tensor, *, softmax: bool
) -> None:
    """Add the gradient of the steps along one axis to that of the probabilities."""
    step = differences(probabilities, pair.axis).mul_(pair.annotated)
    of_step = of_gradient * combine_classes(step.abs(), softmax=softmax)
    of_difference = step.sign_().mul_((1 - 2 * pair.steps) * (of_pairs * pair.weights) + of_step)
    if softmax:
        of_difference /= 2
    last = result.shape[pair.axis] - 1
    result -= of_difference
    result.narrow(pair.axis, 1, last).add_(of_difference.narrow(pair.axis, 0, last))


def gradient_and_edges(probabilities: Tensor, target: Target, *, softmax: bool) -> tuple[Tensor, Tensor]:
    """``|grad p|``, and E, 1 where the labels step: each ``(B, 1, *S)`` for a softmax, ``(B, K, *S)`` for sigmoids."""

    def steps(values: Tensor, axis: int) -> Tensor:
        valid = pairs_annotated(target.annotated, axis)
        return combine_classes(differences(values, axis).abs_().mul_(valid), softmax=softmax)

    axes = range(2, probabilities.ndim)
    edges = steps(target.one_hot, 2)
    for axis in axes[1:]:
        edges = torch.maximum(edges, steps(target.one_hot, axis))
    return norm(steps(probabilities, axis) for axis in axes), edges


# ---- pairs of neighbouring pixels ------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Neighbouring pixels (i, i + 1) along one axis, a pair for each i. The pair that the axis' end lacks is all 0."""

    axis: int
    steps: Tensor
    """``|y_i - y_(i+1)|`` of every class, ``(B, K, *S)``: 0 or 1, in a byte."""
    weights: Tensor
    """w, ``(B, 1, *S)``."""
    annotated: Tensor
    """1 if both pixels are, ``(B, 1, *S)``."""


def boundary_pairs(target: Target, squared: Tensor) -> Iterator[Pairs]:
    """Pairs of neighbours along each axis, weighted by their distance to the boundary; ignored pixels have none.

    Args:
        target: the labels.
        squared: squared distance of every pixel to the boundary, as of :func:`boundary_distances`.
    """
    for axis in range(2, target.one_hot.ndim):
        valid = pairs_annotated(target.annotated, axis)
        nearest = torch.minimum(squared, next_pixel(squared, axis)).float()
        weights = valid * (nearest <= REACH**2) / (1 + nearest.sqrt())
        yield Pairs(axis, true_steps(target.one_hot, valid, axis), weights, valid)


def boundary_distances(target: Target) -> Tensor:
    """Squared distance of every pixel to the boundary, ``(B, 1, *S)``, as of :func:`squared_distances`."""
    points = []
    for axis in range(2, target.one_hot.ndim):
        valid = pairs_annotated(target.annotated, axis)
        change = true_steps(target.one_hot, valid, axis).amax(1, keepdim=True)
        # Both pixels of a pair with different labels are on the boundary; the pair that is rolled to the beginning is 0
        points.append(torch.maximum(change, change.roll(1, axis)))
    return squared_distances(torch.stack(points).amax(0) > 0)


def pairs_annotated(mask: Tensor, axis: int) -> Tensor:
    """Whether both pixels of each pair are annotated, ``(B, 1, *S)`` of 0 and 1; 0 at the axis' end."""
    return mask * next_pixel(mask, axis)


def true_steps(one_hot: Tensor, valid: Tensor, axis: int) -> Tensor:
    """``|y_i - y_(i+1)|`` of every class of ``(B, K, *S)`` maps, 0 or 1 in a byte, 0 where a pair is not ``valid``."""
    return differences(one_hot, axis).mul_(valid).to(torch.int8).abs_()


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
    result, number = torch.zeros_like(x), x.shape[axis] - 1
    result.narrow(axis, 0, number).copy_(x.narrow(axis, 1, number)).sub_(x.narrow(axis, 0, number))
    return result


def norm(components: Iterable[Tensor]) -> Tensor:
    """Root of the sum of squares of tensors of one shape; ``tiny`` makes its derivative 0 at 0.

    torch's norm over a short leading axis is far slower.
    """
    squares = None
    for component in components:
        squares = component.square() if squares is None else squares.addcmul_(component, component)
    assert squares is not None
    root = tiny_root(squares.dtype)
    return squares.add_(torch.finfo(squares.dtype).tiny).sqrt_().sub_(root)


def tiny_root(dtype: torch.dtype) -> float:
    """Root of the smallest normal number, which :func:`norm` adds and takes away."""
    return torch.finfo(dtype).tiny ** 0.5
