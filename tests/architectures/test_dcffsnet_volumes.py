"""Proves: DCFFSNet in volumes, our extension, is built from the paper's equations with a third axis."""

from contextlib import nullcontext

import pytest
import torch
from support.references import randomise
from torch import nn
from torch.nn import functional as F

from nnunet_plugins.architectures import DCFFSNet
from nnunet_plugins.architectures.dcffsnet import MSFFM, MSRCM, directions_of
from nnunet_plugins.architectures.layers.connectivity import DSCRIM, PConv, convolve_groups
from nnunet_plugins.architectures.layers.devices import as_on_cuda
from nnunet_plugins.architectures.layers.directions import neighbours
from nnunet_plugins.architectures.layers.scales import EncoderPlan

FACES = neighbours((True, True, True), diagonal=False)
PLAN = EncoderPlan([(1, 1, 1), (2, 2, 2), (2, 2, 2)], [(3, 3, 3)] * 3, [8, 16, 32])
THICK_SLICES = EncoderPlan([(1, 1, 1), (1, 2, 2), (2, 2, 2)], [(1, 3, 3), (3, 3, 3), (3, 3, 3)], [8, 16, 32])


def shifted_groups(x: torch.Tensor) -> torch.Tensor:
    """Shift each of the six groups to its neighbour, written out."""
    zm, ym, xm, xp, yp, zp = x.chunk(6, 1)
    return torch.cat(
        [
            F.pad(zm, (0, 0, 0, 0, 0, 1))[:, :, 1:],
            F.pad(ym, (0, 0, 0, 1))[:, :, :, 1:],
            F.pad(xm, (0, 1))[..., 1:],
            F.pad(xp, (1, 0))[..., :-1],
            F.pad(yp, (0, 0, 1, 0))[:, :, :, :-1],
            F.pad(zp, (0, 0, 0, 0, 1, 0))[:, :, :-1],
        ],
        1,
    )


def test_dscrim_computes_equations_1_to_3():
    dscrim = randomise(DSCRIM(nn.Conv3d, 48, 2, FACES))
    f5 = torch.randn(2, 48, 2, 3, 4, dtype=torch.float64)
    c5, connectivity = dscrim(f5)
    torch.testing.assert_close(connectivity, dscrim.seg_layers["connectivity"](dscrim.reduce(f5)))
    p_add = dscrim.seg_layers["injection"](F.adaptive_avg_pool3d(connectivity, 1)).sigmoid()
    x = shifted_groups(f5)
    spatial, channel = dscrim.spatial_attention(x), dscrim.channel_attention(x)
    directional = []
    for i, (x_i, p_i, s_i, c_i) in enumerate(zip(*(t.chunk(6, 1) for t in (x, p_add, spatial, channel)), strict=True)):
        weight, bias = dscrim.fuse.weight[8 * i : 8 * i + 8], dscrim.fuse.bias[8 * i : 8 * i + 8]
        directional.append(x_i + F.conv3d((s_i + c_i) * p_i, weight, bias))
    torch.testing.assert_close(c5, dscrim.decode(torch.cat(directional, 1)))


def test_msffm_pools_along_every_axis():
    msffm = randomise(MSFFM(nn.Conv3d, 18, 6))
    f, c = torch.randn(2, 2, 18, 3, 5, 4, dtype=torch.float64)
    expected_f, expected_c = [], []
    for f_i, c_i in zip(f.chunk(6, 1), c.chunk(6, 1), strict=True):
        gates = [msffm.coordinate(f_i.mean(axes, keepdim=True)).sigmoid() for axes in ((3, 4), (2, 4), (2, 3))]
        x_f = msffm.feature_norm(f_i * gates[0] * gates[1] * gates[2])
        x_c = msffm.connectivity_conv(c_i)
        w_fc = torch.einsum("bc,bczyx->bzyx", x_f.mean((2, 3, 4)).softmax(1), x_c)
        w_cf = torch.einsum("bc,bczyx->bzyx", x_c.mean((2, 3, 4)).softmax(1), x_f)
        gate = (w_fc + w_cf).sigmoid().unsqueeze(1)
        expected_f.append(f_i * gate)
        expected_c.append(c_i * gate)
    f_next, c_next = msffm(f, c)
    torch.testing.assert_close(f_next, torch.cat(expected_f, 1))
    torch.testing.assert_close(c_next, torch.cat(expected_c, 1))


