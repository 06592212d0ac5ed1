"""The eight directions of 8-connectivity: shifts, pairs of neighbouring pixels, and votes of pixels on each other.

``DIRECTIONS[d]`` is the step ``(dy, dx)`` to neighbour ``d``, in reading order; neighbour ``7 - d`` lies opposite. A
pixel and its neighbour ``d`` are therefore the same pair as that neighbour and its neighbour ``7 - d``: whatever is
symmetric (votes, the target ``conn(Y)``) is computed for four directions and read at both ends of a pair.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS: tuple[tuple[int, int], ...] = (
    (-1, -1), (-1, 0), (-1, 1),
    (0, -1), (0, 1),
    (1, -1), (1, 0), (1, 1),
)  # fmt: skip
NUM_DIRECTIONS = len(DIRECTIONS)
NUM_PAIRS = NUM_DIRECTIONS // 2


def move(x: Tensor, step: tuple[int, int], fill: float = 0.0) -> Tensor:
    """Move ``(..., H, W)`` by ``step``, by padding that is negative on the other side."""
    dy, dx = step
    return F.pad(x, (dx, -dx, dy, -dy), value=fill)


def shift_groups(x: Tensor) -> Tensor:
    """Split the channels of ``(B, C, H, W)`` into eight groups and move group ``d`` one pixel in direction ``d``."""
    return torch.cat([move(group, step) for group, step in zip(x.chunk(NUM_DIRECTIONS, 1), DIRECTIONS, strict=True)], 1)


def pair_ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Collect every pair of neighbours once: the value of pixel x for x + d, and that of x + d for x.

    ``(B, K, 8, H, W)`` to twice ``(B, K, 4, H, W)``; 0 for a neighbour outside the image.
    """
    here, there = x.chunk(2, 2)
    maps = reversed(there.unbind(2))
    return here, torch.stack([move(m, (-dy, -dx)) for m, (dy, dx) in zip(maps, DIRECTIONS, strict=False)], 2)


def pair_masks(masks: Tensor) -> Tensor:
    """Tell whether both pixels of a pair belong to a mask: ``(B, K, H, W)`` to ``(B, K, 4, H, W)``, 0 outside."""
    return torch.stack([masks * move(masks, (-dy, -dx)) for dy, dx in DIRECTIONS[:NUM_PAIRS]], 2)


def every_direction(pairs: Tensor, fill: float) -> Tensor:
    """Spread values of pairs to both pixels: ``(B, K, 4, H, W)`` to ``(B, K, 8, H, W)``, ``fill`` outside."""
    steps = DIRECTIONS[:NUM_PAIRS]
    there = [move(m, step, fill) for m, step in zip(pairs.unbind(2), steps, strict=True)]
    here = [move(m, (-dy, -dx), fill) for m, (dy, dx) in zip(there, steps, strict=True)]
    return torch.stack([*here, *reversed(there)], 2)


class PairVotes(NamedTuple):
    """Bilateral votes ``v = p_a p_b`` of all pairs, ``(B, K, 4, H, W)``: both pixels must agree.

    All are logarithms, computed from logarithms, so that no product of probabilities underflows. Values are undefined
    where the neighbour lies outside the image.
    """

    log_vote: Tensor
    """``log(p_a p_b)``"""
    log_no_vote: Tensor
    """``log(1 - p_a p_b)``"""
    log_neither: Tensor
    """``log((1 - p_a) (1 - p_b))``"""


def pair_votes(connectivity: Tensor) -> PairVotes:
    """Compute the votes of connectivity logits ``(B, K, 8, H, W)``."""
    a, b = pair_ends(connectivity)
    log_a, log_b = F.logsigmoid(a), F.logsigmoid(b)
    log_not_a, log_not_b = log_a - a, log_b - b
    log_no_vote = torch.logaddexp(log_not_a, log_a + log_not_b)  # not a, or a and not b
    return PairVotes(log_a + log_b, log_no_vote, log_not_a + log_not_b)


