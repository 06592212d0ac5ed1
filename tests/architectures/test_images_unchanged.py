"""Proves: the networks of images, which share their code with those of volumes, are those of version 0.3.0.

Names and sizes of all weights are hashed, and outputs for known weights written down. A change here makes every stored
checkpoint compute something else: it needs a version, and a sentence that refuses the old ones.
"""

import hashlib
import zlib

import pytest
import torch
from torch import Tensor, nn

from nnunet_plugins.architectures import ConDSeg, DCFFSNet, Net0

NETWORKS = {
    "DCFFSNet": lambda: DCFFSNet(3, 2, backbone="resnet18"),
    "DCFFSNet without its parts": lambda: DCFFSNet(
        3, 2, backbone="resnet18", use_dscrim=False, use_msffm=False, use_msrcm=False
    ),
    "ConDSeg": lambda: ConDSeg(3, 2, backbone="resnet18", channels=32),
    "ConDSeg's baseline": lambda: ConDSeg(
        3, 2, backbone="resnet18", channels=32, use_contrast=False, use_sa_decoder=False
    ),
    "Net0": lambda: Net0(3, 2, backbone="resnet18"),
}
EXPECTED = {
    "DCFFSNet": ("1964a85c5a7c7626", [-0.881837, 0.146617, 0.035223, 0.194369, 0.030526, 0.27439]),
    "DCFFSNet without its parts": ("88fc07cb2cfe3e25", [-0.829054, 0.122048, 0.038663, 0.194686]),
    "ConDSeg": ("a7643614c74f11c0", [0.094147, 0.178016, -0.022062, 0.04448]),
    "ConDSeg's baseline": ("9cb1491d402dca2e", [0.094113, 0.177963]),
    "Net0": ("55b398f5cc6b615d", [0.213969, 0.40642]),
}
"""The first digits of the hash, and mean and standard deviation of every output."""


def with_known_weights(network: nn.Module) -> nn.Module:
    """Draw every weight from a generator that its name seeds."""
    for name, x in network.state_dict().items():
        if isinstance(x, Tensor) and x.is_floating_point() and "running_var" not in name:
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            noise *= (x[0].numel() if x.ndim > 1 else 100) ** -0.5
            scales = ("norm" in name or "bn" in name) and name.endswith("weight")
            x.copy_(1 + noise if scales else noise)
    return network.eval()


def hash_of(network: nn.Module) -> str:
    sizes = [f"{name} {tuple(getattr(x, 'shape', ()))}\n" for name, x in network.state_dict().items()]
    return hashlib.sha256("".join(sizes).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", NETWORKS)
def test_names_sizes_and_outputs_are_those_of_before(name):
    digest, expected = EXPECTED[name]
    network = with_known_weights(NETWORKS[name]())
    assert hash_of(network) == digest
    network.deep_supervision = True
    with torch.no_grad():
        outputs = network(torch.linspace(-2, 2, 3 * 72 * 80).reshape(1, 3, 72, 80).sin())
    found = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if x is not None]
    statistics = [(float(x.mean()), float(x.std())) for x in found]
    assert [value for pair in statistics for value in pair] == pytest.approx(expected, rel=1e-3, abs=1e-4)
