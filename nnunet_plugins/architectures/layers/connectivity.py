"""Modules of DCFFSNet that make connectivity maps: at the bottleneck, and at full resolution."""

import math

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.attention import ChannelAttention, SpatialAttention
from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size, conv, conv_norm_relu, functional_conv
from nnunet_plugins.architectures.layers.devices import has_cpu_forms
from nnunet_plugins.architectures.layers.directions import Directions, shift_groups
from nnunet_plugins.architectures.layers.recomputation import recomputable


def connectivity_head(conv_op: ConvOp, in_channels: int, num_maps: int) -> nn.Module:
    """Make a 1x1 convolution to connectivity logits that are undecided at first: neighbours agree with probability 1/2.

    With a bias of 0 it would be 1/4, and at a learning rate of 1e-4 the background takes hundreds of steps to recover.
    """
    head = conv_op(in_channels, num_maps, 1)
    probability = 0.5**0.5
    assert head.bias is not None
    nn.init.constant_(head.bias, math.log(probability / (1 - probability)))
    return head


class DSCRIM(nn.Module):
    """Deeply supervised connectivity representation injection module for the bottleneck features F5, eq. 1-3.

    The groups of channels, one for each of the D directions, share one grouped convolution each, so that all are
    computed at once. The paper leaves open the activation of P_add (here the sigmoid, a gate) and what surrounds the
    attentions (here a 3x3 convolution on either side, as in dual attention networks).

    ``Conv1x1(Upsample32(.))`` of eq. 1 is computed as ``Upsample32(Conv1x1(.))``, which is the same: a 1x1 convolution
    and bilinear interpolation commute, and bilinear interpolation by a whole factor keeps the mean, so that P_add needs
    no full-resolution map either.
    """

    def __init__(self, conv_op: ConvOp, channels: int, num_classes: int, directions: Directions):
        super().__init__()
        self.directions = directions
        groups = len(directions)

        def conv3x3() -> nn.Module:
            return conv_norm_relu(conv_op, channels, channels, 3, groups=groups)

        self.reduce = conv_op(channels, channels // groups, 1)
        # Everything that depends on the number of classes has ".seg_layers." in its name: nnU-Net's
        # -pretrained_weights leaves those weights out and so works across datasets.
        self.seg_layers = nn.ModuleDict(
            {
                "connectivity": connectivity_head(conv_op, channels // groups, groups * num_classes),
                "injection": conv_op(groups * num_classes, channels, 1),
            }
        )
        self.spatial_attention = nn.Sequential(conv3x3(), SpatialAttention(conv_op, channels, groups), conv3x3())
        self.channel_attention = nn.Sequential(conv3x3(), ChannelAttention(groups), conv3x3())
        self.fuse = conv_op(channels, channels, 1, groups=groups)
        self.decode = conv_op(channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn F5 ``(B, C, *s)`` into C5 ``(B, C, *s)`` and P_out before its upsampling, ``(B, D * K, *s)``."""
        connectivity = self.seg_layers["connectivity"](self.reduce(features))  # eq. 1
        mean = connectivity.mean(tuple(range(2, features.ndim)), keepdim=True)
        prior = self.seg_layers["injection"](mean).sigmoid()  # P_add: (B, C, 1, 1)
        shifted = shift_groups(features, self.directions)
        attended = self.spatial_attention(shifted) + self.channel_attention(shifted)
        directional = shifted + self.fuse(attended * prior)  # eq. 2, with the bracket of the text's steps 1-3
        return self.decode(directional), connectivity  # eq. 3


class PConv(nn.Module):
    """Directional convolution, eq. 10: shift D groups, convolve all with *one* kernel, decode to connectivity.

    ``(B, C, *S)`` to ``(B, D * K, *S)``.
    """

    def __init__(
        self, conv_op: ConvOp, channels: int, num_classes: int, directions: Directions, kernel_size: int | Size = 3
    ):
        super().__init__()
        self.directions = directions
        groups = len(directions)
        self.conv = conv(conv_op, channels // groups, channels // groups, kernel_size)
        self.norm = get_matching_batchnorm(conv_op)(channels)
        self.seg_layers = nn.ModuleList([connectivity_head(conv_op, channels, groups * num_classes)])

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        shifted = shift_groups(x, self.directions)
        return self.seg_layers[0](F.relu(self.norm(convolve_groups(self.conv, shifted, len(self.directions)))))


def convolve_groups(conv: nn.Module, x: Tensor, groups: int) -> Tensor:
    """Convolve each group of the channels of ``(B, C, *S)`` with the same kernel, which keeps the size.

    On the CPU the kernel is repeated for a grouped convolution, with gradients a third of the time of a larger batch.
    """
    if not has_cpu_forms(x):
        return conv(x.unflatten(1, (groups, -1)).flatten(0, 1)).view_as(x)
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    kernels = torch.cat([conv.weight] * groups)
    return functional_conv(x)(x, kernels, padding=conv.padding, groups=groups)
