"""Proves: the depthwise convolution with gradients of its own is torch's, in values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.depthwise import DepthwiseConv, convolve_depthwise


@given(
    size=st.lists(st.integers(1, 8), min_size=2, max_size=3),
    data=st.data(),
    has_bias=st.booleans(),
)
def test_depthwise_convolution_is_that_of_torch(size, data, has_bias):
    edges = data.draw(st.tuples(*[st.sampled_from([1, 3, 5, 7]) for _ in size]))
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, *edges, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True) if has_bias else None
    direction = torch.randn(2, 3, *size, dtype=torch.float64)
    inputs = [x, weight, *([bias] if has_bias else [])]
    conv = F.conv2d if len(size) == 2 else F.conv3d

    expected = conv(x, weight, bias, padding=[edge // 2 for edge in edges], groups=3)
    ours = convolve_depthwise(x, weight, bias)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    )


@pytest.mark.parametrize("edges", [(3, 3), (7, 7), (3, 5, 7)])
def test_gradients_have_the_strides_of_the_weights(edges):
    x, weight = torch.randn(1, 3, *[6] * len(edges)), torch.randn(3, 1, *edges, requires_grad=True)
    convolve_depthwise(x, weight, None).sum().backward()
    assert weight.grad.stride() == weight.stride()


def test_gradients_without_autocast_alone_are_our_own():
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(3, 1, 5, 5, requires_grad=True)
    assert convolve_depthwise(x, weight, None).grad_fn.name().startswith(DepthwiseConv.__name__)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = convolve_depthwise(x, weight, None)
    assert y.grad_fn.name().startswith("Convolution")
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(6, 6), (3, 6, 6)])
def test_memory_on_the_cpu_is_channels_last(size):
    x, weight = torch.randn(1, 3, *size), torch.randn(3, 1, *[3] * len(size))
    memory_format = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    assert convolve_depthwise(x, weight, None).is_contiguous(memory_format=memory_format)
