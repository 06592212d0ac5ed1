"""Proves: DCFFSNet has its published size, its modules compute the paper's equations, and its shortcuts are exact."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.fake_cuda import fake_cuda_autocast
from support.references import randomise
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import DCFFSNet
from nnunet_plugins.architectures.dcffsnet import MSFFM, MSRCM, upsample
from nnunet_plugins.architectures.layers.connectivity import DSCRIM, PConv, convolve_groups
from nnunet_plugins.architectures.layers.devices import as_on_cuda
from nnunet_plugins.architectures.layers.directions import DIRECTIONS

PUBLISHED_PARAMETERS = 52.717e6
PUBLISHED_MACS = 21.732e9
ABLATIONS = [{"use_dscrim": False}, {"use_msffm": False}, {"use_msrcm": False}]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def macs(size: tuple[int, int], **options: Any) -> float:
    """Count multiply-accumulates without computing anything."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        DCFFSNet(3, 1, **options).eval()(torch.zeros(1, 3, *size))
    return counter.get_total_flops() / 2


def published(**options: Any) -> DCFFSNet:
    """Network of the published size, on the meta device."""
    with torch.device("meta"):
        return DCFFSNet(3, 1, **options)


def narrow(in_channels: int, num_classes: int, **options: Any) -> DCFFSNet:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"backbone": "resnet10t", "decoder_channels": (32, 16, 16, 8, 16)}
    return DCFFSNet(in_channels, num_classes, **sizes | options)


def shifted_groups(x: torch.Tensor) -> list[torch.Tensor]:
    """Shift each of the eight groups in its direction, in the plainest way."""
    groups = []
    for group, (dy, dx) in zip(x.chunk(8, 1), DIRECTIONS, strict=True):
        moved = torch.zeros_like(group)
        height, width = x.shape[2:]
        moved[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = group[
            ..., max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
        ]
        groups.append(moved)
    return groups


def test_parameters_and_macs_meet_the_published_figures():
    network = published()
    assert parameters(network) == 52_336_294
    assert parameters(network) == pytest.approx(PUBLISHED_PARAMETERS, rel=0.02)
    assert macs((224, 224)) == pytest.approx(PUBLISHED_MACS, rel=0.10)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda kwargs: next(iter(kwargs)))
def test_each_ablation_is_smaller_than_the_whole(ablation):
    assert parameters(published(**ablation)) < parameters(published())
    assert macs((64, 64), **ablation) < macs((64, 64))


def test_without_dscrim_there_is_no_supervised_bottleneck_output():
    network = narrow(3, 2, deep_supervision=True, use_dscrim=False)
    assert network(torch.randn(2, 3, 64, 64)).bottleneck_connectivity is None


def test_untrained_network_is_undecided_between_the_classes():
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = DCFFSNet(3, 2, deep_supervision=True)(torch.randn(2, 3, 64, 64))
    assert outputs.connectivity.sigmoid().square().mean() == pytest.approx(0.5, abs=0.1)
    assert outputs.bottleneck_connectivity.sigmoid().square().mean() == pytest.approx(0.5, abs=0.1)


def test_dscrim_computes_equations_1_to_3():
    dscrim = randomise(DSCRIM(nn.Conv2d, 64, 1, DIRECTIONS))
    f5 = torch.randn(2, 64, 3, 4, dtype=torch.float64)
    c5, low_resolution = dscrim(f5)

    p_out = dscrim.seg_layers["connectivity"](upsample(dscrim.reduce(f5), 32))
    torch.testing.assert_close(upsample(low_resolution, 32), p_out)  # the 1x1 convolution and the upsampling commute
    p_add = dscrim.seg_layers["injection"](F.adaptive_avg_pool2d(p_out, 1)).sigmoid()

    x = torch.cat(shifted_groups(f5), 1)
    spatial, channel = dscrim.spatial_attention(x), dscrim.channel_attention(x)
    directional = []
    for i, (x_i, p_i, s_i, c_i) in enumerate(zip(*(t.chunk(8, 1) for t in (x, p_add, spatial, channel)), strict=True)):
        weight, bias = dscrim.fuse.weight[8 * i : 8 * i + 8], dscrim.fuse.bias[8 * i : 8 * i + 8]
        directional.append(x_i + F.conv2d((s_i + c_i) * p_i, weight, bias))
    torch.testing.assert_close(c5, dscrim.decode(torch.cat(directional, 1)))


