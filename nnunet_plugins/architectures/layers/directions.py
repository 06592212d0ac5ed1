"""Directions to neighbouring pixels: shifts, pairs of neighbours, and votes of pixels on each other.

``directions[d]`` is the step to neighbour ``d`` of D, one number for each axis, in reading order; neighbour
``D - 1 - d`` lies opposite. A pixel and its neighbour ``d`` are therefore the same pair as that neighbour and its
neighbour ``D - 1 - d``: whatever is symmetric (votes, the target ``conn(Y)``) is computed for half of the directions
and read at both ends of a pair. The paper has the eight directions of images, ``DIRECTIONS``; volumes are our
extension.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Step = tuple[int, ...]
Directions = tuple[Step, ...]


def neighbours(axes: Sequence[bool], *, diagonal: bool) -> Directions:
    """List the steps to a pixel's neighbours in reading order.

    Args:
        axes: whether there is a neighbour along each axis; none lies across the others.
        diagonal: whether pixels that share only an edge or a corner are neighbours too.

    Example:
        >>> neighbours((True, True, True), diagonal=False)
        ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    """
    steps = product(*((-1, 0, 1) if axis else (0,) for axis in axes))
    return tuple(step for step in steps if any(step) and (diagonal or sum(map(abs, step)) == 1))


DIRECTIONS = neighbours((True, True), diagonal=True)
"""The paper's eight directions ``(dy, dx)`` of images, from (-1, -1) to (1, 1)."""


