"""Attention on feature maps: the pair of Dual Attention Networks, and the gates of CBAM."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.convolutions import ConvOp, conv

# ---- Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019 ---------------------------------------------
# Both act on ``groups`` equal channel groups independently and in one call: convolutions are grouped, and the groups
# join the heads axis of scaled dot-product attention.


class SpatialAttention(nn.Module):
    """Self-attention over the H * W positions of each channel group, as a residual scaled by ``gamma`` (0 at first).

    Quadratic in H * W: meant for the lowest resolution only. ``(B, C, H, W)`` to ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, groups: int = 1, reduction: int = 8):
        super().__init__()
        self.groups = groups
        self.query = nn.Conv2d(channels, channels // reduction, 1, groups=groups)
        self.key = nn.Conv2d(channels, channels // reduction, 1, groups=groups)
        self.value = nn.Conv2d(channels, channels, 1, groups=groups)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(1, (self.groups, -1)).flatten(3).transpose(2, 3)  # (B, groups, H*W, c)
            for projection in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.gamma * attended.transpose(2, 3).reshape(x.shape)


class ChannelAttention(nn.Module):
    """Self-attention among the channels of each group, as a residual scaled by ``gamma`` (0 at first).

    Deviation: the affinity of two channels is the mean of their product over the positions, not the sum, which grows
    with the patch until every channel attends to one channel alone. ``(B, C, H, W)`` to ``(B, C, H, W)``.
    """

    def __init__(self, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.unflatten(1, (self.groups, -1)).flatten(3)  # (B, groups, c, H*W)
        attended = F.scaled_dot_product_attention(channels, channels, channels, scale=1 / channels.shape[-1])
        return x + self.gamma * attended.reshape(x.shape)


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
