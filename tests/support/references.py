"""Plain, slow forms of operations, and weights to compare them with, for more than one test."""

from itertools import product

import torch
from torch import nn
from torch.nn import functional as F


def literal_aggregation(values, outer, inner):
    """Aggregation of ConDSeg by equations 11, 13 and 14, step by step."""
    batch, heads, channels, height, width = values.shape
    members = outer.shape[2]
    window = int(members**0.5)
    unfolded = F.unfold(values.flatten(1, 2), window, padding=window // 2)  # (B, heads * C * K^2, H * W)
    unfolded = unfolded.view(batch, heads, channels, members, -1).permute(0, 1, 4, 3, 2)  # (B, heads, H * W, K^2, C)
    outer, inner = (x.flatten(4).permute(0, 1, 4, 2, 3) for x in (outer, inner))  # (B, heads, H * W, K^2, K^2)
    weighted = outer @ (inner @ unfolded)
    weighted = weighted.permute(0, 1, 4, 3, 2).reshape(batch, -1, height * width)
    return F.fold(weighted, (height, width), window, padding=window // 2).view_as(values)


def literal_aggregation_of_volumes(values, outer, inner):
    """Aggregation of ConDSeg by equations 11, 13 and 14 in volumes: every window unfolded, multiplied and summed."""
    window = round(outer.shape[2] ** (1 / 3))
    reach, size = window // 2, values.shape[3:]
    padded = F.pad(values, [reach] * 6)
    windows = padded.unfold(3, window, 1).unfold(4, window, 1).unfold(5, window, 1)  # (B, heads, C, *S, K, K, K)
    members = windows.flatten(6)  # (B, heads, C, *S, K^3)
    weighted = torch.einsum("bhmkzyx,bhknzyx,bhczyxn->bhczyxm", outer, inner, members)
    result = torch.zeros_like(padded)
    for member, (z, y, x) in enumerate(product(range(window), repeat=3)):
        result[..., z : z + size[0], y : y + size[1], x : x + size[2]] += weighted[..., member]
    return result[..., reach : reach + size[0], reach : reach + size[1], reach : reach + size[2]]


def randomise(module: nn.Module) -> nn.Module:
    """Move weights away from the initial state, in which gates of zero and norms of one would hide mistakes."""
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) * 0.2 + 0.05
    return module.double().eval()