def first_half(directions: Directions) -> Directions:
    """Keep one direction of every pair of opposite ones."""
    return directions[: len(directions) // 2]


def opposite(step: Step) -> Step:
    return tuple(-length for length in step)


def move(x: Tensor, step: Step, fill: float = 0.0) -> Tensor:
    """Move ``(..., *S)`` by ``step``, by padding that is negative on the other side."""
    return F.pad(x, [padding for length in reversed(step) for padding in (length, -length)], value=fill)


def shift_groups(x: Tensor, directions: Directions = DIRECTIONS) -> Tensor:
    """Split the channels of ``(B, C, *S)`` into D groups and move group ``d`` one pixel in direction ``d``."""
    groups = x.chunk(len(directions), 1)
    return torch.cat([move(group, step) for group, step in zip(groups, directions, strict=True)], 1)


def pair_ends(x: Tensor, directions: Directions = DIRECTIONS) -> tuple[Tensor, Tensor]:
    """Collect every pair of neighbours once: the value of pixel x for x + d, and that of x + d for x.

    ``(B, K, D, *S)`` to twice ``(B, K, D/2, *S)``; 0 for a neighbour outside the image.
    """
    here, there = x.chunk(2, 2)
    maps = zip(reversed(there.unbind(2)), first_half(directions), strict=True)
    return here, torch.stack([move(m, opposite(step)) for m, step in maps], 2)


def pair_masks(masks: Tensor, directions: Directions = DIRECTIONS) -> Tensor:
    """Tell whether both pixels of a pair belong to a mask: ``(B, K, *S)`` to ``(B, K, D/2, *S)``, 0 outside."""
    return torch.stack([masks * move(masks, opposite(step)) for step in first_half(directions)], 2)


def every_direction(pairs: Tensor, fill: float, directions: Directions = DIRECTIONS) -> Tensor:
    """Spread values of pairs to both pixels: ``(B, K, D/2, *S)`` to ``(B, K, D, *S)``, ``fill`` outside."""
    steps = first_half(directions)
    there = [move(m, step, fill) for m, step in zip(pairs.unbind(2), steps, strict=True)]
    here = [move(m, opposite(step), fill) for m, step in zip(there, steps, strict=True)]
    return torch.stack([*here, *reversed(there)], 2)


class PairVotes(NamedTuple):
    """Bilateral votes ``v = p_a p_b`` of all pairs, ``(B, K, D/2, *S)``: both pixels must agree.

    All are logarithms, computed from logarithms, so that no product of probabilities underflows. Values are undefined
    where the neighbour lies outside the image.
    """

    log_vote: Tensor
    """``log(p_a p_b)``"""
    log_no_vote: Tensor
    """``log(1 - p_a p_b)``"""
    log_neither: Tensor
    """``log((1 - p_a) (1 - p_b))``"""


def pair_votes(connectivity: Tensor, directions: Directions = DIRECTIONS) -> PairVotes:
    """Compute the votes of connectivity logits ``(B, K, D, *S)``."""
    a, b = pair_ends(connectivity, directions)
    log_a, log_b = F.logsigmoid(a), F.logsigmoid(b)
    log_not_a, log_not_b = log_a - a, log_b - b
    log_no_vote = torch.logaddexp(log_not_a, log_a + log_not_b)  # not a, or a and not b
    return PairVotes(log_a + log_b, log_no_vote, log_not_a + log_not_b)


def both_ends(pairs: Tensor, directions: Directions = DIRECTIONS) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Yield, for both pixels of every pair, the index into ``(..., *S)`` and the pairs' values inside the image."""
    size = pairs.shape[3:]
    for step, m in zip(first_half(directions), pairs.unbind(2), strict=True):
        places: Iterator[tuple[Any, ...]] = (
            (..., *(slice(max(-d, 0), length - max(d, 0)) for d, length in zip(towards, size, strict=True)))
            for towards in (step, opposite(step))
        )
        here, there = places
        values = m[here]
        yield here, values
        yield there, values


def largest_pair(pairs: Tensor, directions: Directions = DIRECTIONS) -> Tensor:
    """Find every pixel's pair with the largest value: index ``(B, K, N)`` into the ``D/2 * N`` of N pixels.

    Gathering by this index trains only the winners, at a fraction of the cost of a maximum over all directions.
    """
    pairs, size = pairs.detach(), pairs.shape[3:]
    pixels = prod(size)
    best = pairs.new_full((*pairs.shape[:2], *size), -torch.inf)
    choice = torch.zeros_like(best, dtype=torch.uint8)
    for number, (place, values) in enumerate(both_ends(pairs, directions)):
        better = (values > best[place]).to(torch.uint8)
        choice[place] = torch.maximum(choice[place], better * number)
        best[place] = torch.maximum(best[place], values)
    strides = [prod(size[axis + 1 :]) for axis in range(len(size))]
    offsets = [  # a pair lies in memory where its first pixel does
        pair * pixels - end * sum(d * stride for d, stride in zip(step, strides, strict=True))
        for pair, step in enumerate(first_half(directions))
        for end in (0, 1)
    ]
    table = torch.tensor(offsets).to(pairs.device, non_blocking=True)  # without waiting for the GPU
    return table[choice.flatten(2).long()] + torch.arange(pixels, device=pairs.device)


def pick(pairs: Tensor, index: Tensor) -> Tensor:
    """Pick one pair's value for each pixel: ``(B, K, D/2, *S)`` to ``(B, K, *S)``, see :func:`largest_pair`."""
    return pairs.flatten(2).gather(2, index).unflatten(2, pairs.shape[3:])


def directional_vote(connectivity: Tensor, voting: str = "max", directions: Directions = DIRECTIONS) -> Tensor:
    """Compute class logits from the bilateral votes ``v_d(x) = p_d(x) * p_d'(x + d)``, ``p = sigmoid(connectivity)``.

    ``"max"``: the class probability is the largest vote (reference [4] of DCFFSNet). ``"mean"``: it is the mean over
    the directions whose neighbour lies inside the image, so that border pixels are not punished for having fewer.

    Args:
        connectivity: ``(B, K, D, *S)`` connectivity logits.
        voting: ``"max"`` or ``"mean"``.
        directions: steps to the D neighbours.

    Returns:
        ``(B, K, *S)`` logits, float32 or wider.

    Raises:
        ValueError: ``voting`` is anything else.
    """
    connectivity = connectivity.to(torch.promote_types(connectivity.dtype, torch.float32))
    if voting == "max":  # the logits of the winning pairs only
        a, b = pair_ends(connectivity, directions)
        # Detached: torch.export cannot load a file with a no_grad inside an autocast.
        winners = largest_pair(F.logsigmoid(a.detach()).add_(F.logsigmoid(b.detach())), directions)
        a, b = pick(a, winners), pick(b, winners)
        return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)  # v / (1 - v) = 1 / (e^-a + e^-b + e^-(a+b))
    return vote_of_pairs(pair_votes(connectivity, directions), voting, directions)


def vote_of_pairs(votes: PairVotes, voting: str, directions: Directions = DIRECTIONS) -> Tensor:
    """Compute :func:`directional_vote` from votes."""
    if voting == "max":
        logits = votes.log_vote - votes.log_no_vote
        return pick(logits, largest_pair(logits, directions))
    if voting == "mean":  # the number of neighbours cancels
        log_vote, log_no_vote = (
            every_direction(v, -torch.inf, directions) for v in (votes.log_vote, votes.log_no_vote)
        )
        return log_vote.logsumexp(2) - log_no_vote.logsumexp(2)
    raise ValueError(f"voting={voting!r}: expected 'max' or 'mean'")
