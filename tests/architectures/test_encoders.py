"""Proves: encoders are built without weights, take ImageNet weights from timm's files, and say what to do offline."""

import re

import pytest
import timm
import torch

from nnunet_plugins.architectures import ConDSeg, DCFFSNet, DCSNet
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


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18.tv_in1k", "resnet18.tv_in1k"),
        ("resnet18.tv_in1k", "resnet18"),
        ("resnet18", "resnet18.a1_in1k"),  # timm's own choice
    ],
)
def test_files_are_found_with_and_without_the_tag_of_the_weights(weights_folder, name, stem):
    source = timm.create_model("resnet18").state_dict()
    torch.save(source, weights_folder / f"{stem}.pth")
    torch.save({}, weights_folder / "resnet18.other.pth")
    encoder, _ = timm_encoder(name, 3)
    assert load_imagenet_weights(encoder, name, 3) == str(weights_folder / f"{stem}.pth")
    assert torch.equal(encoder.state_dict()["conv1.weight"], source["conv1.weight"])


def test_the_papers_weights_are_torchvisions_first(monkeypatch):
    asked = []

    def create_model(name, **options):
        asked.append((name, options.get("pretrained")))
        raise RuntimeError("no internet")

    networks = DCFFSNet(3, 2), ConDSeg(3, 2).net0, DCSNet(3, 2)
    monkeypatch.delenv("NNUNET_PLUGINS_WEIGHTS", raising=False)
    monkeypatch.setattr(timm, "create_model", create_model)
    for network in networks:
        with pytest.raises(UserError, match="could not be downloaded"):
            load_imagenet_weights(network.encoder, network.backbone, 3)
    assert asked == [(name, True) for name in ("resnet34.tv_in1k", "resnet50.tv_in1k", "resnet50.tv_in1k")]


def test_missing_file_is_named(weights_folder):
    names = "resnet18.a1_in1k.safetensors, resnet18.a1_in1k.pth, resnet18.safetensors, resnet18.pth"
    with pytest.raises(UserError, match=f"holds none of {re.escape(names)}: put timm's ImageNet weights of resnet18"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_missing_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(UserError, match="none: there is no such folder; correct or unset the variable"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_file_with_other_names_is_refused_and_never_left_aside(weights_folder):
    source = timm.create_model("resnet18").state_dict()
    torch.save({f"module.{key}": value for key, value in source.items()}, weights_folder / "resnet18.pth")
    with pytest.raises(UserError, match=r"resnet18\.pth lacks 100 of the weights of resnet18, such as bn1\.bias: save"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


def test_file_with_other_sizes_is_named(weights_folder):
    source = timm.create_model("resnet18").state_dict()
    torch.save(source | {"conv1.weight": torch.zeros(1)}, weights_folder / "resnet18.pth")
    with pytest.raises(UserError, match=r"resnet18\.pth holds weights of another network than resnet18"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)


class RunsCode:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_file_that_would_run_code_is_refused(weights_folder, ending, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": RunsCode()}, weights_folder / f"resnet18.{ending}")
    with pytest.raises(UserError, match=rf"resnet18\.{ending} cannot be read as weights alone"):
        load_imagenet_weights(timm_encoder("resnet18", 3)[0], "resnet18", 3)
    assert not (tmp_path / "ran").exists()


def test_both_remedies_are_named_offline(monkeypatch, tmp_path):
    monkeypatch.delenv("NNUNET_PLUGINS_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"torch\.save as resnet18\.pth, .* or train without _pretrained"):
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
