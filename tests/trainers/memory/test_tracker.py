"""Proves: the tracker counts every piece of memory once, while it exists, as torch's own tracker does."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.trainers.memory.tracker import MemoryTracker

KIB = 1024


def test_memory_counts_while_it_exists():
    with MemoryTracker() as memory:
        x = torch.zeros(256)
        assert memory.now == KIB
        y = x + 1
        assert memory.now == 2 * KIB
        del x
        assert memory.now == KIB
        z = y * 2
    assert (memory.now, memory.peak) == (2 * KIB, 2 * KIB)
    del y, z
    assert (memory.now, memory.peak) == (0, 2 * KIB)


def test_views_and_changes_in_place_share_memory():
    with MemoryTracker() as memory:
        x = torch.zeros(16, 16)
        views = [x[1], x.T, x.view(256), x.add_(1)]
    assert memory.now == KIB and len(views) == 4


def test_peak_can_be_counted_anew():
    with MemoryTracker() as memory:
        x = torch.zeros(256)
        del x
        memory.reset_peak()
        y = torch.zeros(128)
    assert memory.peak == memory.now == y.nbytes


def test_what_autograd_saves_counts_until_it_is_used():
    with MemoryTracker() as memory:
        x = torch.zeros(256, requires_grad=True)
        y = x.exp()  # keeps its result
        loss = y.sum()
        del y
        assert memory.now == 2 * KIB + 4
        loss.backward()
        del loss
        assert memory.now == 2 * KIB  # x and its gradient


def training_step(network: nn.Module, x: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(x).float().softmax(1).square().mean()
    loss.backward()


def test_peak_of_a_step_is_that_of_torchs_own_tracker():
    peaks = []
    for tracker in (MemTracker(), MemoryTracker()):
        with FakeTensorMode():
            network = DLKUNet(1, 2, variant="S", base_channels=16)
            x = torch.zeros(2, 1, 64, 64)
            with tracker:
                if isinstance(tracker, MemTracker):
                    tracker.track_external(network, x)
                    training_step(network, x)
                    snapshot = tracker.get_tracker_snapshot("peak")
                    peaks.append(next(iter(snapshot.values()))["Total"])
                else:
                    for tensor in (*network.parameters(), *network.buffers(), x):
                        tracker.count(tensor)
                    training_step(network, x)
                    peaks.append(tracker.peak)
    theirs, ours = peaks
    assert abs(ours - theirs) < 0.02 * theirs
