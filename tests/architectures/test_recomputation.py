"""Proves: recomputed parts keep only inputs and outputs, compute what they computed, and count a batch once."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.recomputation import (
    Recomputable,
    RecomputableBlocks,
    make_blocks_recomputable,
    recomputable,
    set_recomputation,
)
from nnunet_plugins.trainers.memory.tracker import MemoryTracker

BACKBONES = ("resnet18d", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "nfnet_l0", "seresnet33ts")


def results_of_a_step(network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(output.square().mean() for output in outputs).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [*(output.detach() for output in outputs), *gradients, *(buffer.clone() for buffer in network.buffers())]


def assert_step_is_the_same(network: nn.Module, x: Tensor) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    results = []
    for recompute in (False, True):
        network.load_state_dict(state)
        assert set_recomputation([network], recompute)
        results.append(results_of_a_step(network.train(), x))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoders_of_other_families_recompute_exactly(backbone):
    torch.manual_seed(0)
    assert_step_is_the_same(timm_encoder(backbone, 2)[0], torch.randn(2, 2, 64, 64))


def test_parts_within_parts_and_random_layers_recompute_exactly():
    torch.manual_seed(0)

    def part(*modules: nn.Module) -> nn.Module:
        return Recomputable(*modules, nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(inplace=True))

    inner = part(nn.Conv2d(4, 4, 3, padding=1))
    assert_step_is_the_same(part(part(nn.Conv2d(2, 4, 1), inner), nn.Conv2d(4, 4, 1)), torch.randn(3, 2, 8, 8))


def test_only_inputs_and_outputs_are_kept():
    network = Recomputable(*(layer for _ in range(5) for layer in (nn.Conv1d(1, 1, 1), nn.Tanh())))
    x = torch.randn(2, 1, 256, requires_grad=True)
    kept = []
    for recompute in (False, True):
        set_recomputation([network], recompute)
        with MemoryTracker() as memory:
            y = network(x)
            kept.append(memory.now / y.nbytes)
    assert kept == [5, 1]  # after every tanh; the result


def test_second_pass_counts_no_batch():
    passes = []

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3, momentum=0.5)

        @recomputable
        def forward(self, x: Tensor) -> Tensor:
            passes.append(self.norm.running_mean)
            return self.norm(x).exp()

    part = Part()
    set_recomputation([part], True)
    x = torch.randn(8, 3)
    part(x).sum().backward()
    assert len(passes) == 2 and passes[0] is part.norm.running_mean and passes[1] is not passes[0]
    assert part.norm.num_batches_tracked == 1
    torch.testing.assert_close(part.norm.running_mean, 0.5 * x.mean(0))


def test_graph_can_be_run_backward_twice():
    network = Recomputable(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh())
    set_recomputation([network], True)
    loss = network(torch.randn(8, 3)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert network[1].num_batches_tracked == 1


class BrokenSyncBatchNorm(nn.SyncBatchNorm):
    """Normalisation that the compiler cannot compile as a whole, as the synchronised one on several GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        torch._dynamo.graph_break()
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


def test_compiled_part_with_synchronised_statistics_counts_a_batch_once():
    torch.compiler.reset()
    torch.manual_seed(0)
    x, results = torch.randn(8, 3), []
    for compiled in (False, True):
        torch.manual_seed(1)
        network = Recomputable(nn.Linear(3, 3), BrokenSyncBatchNorm(3), nn.Tanh())
        set_recomputation([network], True)
        forward = torch.compile(network, backend="aot_eager") if compiled else network
        forward(x).sum().backward()
        results.append([*network.buffers(), *(p.grad for p in network.parameters())])
        assert network[1].num_batches_tracked == 1
    torch.testing.assert_close(*results)


def test_statistics_come_back_after_an_error_in_the_second_pass():
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.passes = 0

        @recomputable
        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            if self.passes == 2:
                raise RuntimeError("out of memory")
            return self.norm(x).exp()

    part = Part()
    mean = part.norm.running_mean
    set_recomputation([part], True)
    with pytest.raises(RuntimeError, match="out of memory"):
        part(torch.randn(8, 3)).sum().backward()
    assert part.norm.running_mean is mean


def test_sequences_of_single_layers_are_left_alone():
    network = nn.Module()
    network.stem = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
    blocks = {"first": nn.Sequential(nn.Conv2d(2, 2, 1)), "second": nn.Sequential(nn.Conv2d(2, 2, 1))}
    network.stage = nn.Sequential(OrderedDict(blocks))  # timm names the blocks of some encoders
    names = list(network.state_dict())
    make_blocks_recomputable(network)
    assert type(network.stem) is nn.Sequential and type(network.stage) is RecomputableBlocks
    assert list(network.state_dict()) == names


def test_what_cannot_recompute_says_so():
    assert not set_recomputation([nn.Linear(1, 1), lambda outputs, targets: 0], True)
