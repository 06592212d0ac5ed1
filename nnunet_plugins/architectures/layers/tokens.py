"""Feature maps as tokens, and attention among them."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def token_grid(size: Sequence[int], max_tokens: int) -> tuple[int, ...]:
    """Halve the longest axis of ``size`` until there are at most ``max_tokens`` cells."""
    grid = list(size)
    while prod(grid) > max_tokens:
        longest = grid.index(max(grid))
        grid[longest] = -(-grid[longest] // 2)
    return tuple(grid)


def pool_to_grid(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Average ``(B, C, *S)`` over each cell of ``grid``: ``(B, C, *grid)``."""
    if tuple(x.shape[2:]) == tuple(grid):
        return x
    pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
    return pool(x, grid)  # type: ignore[arg-type]


def sinusoidal_positions(grid: Sequence[int], spacing: Sequence[float], like: Tensor) -> Tensor:
    """Encode the cells' centres by sines and cosines, ``(T, C)`` (Vaswani et al., 2017).

    Every axis has its share of the channels. Nothing is cached, so that ``inference_mode`` cannot spoil training.

    Args:
        grid: number of cells along each axis, T in all.
        spacing: length of a cell along each axis.
        like: tensor ``(..., T, C)`` with the wanted number of channels, device and dtype.
    """
    channels = like.shape[-1]
    frequencies = -(-channels // (2 * len(grid)))
    exponents = torch.arange(frequencies, device=like.device) / frequencies
    rates = torch.exp(-math.log(10000.0) * exponents)
    codes = []
    for axis, (cells, length) in enumerate(zip(grid, spacing, strict=True)):
        angles = ((torch.arange(cells, device=like.device) + 0.5) * length)[:, None] * rates
        shape = [1] * len(grid)
        shape[axis] = cells
        codes.append(torch.cat((angles.sin(), angles.cos()), 1).unflatten(0, shape).expand(*grid, -1))
    return torch.cat(codes, -1).flatten(0, -2)[:, :channels].to(like.dtype)


class SelfAttention(nn.Module):
    """Attention ``softmax(Q K^T / sqrt(d_k)) V`` of tokens ``(B, T, C)`` to themselves, or to a context; 8 heads.

    Args:
        channels: C, a multiple of 8.
    """

    num_heads = 8

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        query = self.query(tokens)
        key, value = self.key_value(tokens if context is None else context).chunk(2, -1)
        heads = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value)]  # (B, h, T, c)
        return self.projection(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Block of a transformer: a mixer of tokens and a perceptron, both residual, with normalisation first."""

    def __init__(self, channels: int, mixer: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mixer = mixer
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Mix tokens ``(B, T, C)`` among themselves, or with a context ``(B, U, C)``, to ``(B, T, C)``."""
        normalised = self.norm(tokens)
        mixed = self.mixer(normalised) if context is None else self.mixer(normalised, self.norm(context))
        tokens = tokens + mixed
        return tokens + self.perceptron(tokens)
