"""Attention on feature maps: the pair of Dual Attention Networks, and the gates of CBAM."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.convolutions import ConvOp, conv
from nnunet_plugins.architectures.layers.old_checkpoints import refuse_state_dicts_without

# ---- Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019 ---------------------------------------------
# Both act on ``groups`` equal channel groups independently and in one call: convolutions are grouped, and the groups
# join the heads axis of scaled dot-product attention.


class SpatialAttention(nn.Module):
    """Self-attention over the positions of each channel group, as a residual scaled by ``gamma`` (0 at first).

    Quadratic in their number: meant for the lowest resolution only. ``(B, C, *S)`` to the same.
    """

    def __init__(self, conv_op: ConvOp, channels: int, groups: int = 1, reduction: int = 8):
        super().__init__()
        self.groups = groups
        self.query = conv_op(channels, channels // reduction, 1, groups=groups)
        self.key = conv_op(channels, channels // reduction, 1, groups=groups)
        self.value = conv_op(channels, channels, 1, groups=groups)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(1, (self.groups, -1)).flatten(3).transpose(2, 3)  # (B, groups, positions, c)
            for projection in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.gamma * attended.transpose(2, 3).reshape(x.shape)


class ChannelAttention(nn.Module):
    """Self-attention among the channels of each group, as a residual scaled by ``gamma`` (0 at first).

    Deviation: the affinity of two channels is the cosine between them, times a learned scale (an inverse temperature)
    for each group. The sum of their products over the positions grows with the patch, until every channel attends to
    one alone; their mean is so small that every channel attends to all alike. ``(B, C, *S)`` to the same.
    """

    initial_scale = 6.0  # of features after a ReLU the weights have 0.7 of the largest entropy, whatever the patch
    max_scale = 100.0
    eps = 1e-12  # least length, as in torch's normalize

    def __init__(self, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.gamma = nn.Parameter(torch.zeros(1))
        self.log_scale = nn.Parameter(torch.full((groups, 1, 1), math.log(self.initial_scale)))
        refuse_state_dicts_without(self, "log_scale", "0.2.0")

    def forward(self, x: Tensor) -> Tensor:
        channels = x.unflatten(1, (self.groups, -1)).flatten(3)  # (B, groups, c, H*W)
        query, key = self.directions(channels)
        attended = F.scaled_dot_product_attention(query, key, channels, scale=1.0)
        return x + self.gamma * attended.reshape(x.shape)

    def directions(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Scale channels ``(..., c, positions)`` to unit length, the first result times the learned scale.

        Lengths are in float32 at least: the squares of half precision's large numbers are infinite. They alone are kept
        for the backward pass, not maps in float32.
        """
        precise = torch.promote_types(channels.dtype, torch.float32)
        with torch.autocast(channels.device.type, enabled=False):
            length = torch.linalg.vector_norm(channels, dim=-1, keepdim=True, dtype=precise).clamp_min(self.eps)
            scale = self.log_scale.clamp_max(math.log(self.max_scale)).exp()
            return (channels * (scale / length)).to(channels.dtype), (channels / length).to(channels.dtype)


# ---- Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018 -----------------------------------------------


class ChannelGate(nn.Module):
    """Gate that weighs channels by their mean and maximum: ``(B, C, *S)`` to the same."""

    reduction = 16

    def __init__(self, conv_op: ConvOp, channels: int):
        super().__init__()
        hidden = channels // self.reduction
        self.mlp = nn.Sequential(
            conv(conv_op, channels, hidden, 1), nn.ReLU(inplace=True), conv(conv_op, hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return x * (self.mlp(x.mean(axes, keepdim=True)) + self.mlp(x.amax(axes, keepdim=True))).sigmoid()


class SpatialGate(nn.Module):
    """Gate that weighs positions by mean and maximum over the channels: ``(B, C, *S)`` to the same."""

    def __init__(self, conv_op: ConvOp):
        super().__init__()
        self.conv = conv(conv_op, 2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()
