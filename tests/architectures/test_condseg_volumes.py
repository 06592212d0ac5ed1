"""Proves: ConDSeg in volumes, our extension, is the figure with a third axis and convolutions at the finest level."""

import pytest
import torch
from torch.nn import functional as F

from nnunet_plugins.architectures import ConDSeg, Net0
from nnunet_plugins.architectures.layers.contrast import ContrastFusion, ConvolutionFusion
from nnunet_plugins.architectures.layers.scales import EncoderPlan

PLAN = EncoderPlan([(1, 1, 1), *[(2, 2, 2)] * 4, (1, 2, 2)], [(3, 3, 3)] * 6, [4, 8, 8, 8, 8, 8])


def network(plan: EncoderPlan = PLAN, **options) -> ConDSeg:
    torch.manual_seed(0)
    return ConDSeg(1, 2, plan=plan, **options)


def randomise_norms(module: torch.nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.weight.data.uniform_(0.5, 1.5)


def test_stage_2_is_the_figure():
    """Figure 2 from left to right, with plain interpolations and the network's own parts."""
    whole = network(deep_supervision=True)
    randomise_norms(whole)
    whole.double().eval()
    x = torch.randn(1, 1, 30, 32, 16, dtype=torch.float64)

    def to(y, size):
        return F.interpolate(y, size=size, mode="trilinear", align_corners=False)

    f1, f2, f3, f4 = whole.net0.encoder(F.pad(x, (0, 16, 0, 0, 0, 2)))  # at least two voxels of f4
    e1, e2, e3, e4 = (enhance(f) for enhance, f in zip(whole.enhance, (f1, f2, f3, f4), strict=True))
    fg, bg, uc = (whole.sid.branches[region](f4) for region in ("foreground", "background", "uncertainty"))
    s3, s2, s1, s0 = (4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)

    def fuse(number, level, sizes):
        prepared = []
        for chain, y in (
            (whole.fusions[number].prepare_foreground, fg),
            (whole.fusions[number].prepare_background, bg),
        ):
            y = chain[0](y)
            for convolution, size in zip(chain[1:], sizes, strict=True):
                y = convolution(to(y, size))
            prepared.append(y)
        return whole.fusions[number].cdfa(level, *prepared)

    fused4 = fuse(0, e4, [])
    fused3 = fuse(1, torch.cat((e3, to(fused4, s3)), 1), [s3])
    fused2 = fuse(2, torch.cat((e2, to(fused3, s2)), 1), [s3, s2])
    fused1 = whole.fusions[3](torch.cat((e1, to(fused2, s1)), 1))
    large, medium, small = whole.decoders
    decoded = [to(large(fused4, fused3), s1), to(medium(fused3, fused2), s1), small(fused2, fused1)]
    logits = whole.output(whole.refine(to(whole.fuse_sizes(torch.cat(decoded, 1)), s0)))
    heads = whole.sid.heads
    masks = [heads[r](y, [s3, s2, s1, s0]) for r, y in zip(heads, (fg, bg, uc), strict=True)]

    outputs = whole(x)
    torch.testing.assert_close(outputs.logits.double(), logits[..., :30, :32, :16], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs.decoupled, torch.cat(masks, 1)[..., :30, :32, :16])


def test_finest_level_alone_is_fused_by_convolutions():
    kinds = [type(fusion) for fusion in network().fusions]
    assert kinds == [ContrastFusion, ContrastFusion, ContrastFusion, ConvolutionFusion]
    assert {type(fusion) for fusion in network(use_contrast=False).fusions} == {ConvolutionFusion}


def test_window_is_a_cube():
    assert network().fusions[0].cdfa.foreground.out_channels == 4 * 27**2


@pytest.mark.parametrize("num_stages", [3, 4, 5, 6])
def test_levels_are_those_of_the_plan_and_at_most_four(num_stages):
    small = network(PLAN.first(num_stages), deep_supervision=True)
    levels = min(num_stages - 1, 4)
    assert len(small.net0.widths) == len(small.fusions) == levels and len(small.decoders) == levels - 1
    outputs = small(torch.randn(2, 1, 16, 20, 16))
    assert outputs.logits.shape == (2, 2, 16, 20, 16) and outputs.decoupled.shape == (2, 3, 16, 20, 16)


def test_channels_are_those_of_the_plan():
    plan = PLAN._replace(features_per_stage=[32, 64, 128, 256, 320, 320])
    with torch.device("meta"):
        wide = network(plan)
    assert wide.fusions[0].cdfa.value.out_channels == 64
    assert wide.net0.head.reduce[0].out_channels == 32


def test_net0_computes_views_one_after_the_other():
    net0 = Net0(1, 2, plan=PLAN).train()
    views = torch.randn(3, 2, 1, 16, 16, 32)
    expected = torch.cat([net0(views[:, 0]), net0(views[:, 1])])
    torch.testing.assert_close(net0(views), expected)


def test_head_of_net0_equals_the_published_order_of_its_operations():
    net0 = Net0(1, 2, plan=PLAN).double().train()
    x = torch.randn(2, 1, 32, 32, 32, dtype=torch.float64)
    levels = []
    for f, reduce, norm in zip(net0.encoder(x), net0.head.reduce, net0.head.norms, strict=True):
        f = F.interpolate(f, size=x.shape[2:], mode="trilinear", align_corners=False)
        levels.append(F.relu(norm(reduce(f))))
    logits = net0.head.seg_layers[0](torch.cat(levels, 1))
    torch.testing.assert_close(net0(x).double(), logits, rtol=1e-5, atol=1e-5)


def test_plans_of_two_stages_are_named():
    with pytest.raises(ValueError, match="at least 3 stages"):
        network(PLAN.first(2))
