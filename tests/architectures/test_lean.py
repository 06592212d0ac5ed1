"""Proves: the layers that keep less have the values and gradients of torch's own, and do keep less."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nnunet_plugins.architectures.layers.lean import MaxPool, SaturatingReLU


def values_and_gradient(function, x: torch.Tensor) -> list[torch.Tensor]:
    """Value of ``function`` behind a layer that keeps nothing, and gradient of a fixed sum."""
    x = x.clone().requires_grad_()
    y = function(x + 0)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, x, weights)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_saturating_relu_is_hardtanh_with_its_gradient(dtype):
    x = torch.cat((torch.linspace(-3, 7, 101), torch.tensor([0.0, -0.0, 5.0, torch.inf, -torch.inf]))).to(dtype)
    expected = values_and_gradient(nn.Hardtanh(0.0, 5.0), x)
    assert all(map(torch.equal, values_and_gradient(SaturatingReLU(5.0), x), expected))


@given(
    size=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    data=st.data(),
    channels_last=st.booleans(),
)
def test_max_pool_is_that_of_torch_with_its_gradient(size, data, channels_last):
    stride = data.draw(st.tuples(*[st.integers(1, min(3, length)) for length in size]))
    torch.manual_seed(0)
    x = torch.randint(0, 4, (2, 3, *size)).double()  # many values occur twice in a window
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    pool = nn.MaxPool2d(stride) if len(size) == 2 else nn.MaxPool3d(stride)
    assert all(map(torch.equal, values_and_gradient(MaxPool(stride), x), values_and_gradient(pool, x)))


def test_max_pool_keeps_a_byte_for_every_window():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        MaxPool((2, 2))(torch.randn(1, 3, 8, 8, requires_grad=True))
    assert [(x.dtype, x.shape) for x in kept] == [(torch.uint8, (1, 3, 4, 4))]


def test_saturating_relu_keeps_its_output_alone():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        y = SaturatingReLU(1.0)(torch.randn(5, requires_grad=True) + 0)
    assert [x.data_ptr() for x in kept] == [y.data_ptr()]


def test_both_compile_in_one_graph():
    layers = nn.Sequential(nn.BatchNorm2d(2), SaturatingReLU(1.0), MaxPool((2, 1)))
    x = torch.randn(2, 2, 5, 4)
    compiled = torch.compile(layers, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, values_and_gradient(compiled, x), values_and_gradient(layers, x)))
    with torch.inference_mode():
        assert torch.equal(compiled(x), layers(x))
