"""Proves: under our rules a CPU keeps as many bytes of a forward pass as CUDA's own autocast."""

from collections.abc import Callable

import pytest
import torch
from contract.test_network import tensors
from support.fake_cuda import fake_cuda_autocast
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from nnunet_plugins.architectures import CASNet, ConDSeg, DCFFSNet, DLKUNet
from nnunet_plugins.architectures.layers.devices import as_on_cuda
from nnunet_plugins.trainers.memory.half_precision import half_precision_as_on_cuda
from nnunet_plugins.trainers.memory.tracker import MemoryTracker

STAGES = {"strides": [(1, 1), (2, 2), (2, 2)], "kernel_sizes": [(3, 3)] * 3, "features_per_stage": [32, 64, 64]}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "CASNet": lambda: CASNet(2, 3, conv_op=nn.Conv2d, **STAGES),
    "ConDSeg": lambda: ConDSeg(2, 3, backbone="resnet18", channels=32, deep_supervision=True),
    "DCFFSNet": lambda: DCFFSNet(2, 3, backbone="resnet18", deep_supervision=True),
    "DLKUNet": lambda: DLKUNet(2, 3, variant="S"),
}


def bytes_kept(network: Callable[[], nn.Module]) -> int:
    # A fake GPU has none of the kernels that keep no matrix of all pairs of tokens.
    with sdpa_kernel(SDPBackend.MATH), MemoryTracker() as memory:
        made, x = network(), torch.zeros(2, 2, 128, 128)
        outputs = tensors(made(x))
        assert outputs
        return memory.now


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_keeps_as_many_bytes_as_under_cudas_autocast(name):
    with fake_cuda_autocast():
        on_cuda = bytes_kept(NETWORKS[name])
    with FakeTensorMode(), as_on_cuda(), half_precision_as_on_cuda():
        on_cpu = bytes_kept(NETWORKS[name])
    assert on_cpu == pytest.approx(on_cuda, rel=0.02)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "sum": lambda x: x.sum(1),
    "group_norm": lambda x: F.group_norm(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "exp": torch.exp,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "mean": lambda x: x.mean(1),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.zeros(1, 8, 8, dtype=torch.long, device=x.device)),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_with_logits(x, x.detach().float()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_return_the_dtypes_of_cudas_autocast(name):
    with fake_cuda_autocast():
        on_cuda = FUNCTIONS[name](torch.zeros(1, 4, 8, 8, dtype=torch.float16)).dtype
    with half_precision_as_on_cuda():
        on_cpu = FUNCTIONS[name](torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)).dtype
    assert (on_cpu == torch.float32) == (on_cuda == torch.float32)


def test_backward_pass_runs_outside_autocast_but_repeats_forward_passes_inside():
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), x.bfloat16().softmax(0).dtype))
        return (x * 2).relu()

    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda gradient: seen.append(torch.is_autocast_enabled("cpu")))
    with half_precision_as_on_cuda():
        torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=False).sum().backward()
    assert seen == [(True, torch.float32), (True, torch.float32), False]
    assert torch.equal(x.grad, torch.full((3,), 2.0))