def both_ends(pairs: Tensor) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Yield, for both pixels of every pair, the index into ``(..., H, W)`` and the pairs' values inside the image."""
    height, width = pairs.shape[-2:]
    for (dy, dx), m in zip(DIRECTIONS, pairs.unbind(2), strict=False):
        here, there = (
            (..., slice(max(-y, 0), height - max(y, 0)), slice(max(-x, 0), width - max(x, 0)))
            for y, x in ((dy, dx), (-dy, -dx))
        )
        yield here, m[here]
        yield there, m[here]


@torch.no_grad()
def largest_pair(pairs: Tensor) -> Tensor:
    """Find every pixel's pair with the largest value: index ``(B, K, H * W)`` into ``(B, K, 4 * H * W)``.

    Gathering by this index trains only the winners, at a fraction of the cost of a maximum over eight directions.
    """
    height, width = pairs.shape[-2:]
    best = pairs.new_full((*pairs.shape[:2], height, width), -torch.inf)
    choice = torch.zeros_like(best, dtype=torch.uint8)
    for number, (place, values) in enumerate(both_ends(pairs)):
        better = (values > best[place]).to(torch.uint8)
        choice[place] = torch.maximum(choice[place], better * number)
        best[place] = torch.maximum(best[place], values)
    offsets = [  # a pair lies in memory where its first pixel does
        pair * height * width - end * (dy * width + dx)
        for pair, (dy, dx) in enumerate(DIRECTIONS[:NUM_PAIRS])
        for end in (0, 1)
    ]
    table = torch.tensor(offsets).to(pairs.device, non_blocking=True)  # without waiting for the GPU
    return table[choice.flatten(2).long()] + torch.arange(height * width, device=pairs.device)


def pick(pairs: Tensor, index: Tensor) -> Tensor:
    """Pick one pair's value for each pixel: ``(B, K, 4, H, W)`` to ``(B, K, H, W)``, see :func:`largest_pair`."""
    return pairs.flatten(2).gather(2, index).unflatten(2, pairs.shape[-2:])


def directional_vote(connectivity: Tensor, voting: str = "max") -> Tensor:
    """Compute class logits from the bilateral votes ``v_d(x) = p_d(x) * p_d'(x + d)``, ``p = sigmoid(connectivity)``.

    ``"max"``: the class probability is the largest vote (reference [4] of DCFFSNet). ``"mean"``: it is the mean over
    the directions whose neighbour lies inside the image, so that border pixels are not punished for having fewer.

    Args:
        connectivity: ``(B, K, 8, H, W)`` connectivity logits.
        voting: ``"max"`` or ``"mean"``.

    Returns:
        ``(B, K, H, W)`` logits, float32 or wider.

    Raises:
        ValueError: ``voting`` is anything else.
    """
    connectivity = connectivity.to(torch.promote_types(connectivity.dtype, torch.float32))
    if voting == "max":  # the logits of the winning pairs only
        a, b = pair_ends(connectivity)
        with torch.no_grad():
            winners = largest_pair(F.logsigmoid(a).add_(F.logsigmoid(b)))
        a, b = pick(a, winners), pick(b, winners)
        return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)  # v / (1 - v) = 1 / (e^-a + e^-b + e^-(a+b))
    return vote_of_pairs(pair_votes(connectivity), voting)


def vote_of_pairs(votes: PairVotes, voting: str) -> Tensor:
    """Compute :func:`directional_vote` from votes."""
    if voting == "max":
        logits = votes.log_vote - votes.log_no_vote
        return pick(logits, largest_pair(logits))
    if voting == "mean":  # the number of neighbours cancels
        log_vote, log_no_vote = (every_direction(v, -torch.inf) for v in (votes.log_vote, votes.log_no_vote))
        return log_vote.logsumexp(2) - log_no_vote.logsumexp(2)
    raise ValueError(f"voting={voting!r}: expected 'max' or 'mean'")
