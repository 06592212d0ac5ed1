"""Proves: the attentions on feature maps compute their formulas, attend whatever the patch, and refuse old weights."""

import copy
import math
import pickle

import pytest
import torch
from support.references import randomise
from torch import nn
from torch.nn import functional as F

from nnunet_plugins.architectures import DCFFSNet
from nnunet_plugins.architectures.layers.attention import ChannelAttention, ChannelGate, SpatialAttention, SpatialGate
from nnunet_plugins.errors import UserError


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_of_each_group_equals_the_plain_formula(groups):
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    spatial, channel = (
        randomise(SpatialAttention(nn.Conv2d, 16, groups, reduction=2)),
        randomise(ChannelAttention(groups)),
    )
    projected = [p(x).chunk(groups, 1) for p in (spatial.query, spatial.key, spatial.value)]
    expected_spatial, expected_channel = [], []
    for query, key, value, group in zip(*projected, x.chunk(groups, 1), strict=True):
        q, k, v = query.flatten(2), key.flatten(2), value.flatten(2)  # (B, c, H*W)
        affinity = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)  # (B, H*W, H*W)
        expected_spatial.append(group + spatial.gamma * (v @ affinity.transpose(1, 2)).view_as(group))
        flat = group.flatten(2)
        lengths = flat.square().sum(2, keepdim=True).sqrt()
        cosines = flat @ flat.transpose(1, 2) / (lengths * lengths.transpose(1, 2))  # (B, c, c)
        affinity = torch.softmax(cosines * channel.log_scale[len(expected_channel)].exp(), -1)
        expected_channel.append(group + channel.gamma * (affinity @ flat).view_as(group))
    torch.testing.assert_close(spatial(x), torch.cat(expected_spatial, 1))
    torch.testing.assert_close(channel(x), torch.cat(expected_channel, 1))


# ---- channels attend whatever the patch ------------------------------------------------------------------------------

POSITIONS = {49: (7, 7), 256: (16, 16), 768: (24, 32)}
"""Size of the bottleneck's maps for images of 224 x 224, 512 x 512 and 768 x 1024."""
REFERENCE = 0.66  # of the reference code at 224 x 224; a plain mean has 1, a copy 0


def entropy_of_weights(attention: ChannelAttention, x: torch.Tensor) -> float:
    """Entropy of each channel's weights, divided by that of equal weights; mean over the channels."""
    with torch.no_grad():
        query, key = attention.directions(x.unflatten(1, (attention.groups, -1)).flatten(3))
    weights = (query @ key.transpose(-1, -2)).softmax(-1)
    return float(torch.special.entr(weights).sum(-1).mean() / math.log(weights.shape[-1]))


@pytest.fixture(scope="module")
def dcffsnet() -> DCFFSNet:
    torch.manual_seed(0)
    return DCFFSNet(3, 1)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_channels_attend_as_in_the_reference_code_whatever_the_patch(dcffsnet, positions, training):
    """In an untrained DCFFSNet, on smooth images, as pictures are."""
    torch.manual_seed(1)
    height, width = POSITIONS[positions]
    images = F.interpolate(torch.randn(2, 3, 2 * height, 2 * width), scale_factor=16, mode="bilinear")
    attention = dcffsnet.dscrim.channel_attention[1]
    seen = []
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        dcffsnet.train(training).dscrim(dcffsnet.encoder(images)[-1])
    hook.remove()
    assert seen[0].shape[2:] == (height, width)
    assert entropy_of_weights(attention, seen[0]) == pytest.approx(REFERENCE, abs=0.08)


def test_the_scale_of_channel_attention_is_learned_for_each_group():
    attention = ChannelAttention(2)
    attention.gamma.data.fill_(1.0)
    attention(torch.rand(2, 16, 5, 6)).square().mean().backward()
    assert attention.log_scale.grad.shape == (2, 1, 1) and attention.log_scale.grad.all()
    attention.log_scale.data.fill_(50.0)
    (query, key), x = attention.directions(torch.rand(1, 2, 8, 30)), torch.rand(1, 16, 5, 6)
    assert (query / key).amax().item() == pytest.approx(100, rel=1e-3)
    assert attention(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_channels_of_large_numbers_attend_in_half_precision(dtype):
    """Sums of their products are far above the largest number of float16, 65504."""
    torch.manual_seed(0)
    attention = ChannelAttention(2)
    attention.gamma.data.fill_(1.0)
    x = (3e3 * torch.rand(2, 16, 16, 16)).to(dtype)
    exact = attention(x.float())
    half = attention.to(dtype)(x)
    assert half.dtype == dtype and half.isfinite().all()
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=20)


def test_channel_attention_is_exported_and_compiled_whole():
    attention, x = ChannelAttention(2), torch.rand(2, 16, 5, 6)
    attention.gamma.data.fill_(1.0)
    expected = attention(x)
    torch.testing.assert_close(torch.export.export(attention, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.compile(attention, backend="eager", fullgraph=True)(x), expected)


def test_a_channel_without_signal_attends_without_nan():
    attention = ChannelAttention()
    attention.gamma.data.fill_(1.0)
    x = torch.rand(1, 4, 3, 3)
    x[:, 1] = 0
    attention(x.requires_grad_()).sum().backward()
    assert x.grad.isfinite().all()


# ---- checkpoints of older versions -----------------------------------------------------------------------------------


def of_version_020(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights as version 0.2.0 left them: without the scale."""
    return {name: x for name, x in module.state_dict().items() if not name.endswith("log_scale")}


def narrow_dcffsnet(**options: bool) -> DCFFSNet:
    return DCFFSNet(1, 2, backbone="resnet10t", decoder_channels=(16, 16, 16, 8, 16), **options)


def test_weights_of_version_020_are_refused_with_the_version_named():
    network = copy.deepcopy(narrow_dcffsnet())
    with pytest.raises(
        UserError, match=r"no 'dscrim.channel_attention.1.log_scale': it was trained by nnunet_plugins 0\.2\.0"
    ):
        network.load_state_dict(of_version_020(network))
    network.load_state_dict(network.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})  # of another network


def test_weights_of_version_020_without_channel_attention_are_loaded():
    network = narrow_dcffsnet(use_dscrim=False)
    assert list(of_version_020(network)) == list(network.state_dict())
    network.load_state_dict(of_version_020(network))


def test_a_refusal_survives_pickling():
    network = pickle.loads(pickle.dumps(ChannelAttention(2)))
    with pytest.raises(UserError, match=r"0\.2\.0, whose ChannelAttention is another"):
        network.load_state_dict({"gamma": torch.zeros(1)})


# ---- gates -----------------------------------------------------------------------------------------------------------


def test_gates_weigh_by_mean_and_maximum():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 6)
    channel, spatial = ChannelGate(nn.Conv2d, 16), SpatialGate(nn.Conv2d)
    first, second = channel.mlp[0].weight[:, :, 0, 0], channel.mlp[2].weight[:, :, 0, 0]
    pooled = [x.flatten(2).mean(2), x.flatten(2).max(2).values]
    weights = sum(F.relu(p @ first.T) @ second.T for p in pooled).sigmoid()
    torch.testing.assert_close(channel(x), x * weights[:, :, None, None])
    maps = torch.stack([x.mean(1), x.max(1).values], 1)
    torch.testing.assert_close(spatial(x), x * F.conv2d(maps, spatial.conv.weight, padding=3).sigmoid())
