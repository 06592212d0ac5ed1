"""Counting of the memory that tensors take, with or without data in them."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """Context that counts the bytes of all tensors that operations in it make, until they are gone.

    Tensors that share their memory count once. It sees every operation, those of the backward pass too, and so what
    autograd saves, what recomputation brings back and what exists for a moment only. It does not see what a kernel
    takes while it runs.

    Attributes:
        now: bytes of the tensors that exist.
        peak: most bytes that existed at once since the start or :meth:`reset_peak`.

    Example:
        >>> import torch
        >>> with MemoryTracker() as memory:
        ...     x = torch.zeros(256) + torch.ones(256)
        >>> memory.now, memory.peak
        (1024, 3072)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's memory unless it is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def forget(_: weakref.ref) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)

    def reset_peak(self) -> None:
        self.peak = self.now
