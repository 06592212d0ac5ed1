"""Proves: the encoder of volumes follows nnU-Net's plans, and recomputes; impossible plans are named."""

import pytest
import torch

from nnunet_plugins.architectures.layers.recomputation import set_recomputation
from nnunet_plugins.architectures.layers.scales import EncoderPlan, PlanEncoder, image_scales, plan_scales

THICK_SLICES = EncoderPlan([(1, 1, 1), (1, 2, 2), (2, 2, 2)], [(1, 3, 3), (3, 3, 3), (3, 3, 3)], [4, 8, 12])


def test_maps_are_those_below_the_full_resolution():
    maps = PlanEncoder(2, THICK_SLICES)(torch.randn(1, 2, 4, 8, 12))
    assert [tuple(f.shape) for f in maps] == [(1, 8, 4, 4, 6), (1, 12, 2, 2, 3)]


def test_first_kernels_do_not_look_across_thick_slices():
    encoder = PlanEncoder(1, THICK_SLICES)
    assert encoder.stages[0].blocks[0].conv1.conv.kernel_size == (1, 3, 3)


def test_scales_tell_the_decoder_what_the_encoder_does():
    scales = plan_scales(THICK_SLICES, 1)
    assert (list(scales.channels), list(scales.strides)) == ([8, 12], [(1, 2, 2), (2, 2, 2)])
    of_images = image_scales("resnet10t", 1, num_maps=3)
    assert (of_images.channels, of_images.strides) == ([64, 64, 128], [(2, 2), (2, 2), (2, 2)])


def test_recomputing_encoder_computes_the_same():
    torch.manual_seed(0)
    encoder, x = PlanEncoder(1, THICK_SLICES), torch.randn(1, 1, 4, 8, 8)
    results = []
    for recomputes in (False, True):
        assert set_recomputation([encoder], recomputes)
        maps = encoder(x)
        results.append([*maps, *torch.autograd.grad(sum(f.square().sum() for f in maps), encoder.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            THICK_SLICES._replace(features_per_stage=[4, 8]),
            "3 strides, 3 kernel sizes, 2 features: give each stage one",
        ),
        (THICK_SLICES.first(1), "1 strides, 1 kernel sizes, 1 features: .* at least 2 stages"),
        (THICK_SLICES._replace(strides=[(2, 2, 2)] * 3), r"strides begin with \(2, 2, 2\)"),
    ],
)
def test_impossible_plans_are_named(plan, message):
    with pytest.raises(ValueError, match=message):
        plan.check(fewest=2)
