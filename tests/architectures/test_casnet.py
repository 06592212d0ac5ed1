"""Proves: CASNet's parts are section 3.3's, one code serves 2D and 3D, and its tokens stay bounded in any patch."""

import math

import pytest
import torch
from support.fake_cuda import fake_cuda_autocast
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import CASNet
from nnunet_plugins.architectures.casnet import (
    ContextualAttention,
    Decoder,
    ModalityEncoder,
    MultiScaleFusion,
)
from nnunet_plugins.architectures.layers.transformer_fusion import TransformerFusion

OPS = {2: nn.Conv2d, 3: nn.Conv3d}


def plan(dimensions, features=(16, 32, 48)):
    stages = len(features)
    return {
        "conv_op": OPS[dimensions],
        "strides": [(1,) * dimensions, *[(2,) * dimensions] * (stages - 1)],
        "kernel_sizes": [(3,) * dimensions] * stages,
        "features_per_stage": features,
    }


THICK_SLICES = {
    "conv_op": nn.Conv3d,
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    "kernel_sizes": [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
    "features_per_stage": (16, 32, 48),
}
SIZES = {2: (24, 36), 3: (8, 12, 20)}


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)], ids=str)
def test_contextual_attention_adds_the_scores_of_all_means(size):
    torch.manual_seed(0)
    attention, x = ContextualAttention(8), torch.randn(2, 8, *size)
    attention.balance.data.fill_(0.4)

    def score(descriptor):  # (B, C) to (B, C)
        return attention.mlp(descriptor[:, :, None])[:, :, 0]

    scores = torch.empty_like(x)
    for position in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
        total = score(x.flatten(2).mean(2))
        for axis, index in enumerate(position, start=2):
            total = total + score(x.select(axis, index).flatten(2).mean(2))
        scores[(slice(None), slice(None), *position)] = total
    a, gate = 1 / (1 + math.exp(-0.4)), scores.sigmoid()
    torch.testing.assert_close(attention(x), a * gate * x + (1 - a) * x, rtol=1e-4, atol=1e-5)