def test_msrcm_keeps_four_scales_with_large_kernels_as_chains():
    msrcm = randomise(MSRCM(nn.Conv3d, 4, 6))
    x = torch.randn(2, 4, 5, 6, 4, dtype=torch.float64)
    total = torch.zeros_like(x)
    for reach, (*chain, norm) in enumerate(msrcm.scales):
        y = x
        for conv in chain:
            y = F.conv3d(y, conv.weight, padding=conv.weight.shape[-1] // 2)
        assert len(chain) == max(1, reach) and {conv.kernel_size for conv in chain} == {
            (1, 1, 1) if reach == 0 else (3, 3, 3)
        }
        total = total + norm(y)
    conv, norm, _ = msrcm.project
    torch.testing.assert_close(msrcm(x), norm(conv(x + total.relu())).relu())


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_every_scale_of_msrcm_sees_as_far_as_its_kernel(reach):
    scale = MSRCM(nn.Conv3d, 1, 1).scales[reach].eval()
    for parameter in scale.parameters():
        parameter.data.fill_(1.0)
    x = torch.zeros(1, 1, 9, 9, 9)
    x[..., 4, 4, 4] = 1
    seen = (scale(x) > scale(torch.zeros_like(x))).nonzero()[:, 2:]
    assert seen.amin(0).tolist() == [4 - reach] * 3 and seen.amax(0).tolist() == [4 + reach] * 3


def test_pconv_computes_equation_10_with_one_shared_kernel():
    pconv = randomise(PConv(nn.Conv3d, 12, 2, FACES))
    x = torch.randn(2, 12, 4, 5, 3, dtype=torch.float64)
    convolved = torch.cat([F.conv3d(group, pconv.conv.weight, padding=1) for group in shifted_groups(x).chunk(6, 1)], 1)
    torch.testing.assert_close(pconv(x), pconv.seg_layers[0](pconv.norm(convolved).relu()))


def test_groups_are_convolved_alike_on_the_cpu_and_elsewhere():
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 2, (1, 3, 3), padding=(0, 1, 1), bias=False).double()
    x = torch.randn(3, 12, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    results = []
    for device in (nullcontext, as_on_cuda):
        with device():
            y = convolve_groups(conv, x, 6)
        results.append((y, *torch.autograd.grad(y, (x, conv.weight), direction)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("plan", "diagonal", "number"), [(PLAN, False, 6), (PLAN, True, 26), (THICK_SLICES, False, 4)])
def test_number_of_connectivity_maps_follows_the_neighbours(plan, diagonal, number):
    network = DCFFSNet(1, 3, plan=plan, diagonal=diagonal, deep_supervision=True)
    assert network.directions == directions_of(plan, diagonal)
    outputs = network(torch.randn(2, 1, 8, 12, 10))
    assert outputs.connectivity.shape == outputs.bottleneck_connectivity.shape == (2, 3, number, 8, 12, 10)
    assert outputs.logits.shape == (2, 3, 8, 12, 10)


@pytest.mark.parametrize("ablation", ["use_dscrim", "use_msffm", "use_msrcm"])
def test_each_ablation_is_smaller_than_the_whole(ablation):
    sizes = [
        sum(p.numel() for p in DCFFSNet(1, 2, plan=PLAN, **options).parameters()) for options in ({}, {ablation: False})
    ]
    assert sizes[1] < sizes[0]


def test_decoder_is_as_wide_as_the_encoder_one_scale_finer():
    """Rounded up for six groups, of two layers of which together a multiple of eight is made."""
    plan = EncoderPlan([(1, 1, 1), *[(2, 2, 2)] * 5], [(3, 3, 3)] * 6, [32, 64, 128, 256, 320, 320])
    with torch.device("meta"):
        network = DCFFSNet(1, 2, plan=plan)
    assert [stage.fusion.groups * stage.fusion.feature_norm.num_features for stage in network.stages] == [
        264,
        132,
        72,
        36,
    ]
    assert network.pconv.norm.num_features == 36
