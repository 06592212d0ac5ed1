"""Proves: a network's file computes what the network computes, for any number of images, and holds no pickle."""

import pickletools
import re
import zipfile

import pytest
import torch
from torch import nn

from nnunet_plugins.architectures import ConDSeg, DCFFSNet
from nnunet_plugins.architectures.layers.scales import EncoderPlan
from nnunet_plugins.errors import UserError
from nnunet_plugins.export import formats


class Network(nn.Module):
    """A network of one convolution, and a part of its own behind it."""

    def __init__(self, part=None):
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3, padding=1)
        self.part = part or (lambda x: x)

    def forward(self, x):
        return self.part(self.convolution(x))


@pytest.mark.parametrize("name", formats.FORMATS)
def test_file_computes_the_networks_logits_for_any_number_of_images(name, tmp_path):
    network, path = Network().eval(), tmp_path / f"network.{name}"
    assert formats.write_network(name, network, (2, 6, 8), path) < 1e-5
    for number in (1, 2, 5):
        images = torch.randn(number, 2, 6, 8)
        torch.testing.assert_close(formats.FORMATS[name].run(path, images), network(images), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", formats.FORMATS)
def test_votes_of_connectivity_can_be_exported(name, tmp_path):
    """DCFFSNet votes in float32, which is a region of its own in the exported program."""
    network = DCFFSNet(1, 2, backbone="resnet10t", decoder_channels=(8,) * 5).eval()
    assert formats.write_network(name, network, (1, 32, 32), tmp_path / f"network.{name}") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DCFFSNet, ConDSeg])
def test_networks_of_volumes_can_be_exported(kind, tmp_path):
    plan = EncoderPlan([(1, 1, 1), (2, 2, 2), (2, 2, 2)], [(3, 3, 3)] * 3, [8, 16, 24])
    network = kind(1, 2, plan=plan).eval()
    assert formats.write_network("onnx", network, (1, 8, 12, 8), tmp_path / "network.onnx") < 1e-4


def test_pt2_file_holds_no_pickle(tmp_path):
    path, network = tmp_path / "network.pt2", Network().eval()
    for parameter in network.parameters():
        torch.nn.init.ones_(parameter)  # of random numbers, one in 256 begins with the byte that ends a pickle
    formats.write_network("pt2", network, (2, 6, 8), path)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with pytest.raises(Exception):  # noqa: B017 (pickletools raises whatever the first wrong byte leads to)
                list(pickletools.genops(archive.read(name)))


@pytest.mark.parametrize("name", formats.FORMATS)
def test_network_that_the_format_cannot_express_is_refused(name, tmp_path):
    network = Network(lambda x: x if x.sum() > 0 else -x).eval()
    with pytest.raises(UserError, match=rf"^Network cannot be exported to {name} \(.+\): try --format "):
        formats.write_network(name, network, (2, 6, 8), tmp_path / "network")


def test_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    network, other = Network().eval(), formats.FORMATS["onnx"].run
    wrong = formats.FORMATS["onnx"]._replace(run=lambda path, images: other(path, images) + 0.01)
    monkeypatch.setitem(formats.FORMATS, "onnx", wrong)
    with pytest.raises(UserError, match=r"file of Network differs from torch by 0\.01, but 0\.0001 is allowed"):
        formats.write_network("onnx", network, (2, 6, 8), tmp_path / "network.onnx")


@pytest.mark.parametrize(("name", "version"), [("onnx", "2.5.1+cu124"), ("pt2", "2.6.0")])
def test_torch_that_is_too_old_is_to_be_updated(name, version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(UserError, match=f"torch {re.escape(version)} cannot write {name}: update it to 2"):
        formats.require(name)


def test_torch_that_would_pickle_the_weights_is_to_be_updated(tmp_path, monkeypatch):
    def save(program, path):
        torch.save(program.state_dict, tmp_path / "weights")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "weights")

    monkeypatch.setattr(torch.export, "save", save)
    with pytest.raises(UserError, match="pickles the weights in pt2 files: update it"):
        formats.write_network("pt2", Network().eval(), (2, 6, 8), tmp_path / "network.pt2")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match="onnxscript is not installed: pip install onnx onnxscript onnxruntime"):
        formats.require("onnx")
    formats.require("pt2")