def test_msffm_computes_equations_4_to_8():
    msffm = randomise(MSFFM(nn.Conv2d, 32, 8))
    f, c = torch.randn(2, 2, 32, 5, 6, dtype=torch.float64)
    expected_f, expected_c = [], []
    for f_i, c_i in zip(f.chunk(8, 1), c.chunk(8, 1), strict=True):
        rows = f_i.mean(3, keepdim=True)  # (B, C/8, H, 1)
        columns = f_i.mean(2, keepdim=True)  # (B, C/8, 1, W)
        x_f = msffm.feature_norm(f_i * msffm.coordinate(rows).sigmoid() * msffm.coordinate(columns).sigmoid())
        x_c = msffm.connectivity_conv(c_i)
        w_fc = torch.einsum("bc,bchw->bhw", x_f.mean((2, 3)).softmax(1), x_c)
        w_cf = torch.einsum("bc,bchw->bhw", x_c.mean((2, 3)).softmax(1), x_f)
        gate = (w_fc + w_cf).sigmoid().unsqueeze(1)
        expected_f.append(f_i * gate)
        expected_c.append(c_i * gate)
    f_next, c_next = msffm(f, c)
    torch.testing.assert_close(f_next, torch.cat(expected_f, 1))
    torch.testing.assert_close(c_next, torch.cat(expected_c, 1))


def test_msrcm_computes_equation_9():
    msrcm = randomise(MSRCM(nn.Conv2d, 4, 6))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    total = torch.zeros_like(x)
    for kernel_size, (conv, norm) in zip((1, 3, 5, 7), msrcm.scales, strict=True):
        assert conv.kernel_size == (kernel_size, kernel_size)
        total = total + norm(F.conv2d(x, conv.weight, padding=kernel_size // 2))
    conv, norm, _ = msrcm.project
    torch.testing.assert_close(msrcm(x), norm(conv(x + total.relu())).relu())


def test_pconv_computes_equation_10_with_one_shared_kernel():
    pconv = randomise(PConv(nn.Conv2d, 16, 2, DIRECTIONS))
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    convolved = torch.cat([F.conv2d(group, pconv.conv.weight, padding=1) for group in shifted_groups(x)], 1)
    torch.testing.assert_close(pconv(x), pconv.seg_layers[0](pconv.norm(convolved).relu()))


def test_groups_are_convolved_alike_on_the_cpu_and_elsewhere():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    x = torch.randn(3, 16, 6, 5, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    results = []
    for device in (nullcontext, as_on_cuda):
        with device():
            y = convolve_groups(conv, x, 8)
        results.append((y, *torch.autograd.grad(y, (x, conv.weight), direction)))
    torch.testing.assert_close(*results)


def test_padding_of_odd_sizes_changes_nothing_inside_a_larger_image():
    network = narrow(1, 2).eval()
    x = torch.randn(1, 1, 70, 90)
    padded = F.pad(x, (0, 96 - 90, 0, 96 - 70))
    with torch.no_grad():
        inside = network(padded)[..., :69, :89]  # the last row's and column's neighbours differ
        torch.testing.assert_close(network(x)[..., :69, :89], inside)


def test_mixed_precision_keeps_feature_maps_in_half_and_votes_in_float32():
    with fake_cuda_autocast():
        network = narrow(3, 2, deep_supervision=True)
        seen: dict[str, torch.dtype] = {}
        for name in ("dscrim", "stages.0.fusion", "stages.0", "stages.3", "pconv"):
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, outputs, name=name: seen.update(
                    {name: torch.promote_types(outputs[0].dtype, outputs[-1].dtype)}
                )
            )
        outputs = network(torch.randn(2, 3, 64, 64))
    assert seen == dict.fromkeys(seen, torch.float16) and len(seen) == 5
    assert outputs.connectivity.dtype == torch.float16
    assert outputs.logits.dtype == outputs.bottleneck_connectivity.dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoder_channels": (32, 16, 16, 8, 12)}, "expected 5 multiples of 8"),
        ({"decoder_channels": (32, 16, 16, 8)}, "expected 5 multiples of 8"),
        ({"backbone": "convnext_atto"}, "expected strides 2, 4, 8, 16, 32"),
    ],
    ids=str,
)
def test_impossible_sizes_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        narrow(3, 2, **wrong)
