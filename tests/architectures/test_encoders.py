"""Proves: encoders are built without weights, take ImageNet weights from timm's files, and say what to do offline."""

import pytest
import timm
import torch

from nnunet_plugins.architectures.layers.encoders import load_imagenet_weights, timm_encoder
from nnunet_plugins.errors import UserError


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("ending", "in_channels"), [("pth", 3), ("pth", 1), ("safetensors", 4)])
def test_weights_come_from_the_folder_for_any_number_of_channels(weights_folder, ending, in_channels):
    source = timm.create_model("resnet18", pretrained=False).state_dict()
    if ending == "pth":
        torch.save(source, weights_folder / "resnet18.pth")
    else:
        from safetensors.torch import save_file

        save_file(source, weights_folder / "resnet18.safetensors")
    encoder, _ = timm_encoder("resnet18", in_channels)
    load_imagenet_weights(encoder, "resnet18", in_channels)
    loaded = encoder.state_dict()
    assert all(torch.equal(loaded[key], source[key]) for key in loaded if key != "conv1.weight")
    assert torch.equal(loaded["conv1.weight"], source["conv1.weight"]) == (in_channels == 3)
    if in_channels == 1:
        torch.testing.assert_close(loaded["conv1.weight"], source["conv1.weight"].sum(1, keepdim=True))


def test_missing_file_is_named(weights_folder):
    with pytest.raises(UserError, match=r"holds neither resnet18\.safetensors nor resnet18\.pth"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_broken_file_is_named(weights_folder):
    torch.save({"conv1.weight": torch.zeros(1)}, weights_folder / "resnet18.pth")
    with pytest.raises(UserError, match=r"resnet18\.pth does not hold timm's ImageNet weights of resnet18"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_both_remedies_are_named_offline(monkeypatch, tmp_path):
    monkeypatch.delenv("NNUNET_PLUGINS_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet18\.safetensors into a folder .* or train without _pretrained"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_building_an_encoder_loads_nothing(weights_folder):
    timm_encoder("resnet18", 3)  # the folder is empty: any attempt to load would raise


def test_encoder_of_the_first_features_has_no_layers_beyond_them(weights_folder):
    encoder, widths = timm_encoder("resnet18", 3, 4)
    assert widths == [64, 64, 128, 256]
    assert not [key for key in encoder.state_dict() if key.startswith("layer4")]
    source = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(source, weights_folder / "resnet18.pth")
    load_imagenet_weights(encoder, "resnet18", 3)
    assert all(torch.equal(value, source[key]) for key, value in encoder.state_dict().items())


def test_features_are_channels_first_for_any_backbone():
    encoder, widths = timm_encoder("mambaout_femto", 3)
    assert [f.shape[1] for f in encoder(torch.zeros(1, 3, 64, 96))] == widths


@pytest.mark.parametrize(("name", "num_features"), [("resnet19", 4), ("resnet18", 9)])
def test_a_backbone_that_timm_lacks_is_named(name, num_features):
    with pytest.raises(ValueError, match=f"backbone '{name}': timm makes no encoder with {num_features} feature maps"):
        timm_encoder(name, 3, num_features)
