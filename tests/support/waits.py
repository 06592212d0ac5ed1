"""A counter of the points at which the host would wait for a GPU, without one.

Fake tensors alone refuse every operation whose result, or whose shape, only values tell: ``item``, ``nonzero``,
indexing with a mask, non-maximum suppression. What they let pass are copies, and those are counted here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class Waits(TorchDispatchMode):
    """Counter of copies from a fake CUDA device, and of those to it that block."""

    def __init__(self) -> None:
        super().__init__()
        self.from_device = 0
        self.to_device = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in COPIES:
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            non_blocking = (kwargs or {}).get("non_blocking", True in args[2:3])
            match source.device.type, result.device.type:
                case "cuda", "cpu":
                    self.from_device += 1
                case "cpu", "cuda" if not non_blocking:
                    self.to_device += 1
        elif func.overloadpacket is torch.ops.aten._local_scalar_dense:  # of a tensor whose value is known here
            self.from_device += any(x.is_cuda for x in tree_leaves(args) if isinstance(x, torch.Tensor))
        return result


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """Count waits of what runs on tensors without data; anything that needs their values raises."""
    with FakeTensorMode(), Waits() as waits:
        yield waits
