"""Proves: a dilated convolution computed on interleaved grids is the convolution, in values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nnunet_plugins.architectures.layers.dilation import dilated_conv, join_grids, split_grids


@given(
    dimensions=st.sampled_from([2, 3]),
    data=st.data(),
    dilation=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 4]),
)
def test_dilated_convolution_equals_the_plain_one(dimensions, data, dilation, groups):
    size = data.draw(st.lists(st.integers(1, 13), min_size=dimensions, max_size=dimensions))
    kernel_size = data.draw(st.tuples(*[st.sampled_from([1, 3, 5, 7])] * dimensions))
    padding = tuple(dilation * (k // 2) for k in kernel_size)
    conv_op = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    torch.manual_seed(0)
    conv = conv_op(4, 4, kernel_size, padding=padding, dilation=dilation, groups=groups).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 4, *size, dtype=torch.float64)

    expected, ours = conv(x), dilated_conv(conv, x)
    torch.testing.assert_close(ours, expected)
    inputs = (x, conv.weight, conv.bias)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    )


def test_grids_are_the_positions_that_differ_by_whole_steps():
    x = torch.arange(6.0).view(1, 1, 1, 6)
    grids = split_grids(x, (1, 3))
    assert grids.flatten(1).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("size", "steps"), [((6, 9), (2, 3)), ((4, 6, 9), (1, 2, 3))])
def test_joining_restores_what_splitting_did(size, steps):
    x = torch.randn(2, 3, *size)
    assert torch.equal(join_grids(split_grids(x, steps), steps), x)
