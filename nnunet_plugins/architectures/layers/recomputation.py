"""Recomputation: parts of a network whose inner results are computed again in the backward pass instead of being kept.

Results, gradients and running statistics stay those of the network without it; the price is a part's second forward
pass. It is off until :func:`set_recomputation` switches it on, and without gradients it does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputable(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a module's ``forward``: while its recomputation is on, only inputs and outputs are kept.

    Parts may lie inside one another: the inner ones are computed again one by one, when the outer one is.

    Example:
        >>> class Block(nn.Sequential):
        ...     forward = recomputable(nn.Sequential.forward)
        >>> block = Block(nn.Linear(2, 2), nn.ReLU())
        >>> set_recomputation(block, True)
        1
        >>> block(torch.ones(1, 2)).sum().backward()
    """

    @wraps(forward)
    def recomputing(module: nn.Module, *inputs: Any) -> Any:
        if getattr(module, "recomputes", False) and torch.is_grad_enabled():
            return recomputed(module, forward, *inputs)
        return forward(module, *inputs)

    recomputing.recomputable = True  # type: ignore[attr-defined]
    return recomputing


def recomputed(module: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Compute ``forward(module, *inputs)``, and again in the backward pass."""
    if torch.compiler.is_compiling():  # the compiler repeats operations, not what they do to running statistics
        return checkpoint(forward, module, *inputs, use_reentrant=False)
    contexts = partial(first_and_second_pass, module)
    return checkpoint(forward, module, *inputs, use_reentrant=False, context_fn=contexts)


def first_and_second_pass(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a part's two forward passes; the second leaves its running statistics alone."""
    return nullcontext(), frozen_statistics(module)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of a module's batch normalisations from being updated."""
    tracking = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


def set_recomputation(network: nn.Module, enabled: bool) -> int:
    """Switch recomputation on or off in all parts of a network that can do it, and return their number."""
    parts = [module for module in network.modules() if hasattr(type(module).forward, "recomputable")]
    for part in parts:
        part.recomputes = enabled  # type: ignore[assignment]
    return len(parts)