def test_contextual_attention_can_be_learnt_away():
    attention, x = ContextualAttention(8), torch.randn(2, 8, 6, 7)
    attention.balance.data.fill_(-100.0)
    torch.testing.assert_close(attention(x), x)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_multi_scale_fusion_is_a_weighted_sum_of_atrous_convolutions(dimensions):
    torch.manual_seed(0)
    fusion, x = MultiScaleFusion(OPS[dimensions], 4, (3,) * dimensions), torch.randn(2, 4, *SIZES[dimensions])
    assert fusion.weights.tolist() == [0.25] * 4
    fusion.weights.data = torch.tensor([0.5, -1.0, 2.0, 0.1])
    convolve = F.conv2d if dimensions == 2 else F.conv3d
    scales = [
        weight * convolve(x, conv.weight, padding=rate, dilation=rate)
        for rate, weight, conv in zip((1, 2, 4, 8), fusion.weights, fusion.atrous, strict=True)
    ]
    torch.testing.assert_close(fusion(x), fusion.pointwise(sum(scales)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_levels_pool_and_convolve_twice(dimensions):
    torch.manual_seed(0)
    encoder = ModalityEncoder(
        OPS[dimensions], 1, (4, 6), [(1,) * dimensions, (2,) * dimensions], [(3,) * dimensions] * 2
    )
    convolve, pool = (F.conv2d, F.max_pool2d) if dimensions == 2 else (F.conv3d, F.max_pool3d)
    x = torch.randn(2, 1, *(8,) * dimensions)
    for index, features in enumerate(encoder(x)):
        x = pool(x, 2) if index else x
        for weight in (p for p in encoder[index].parameters() if p.ndim > 1):
            x = F.relu(F.batch_norm(convolve(x, weight, padding=1), None, None, training=True))
        torch.testing.assert_close(features, x, rtol=1e-4, atol=1e-5)


# ---- modalities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(1,), (3,), (1, 1), (1, 1, 1, 1), (1, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_modality_has_its_encoder_and_all_meet(groups, dimensions):
    torch.manual_seed(0)
    channels = sum(groups)
    network = CASNet(channels, 2, modality_groups=groups, **plan(dimensions)).eval()
    assert [encoder[0][1][0].in_channels for encoder in network.encoders] == list(groups)
    x = torch.randn(1, channels, *SIZES[dimensions])
    with torch.no_grad():
        logits = network(x)
        for channel in range(channels):
            other = x.clone()
            other[:, channel] += 1
            assert not torch.equal(network(other), logits)
    assert logits.shape == (1, 2, *SIZES[dimensions])


def test_channels_are_modalities_unless_told_otherwise():
    assert CASNet(3, 2, **plan(2)).modality_groups == (1, 1, 1)


def test_modalities_see_each_other_at_the_bottleneck_in_every_position():
    torch.manual_seed(0)
    network = CASNet(2, 2, **plan(2))
    levels = [[torch.randn(1, w, s, s, requires_grad=True) for _ in range(2)] for w, s in ((16, 16), (24, 8), (40, 4))]
    network.transformer_fusion(levels)[0, :, 0, 0].sum().backward()
    for level in levels:  # the first position of the result depends on all of every level and modality
        assert all(modality.grad.abs().sum(1).gt(0).all() for modality in level)


def test_the_two_modalities_are_told_apart():
    torch.manual_seed(0)
    fusion = CASNet(2, 2, **plan(2)).transformer_fusion
    levels = [[torch.randn(1, w, s, s) for _ in range(2)] for w, s in ((16, 16), (24, 8), (40, 4))]
    fusion.merge.weight.data[:, 40:] = fusion.merge.weight.data[:, :40]  # as if merging did not tell them apart
    swapped = [level[::-1] for level in levels]
    assert not torch.allclose(fusion(levels), fusion(swapped), atol=1e-5)
    fusion.modality.data[1] = fusion.modality.data[0]
    torch.testing.assert_close(fusion(levels), fusion(swapped), rtol=1e-4, atol=1e-4)


def flops(channels, groups, features=(32, 64, 128, 256)):
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network = CASNet(channels, 2, modality_groups=groups, **plan(3, features))
        network(torch.empty(1, channels, 32, 32, 32))
    return counter.get_total_flops()


def test_four_modalities_cost_about_as_much_as_one():
    assert flops(4, (1, 1, 1, 1)) / flops(4, (4,)) == pytest.approx(1.25, abs=0.15)  # wider skips, same encoders


# ---- the network -----------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Token mixer that records the shapes of its tokens."""

    seen: list[torch.Size]

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, tokens):
        Mixer.seen.append(tokens.shape)
        return self.linear(tokens)


def test_tokens_of_a_volume_of_128_voxels_are_bounded_and_their_mixer_replaceable():
    Mixer.seen, contexts = [], []
    with FakeTensorMode():
        network = CASNet(4, 3, **plan(3, (32, 64)), token_mixer=Mixer)  # a bottleneck of 64^3 positions
        network.transformer_fusion.hierarchy[0].mixer.register_forward_hook(
            lambda module, args, output: contexts.append([x.shape for x in args])
        )
        assert network(torch.empty(1, 4, 128, 128, 128)).shape == (1, 3, 128, 128, 128)
    assert Mixer.seen == [(1, 4 * 8**3, 32)]
    assert contexts == [[(1, 4 * 8**3, 32), (1, 4 * 8**3, 32)]]


@pytest.mark.parametrize("size", [(24, 36), (17, 23), (5, 64)], ids=str)
def test_logits_have_the_size_of_the_image(size):
    network = CASNet(1, 2, **plan(2)).eval()
    assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("size", [(8, 20, 24), (3, 17, 21)], ids=str)
def test_levels_follow_the_plans_of_thick_slices(size):
    network = CASNet(1, 2, deep_supervision=True, **THICK_SLICES)
    outputs = network(torch.randn(2, 1, *size))
    assert [o.shape[2:] for o in outputs] == [size, (size[0], size[1] // 2, size[2] // 2)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_supervision_gives_logits_of_every_level_but_the_bottleneck(dimensions):
    network = CASNet(1, 4, deep_supervision=True, **plan(dimensions, (8, 8, 16, 16)))
    outputs = network(torch.randn(2, 1, *(32,) * dimensions))
    assert [o.shape for o in outputs] == [(2, 4, *(size,) * dimensions) for size in (32, 16, 8)]
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    inference = CASNet(1, 4, auxiliary_heads=True, **plan(dimensions, (8, 8, 16, 16)))
    inference.load_state_dict(network.state_dict())
    assert inference(torch.randn(2, 1, *(32,) * dimensions)).shape == outputs[0].shape


def test_without_auxiliary_heads_there_is_no_idle_parameter():
    network = CASNet(1, 4, **plan(2))
    assert len(network.decoder.seg_layers) == 1
    network(torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_without_skips_the_decoder_sees_the_bottleneck_alone():
    torch.manual_seed(0)
    networks = [CASNet(1, 2, use_skips=use, **plan(2)).eval() for use in (True, False)]
    assert not any("attention" in name for name in networks[1].decoder.state_dict())
    changed = []
    for network in networks:
        encoded = [(torch.randn(1, w, s, s),) for w, s in ((16, 16), (32, 8), (48, 4))]
        other = [(encoded[0][0] + 1,), (encoded[1][0] + 1,), encoded[2]]
        x = torch.randn(1, 48, 4, 4)
        first, second = (network.decoder(x, levels, deep_supervision=False)[0] for levels in (encoded, other))
        changed.append(not torch.equal(first, second))
    assert changed == [True, False]


def test_without_contextual_attention_skips_are_plain():
    network = CASNet(1, 2, use_contextual_attention=False, **plan(2))
    assert not any(isinstance(module, ContextualAttention) for module in network.modules())
    attentions = [m for m in CASNet(1, 2, **plan(2)).modules() if isinstance(m, ContextualAttention)]
    assert len(attentions) == 2


def test_feature_maps_stay_in_half_precision_under_cudas_autocast():
    with fake_cuda_autocast():
        network = CASNet(2, 3, deep_supervision=True, **plan(3))
        dtypes = {}
        for name, module in network.named_modules():
            if isinstance(module, ContextualAttention | MultiScaleFusion | TransformerFusion | nn.Conv3d):
                module.register_forward_hook(lambda m, i, y, name=name: dtypes.update({name: y.dtype}))
            if isinstance(module, Decoder):
                module.register_forward_hook(lambda m, i, y: dtypes.update(logits=y[0].dtype))
        network(torch.empty(2, 2, 16, 16, 16))
    assert len(dtypes) > 20
    assert set(dtypes.values()) == {torch.float16}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modality_groups": (1, 1)}, "modality_groups"),
        ({"modality_groups": (3, 0)}, "modality_groups"),
        ({"strides": [(1, 1)]}, "strides"),
        ({"strides": [(2, 2), (2, 2), (2, 2)]}, "full resolution"),
        ({"strides": [(1, 1, 1)] * 3}, "2D"),
        ({"kernel_sizes": [(3, 3), (2, 3), (3, 3)]}, "centre"),
    ],
)
def test_levels_and_modalities_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CASNet(3, 2, **(plan(2) | wrong))
