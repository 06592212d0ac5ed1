"""Convolution blocks."""

from torch import nn


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, and batch normalisation."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    )


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    convolution = conv_bn(in_channels, out_channels, kernel_size, groups=groups, dilation=dilation)
    return convolution.append(nn.ReLU(inplace=True))
