"""Proves: TimmUNet is the U-Net that people know, takes other backbones, and refuses those that it cannot decode."""

import pytest
import torch
from torch import nn

from nnunet_plugins.architectures import TimmUNet
from nnunet_plugins.architectures.layers.resize import upsample


def test_size_is_that_of_the_u_net_of_segmentation_models_pytorch():
    with torch.device("meta"):
        network = TimmUNet(3, 1, num_outputs=4)
    assert number_of(network.encoder) == 21_284_672  # ResNet-34 without its classifier
    theirs, head = 24_436_369, 3 * 3 * 16 + 1  # of Unet("resnet34", encoder_weights=None)
    assert number_of(network.encoder) + number_of(network.decoder.levels) == theirs - head
    assert [layer.in_channels for layer in network.decoder.seg_layers] == [16, 32, 64, 128]


def number_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_level_sees_the_one_below_and_the_encoder():
    network = TimmUNet(3, 2, deep_supervision=True, backbone="resnet18").eval()
    x = torch.randn(1, 3, 64, 96)
    features = network.encoder(x)
    decoded, expected = features[-1], []
    for level, skip in zip(network.decoder.levels, [*features[-2::-1], None], strict=True):
        parts = [upsample(decoded, 2)] if skip is None else [upsample(decoded, 2), skip]
        decoded = level.convolutions(torch.cat(parts, 1))
        expected.insert(0, decoded)
    for logits, head, map_ in zip(network(x), network.decoder.seg_layers, expected, strict=True):
        torch.testing.assert_close(logits, head(map_))


def test_a_backbone_without_a_map_at_half_size_has_a_level_without_skip():
    network = TimmUNet(1, 2, deep_supervision=True, backbone="test_convnext", decoder_channels=(16, 16, 16, 16, 16))
    assert list(network.encoder.feature_info.reduction()) == [4, 8, 16, 32]
    assert [tuple(o.shape[2:]) for o in network(torch.randn(2, 1, 64, 64))] == [(n, n) for n in (64, 32, 16, 8, 4)]


def test_images_of_any_size_come_back_in_it():
    network = TimmUNet(3, 2, deep_supervision=True, num_outputs=2, backbone="resnet18")
    assert [tuple(o.shape[2:]) for o in network(torch.randn(2, 3, 45, 70))] == [(45, 70), (23, 35)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_channels": (32, 16)}, r"decoder_channels=\(32, 16\): expected 5 numbers, one for each halving of"),
        ({"num_outputs": 0}, "num_outputs=0: expected 1 to 5, the levels of the decoder"),
        ({"num_outputs": 6}, "num_outputs=6: expected 1 to 5, the levels of the decoder"),
        ({"backbone": "vit_tiny_patch14_test"}, "timm makes no encoder"),
    ],
)
def test_what_does_not_fit_together_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TimmUNet(3, 2, **{"backbone": "resnet18"} | options)


def test_encoder_is_initialised_as_timm_does():
    torch.manual_seed(0)
    weight = TimmUNet(3, 2).encoder.layer4[0].conv1.weight
    assert float(weight.std()) == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.05)
