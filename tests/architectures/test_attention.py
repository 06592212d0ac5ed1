"""Proves: the attentions on feature maps compute the formulas of their papers."""

import math

import pytest
import torch
from support.references import randomise
from torch import nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.attention import ChannelAttention, ChannelGate, SpatialAttention, SpatialGate


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_of_each_group_equals_the_plain_formula(groups):
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    spatial, channel = randomise(SpatialAttention(16, groups, reduction=2)), randomise(ChannelAttention(groups))
    projected = [p(x).chunk(groups, 1) for p in (spatial.query, spatial.key, spatial.value)]
    expected_spatial, expected_channel = [], []
    for query, key, value, group in zip(*projected, x.chunk(groups, 1), strict=True):
        q, k, v = query.flatten(2), key.flatten(2), value.flatten(2)  # (B, c, H*W)
        affinity = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)  # (B, H*W, H*W)
        expected_spatial.append(group + spatial.gamma * (v @ affinity.transpose(1, 2)).view_as(group))
        flat = group.flatten(2)
        affinity = torch.softmax(flat @ flat.transpose(1, 2) / flat.shape[2], -1)  # (B, c, c)
        expected_channel.append(group + channel.gamma * (affinity @ flat).view_as(group))
    torch.testing.assert_close(spatial(x), torch.cat(expected_spatial, 1))
    torch.testing.assert_close(channel(x), torch.cat(expected_channel, 1))


def test_gates_weigh_by_mean_and_maximum():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 6)
    channel, spatial = ChannelGate(nn.Conv2d, 16), SpatialGate(nn.Conv2d)
    first, second = channel.mlp[0].weight[:, :, 0, 0], channel.mlp[2].weight[:, :, 0, 0]
    pooled = [x.flatten(2).mean(2), x.flatten(2).max(2).values]
    weights = sum(F.relu(p @ first.T) @ second.T for p in pooled).sigmoid()
    torch.testing.assert_close(channel(x), x * weights[:, :, None, None])
    maps = torch.stack([x.mean(1), x.max(1).values], 1)
    torch.testing.assert_close(spatial(x), x * F.conv2d(maps, spatial.conv.weight, padding=3).sigmoid())
