"""Layers that have forms of their own for the CPU ask here whether to use them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

CPU = "cpu"
"""Device on which layers use their forms for the CPU."""


def has_cpu_forms(x: Tensor) -> bool:
    """Whether layers use their forms for the CPU for ``x``."""
    return x.device.type == CPU


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Compute as on CUDA, on any device: for estimates of what a GPU needs."""
    global CPU
    before, CPU = CPU, ""
    try:
        yield
    finally:
        CPU = before
