"""Proves for every network: recomputation changes neither outputs, gradients and running statistics nor inference."""

import pytest
import torch
from contract.test_network import SIZES, build, tensors, training_input
from torch import Tensor, nn

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.layers import recomputation
from nnunet_plugins.architectures.layers.recomputation import set_recomputation

pytestmark = pytest.mark.usefixtures("planned")


def training_step(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, gradients and buffers after a step."""
    torch.manual_seed(1)
    outputs = tensors(network(training_input(network, x)))
    sum(output.float().square().mean() for output in outputs if output.requires_grad).backward()
    return [*outputs, *(p.grad for p in network.parameters() if p.grad is not None), *network.buffers()]


def test_step_is_the_same_with_recomputation(outputs_and_dimensions):
    name, dimensions = outputs_and_dimensions
    results = []
    for recompute in (False, True):
        network = build(name, SIZES[dimensions], training=True)
        names = list(network.state_dict())
        assert set_recomputation([network], recompute)
        x = torch.randn(2, 3, *SIZES[dimensions], generator=torch.Generator().manual_seed(0))
        results.append([training_step(network, x), training_step(network, x)])
        assert list(network.state_dict()) == names
    for without, recomputed in zip(*results, strict=True):
        assert len(without) == len(recomputed) > 0
        assert all(torch.equal(a, b) for a, b in zip(without, recomputed, strict=True))


def test_inference_recomputes_nothing(outputs_and_dimensions, monkeypatch):
    name, dimensions = outputs_and_dimensions
    network = build(name, SIZES[dimensions], training=False)
    set_recomputation([network], True)
    monkeypatch.setattr(recomputation, "checkpoint", lambda *args, **kwargs: pytest.fail("it recomputes"))
    for training in (True, False):
        with torch.inference_mode():
            network.train(training)(torch.randn(2, 3, *SIZES[dimensions]))


def test_recomputation_can_be_compiled(outputs_and_dimensions):
    name, dimensions = outputs_and_dimensions
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        network = build(name, SIZES[dimensions], training=True)
        set_recomputation([network], True)
        x = torch.randn(2, 3, *SIZES[dimensions], generator=torch.Generator().manual_seed(0))
        forward = network
        if compiled:
            forward = torch.compile(network, backend="aot_eager", fullgraph=not isinstance(network, DCSNet))
        torch.manual_seed(1)
        outputs = tensors(forward(training_input(network, x)))
        sum(output.float().square().mean() for output in outputs if output.requires_grad).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        results.append([*outputs, *gradients, *network.buffers()])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-2, atol=1e-3)
