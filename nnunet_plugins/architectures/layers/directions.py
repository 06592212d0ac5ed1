"""The eight directions of 8-connectivity, in one order, and the shift that everything directional is made of.

``DIRECTIONS[d]`` is the step ``(dy, dx)`` to neighbour ``d``, in reading order; neighbour ``7 - d`` lies opposite, so
that flipping the direction axis turns every direction round.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS: tuple[tuple[int, int], ...] = (
    (-1, -1), (-1, 0), (-1, 1),
    (0, -1), (0, 1),
    (1, -1), (1, 0), (1, 1),
)  # fmt: skip
NUM_DIRECTIONS = len(DIRECTIONS)


def shift(x: Tensor, fill: float = 0.0) -> Tensor:
    """Move the map of every direction by one pixel in its direction.

    Args:
        x: ``(B, G, 8, H, W)``, one map for each direction.
        fill: value that enters at the border.

    Returns:
        ``(B, G, 8, H, W)`` with ``out[:, :, d, y, x] = in[:, :, d, y - dy, x - dx]``.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1), value=fill)
    return torch.stack(
        [padded[:, :, d, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width] for d, (dy, dx) in enumerate(DIRECTIONS)],
        dim=2,
    )


def opposite(x: Tensor) -> Tensor:
    """Exchange every direction of ``(B, G, 8, H, W)`` for its opposite."""
    return x.flip(2)


def neighbours(x: Tensor, fill: float = 0.0) -> Tensor:
    """The eight neighbours of every pixel: ``(B, K, H, W)`` to ``(B, K, 8, H, W)``, ``out[:, :, d] = in at x + d``."""
    return opposite(shift(x.unsqueeze(2).expand(-1, -1, NUM_DIRECTIONS, -1, -1), fill))


def shift_groups(x: Tensor) -> Tensor:
    """Split the channels of ``(B, C, H, W)`` into eight groups and move group ``d`` one pixel in direction ``d``."""
    batch, channels, height, width = x.shape
    grouped = x.view(batch, NUM_DIRECTIONS, channels // NUM_DIRECTIONS, height, width).transpose(1, 2)
    return shift(grouped).transpose(1, 2).reshape(x.shape)


def bilateral_logits(connectivity: Tensor) -> Tensor:
    """Logits of the bilateral votes ``v_d(x) = p_d(x) * p_d'(x + d)``, ``p = sigmoid(connectivity)``, d' opposite d.

    Both pixels of a pair must agree. With ``a`` and ``b`` the two logits,
    ``v / (1 - v) = 1 / (e^-a + e^-b + e^-(a+b))``: no product of probabilities is ever formed, nothing underflows.
    Where the neighbour lies outside the image the vote is next to 0.

    Args:
        connectivity: ``(B, K, 8, H, W)`` connectivity logits.

    Returns:
        ``(B, K, 8, H, W)`` logits, float32 or wider.
    """
    connectivity = connectivity.to(torch.promote_types(connectivity.dtype, torch.float32))
    agreement = opposite(shift(connectivity, fill=OUTSIDE_LOGIT))
    return -torch.logaddexp(torch.logaddexp(-connectivity, -agreement), -connectivity - agreement)


OUTSIDE_LOGIT = -60.0
"""Connectivity logit of a pixel outside the image: probability 1e-26, and finite in every floating-point format."""


def inside(like: Tensor) -> Tensor:
    """``(1, 1, 8, H, W)`` bool: whether neighbour ``d`` of a pixel lies inside an image like ``(..., H, W)``."""
    return neighbours(like.new_ones((1, 1, *like.shape[-2:]))) > 0


def directional_vote(bilateral: Tensor, voting: str = "max") -> Tensor:
    """Class logits from the bilateral votes of the eight directions.

    ``"max"``: the class probability is the largest vote (reference [4] of DCFFSNet). ``"mean"``: it is the mean over
    the directions whose neighbour lies inside the image, so that border pixels are not punished for having fewer.

    Args:
        bilateral: ``(B, K, 8, H, W)`` from :func:`bilateral_logits`.
        voting: ``"max"`` or ``"mean"``.

    Returns:
        ``(B, K, H, W)`` logits.

    Raises:
        ValueError: for any other ``voting``.
    """
    if voting == "max":
        return bilateral.amax(2)
    if voting == "mean":
        outside = ~inside(bilateral)
        log_vote = F.logsigmoid(bilateral).masked_fill(outside, -torch.inf)
        log_no_vote = F.logsigmoid(-bilateral).masked_fill(outside, -torch.inf)
        return log_vote.logsumexp(2) - log_no_vote.logsumexp(2)  # the number of neighbours cancels
    raise ValueError(f"voting={voting!r}: expected 'max' or 'mean'")
