"""Proves: convolution blocks keep the size, in 2D and 3D, for any kernel, dilation and normalisation."""

import pytest
import torch
from torch import nn

from nnunet_plugins.architectures.layers.convolutions import conv_norm, conv_norm_relu, depthwise_conv, double_conv

SIZES = {nn.Conv2d: (5, 9), nn.Conv3d: (5, 9, 4)}
KERNELS = {nn.Conv2d: (1, 3), nn.Conv3d: (1, 3, 5)}


@pytest.mark.parametrize("conv_op", SIZES)
def test_blocks_keep_the_size_of_their_input(conv_op):
    size, x = SIZES[conv_op], torch.randn(2, 2, *SIZES[conv_op])
    assert conv_norm(conv_op, 2, 3, 3, dilation=6)(x).shape == (2, 3, *size)
    assert conv_norm_relu(conv_op, 2, 4, KERNELS[conv_op], groups=2)(x).shape == (2, 4, *size)
    assert double_conv(conv_op, 2, 3, KERNELS[conv_op])(x).shape == (2, 3, *size)
    assert depthwise_conv(conv_op, 2, 7, dilation=3)(x).shape == (2, 2, *size)


@pytest.mark.parametrize("conv_op", SIZES)
def test_normalisation_is_that_of_the_batch_unless_another_is_given(conv_op):
    x = 3 + 2 * torch.randn(2, 4, *SIZES[conv_op])
    values = conv_norm(conv_op, 4, 4)(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    of_image = conv_norm(conv_op, 4, 4, norm_op=lambda channels: nn.GroupNorm(1, channels))(x).flatten(1)
    torch.testing.assert_close(of_image.mean(1), torch.zeros(2), atol=1e-4, rtol=0)


def test_double_convolution_is_two_convolutions_with_normalisation_and_relu():
    block = double_conv(nn.Conv2d, 2, 3)
    assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [layer.in_channels for layer in block if isinstance(layer, nn.Conv2d)] == [2, 3]
