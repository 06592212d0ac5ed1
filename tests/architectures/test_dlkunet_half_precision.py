"""Proves: what overflows in half precision leaves DLKUNet's statistics finite and its gradients as they should be."""

import pytest
import torch
from support.fake_cuda import fake_cuda_autocast
from support.half_precision import mixed_precision
from torch import nn

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.architectures.dlkunet import MAX_ACTIVATION, LargeKernelAttention, saturated


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("gain", [1, 10, 1e3])
def test_activations_at_the_bound_leave_finite_running_statistics_in_half_precision(conv_op, gain):
    """The gradient scaler skips the step after an overflow, but nothing would restore the statistics."""
    torch.manual_seed(0)
    network = network_at_the_bound(conv_op, gain)
    with mixed_precision(torch.float16):
        logits = network(torch.randn(2, 1, *[16] * (2 if conv_op is nn.Conv2d else 3)))
    assert logits.dtype == torch.float16 and logits.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in network.buffers())
    logits.float().square().mean().backward()


def network_at_the_bound(conv_op, gain):
    """Network whose ReLUs all saturate, and whose attention's convolutions multiply what they get."""
    network = DLKUNet(1, 2, variant="S", base_channels=4, conv_op=conv_op)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.constant_(module.bias, 1e3)
        if isinstance(module, LargeKernelAttention):
            for conv in (module.depthwise, module.spatial, module.pointwise):
                conv.weight.data *= gain
    return network


def test_only_what_overflows_in_half_precision_is_changed():
    numbers = [0.0, 1.0, -65504.0, float("inf"), float("-inf"), float("nan")]
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor(numbers, dtype=dtype)
        torch.testing.assert_close(saturated(x.clone()), x, equal_nan=True, rtol=0, atol=0)
    x = torch.tensor(numbers, dtype=torch.float16)
    torch.testing.assert_close(saturated(x)[:5].tolist(), [0.0, 1.0, -65504.0, 65504.0, -65504.0])
    assert x[5].isnan()  # of weights that are not finite, which must not go unnoticed


def test_gradients_are_those_of_full_precision_where_half_precision_overflows_also_when_compiled():
    torch.manual_seed(0)
    network = network_at_the_bound(nn.Conv2d, 10)
    attention = next(module for module in network.modules() if isinstance(module, LargeKernelAttention))
    x = MAX_ACTIVATION * torch.rand(2, attention.depthwise.in_channels, 16, 16)

    def gradients(forward, dtype):
        attention.zero_grad()
        with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):
            products = forward(x.to(dtype))
        (1e-3 * products.float()).mean().backward()
        return products, [parameter.grad.clone() for parameter in attention.parameters()]

    full, expected = gradients(attention, torch.float32)
    assert (full.abs() > torch.finfo(torch.float16).max).any()
    for forward in (attention, torch.compile(attention, backend="aot_eager")):
        half, found = gradients(forward, torch.float16)
        assert half.abs().max() == torch.finfo(torch.float16).max
        for ours, theirs in zip(found, expected, strict=True):
            assert theirs.any()
            torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02 * theirs.abs().max().item())


def test_mixed_precision_keeps_feature_maps_in_half():
    with fake_cuda_autocast():
        network = DLKUNet(1, 2, variant="S", base_channels=8)
        assert network.decoder[-1].block(torch.randn(1, 16, 8, 8)).dtype == torch.float16
        assert network(torch.randn(2, 1, 32, 32)).dtype == torch.float16
