"""Recomputation: parts of a network whose inner results are computed again in the backward pass instead of being kept.

Results, gradients and running statistics stay those of the network without it; the price is a part's second forward
pass. It is off until :func:`set_recomputation` switches it on, and without gradients it does nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputable(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a module's ``forward`` or another method: while recomputation is on, it keeps inputs and outputs only.

    Parts may lie inside one another: the inner ones are computed again one by one, when the outer one is.

    Example:
        >>> block = Recomputable(nn.Linear(2, 2), nn.ReLU())
        >>> set_recomputation([block], True)
        True
        >>> block(torch.ones(1, 2)).sum().backward()
    """

    @wraps(forward)
    def recomputing(module: nn.Module, *inputs: Any) -> Any:
        if getattr(module, "recomputes", False) and torch.is_grad_enabled():
            return recomputed(module, forward, *inputs)
        return forward(module, *inputs)

    # A copy for each method: the compiler would count all as one, and give it up after a few.
    recomputing.__code__ = recomputing.__code__.replace()  # type: ignore[attr-defined]
    recomputing.recomputable = True  # type: ignore[attr-defined]
    return recomputing


class Recomputable(nn.Sequential):
    """Modules one after the other, whose results between them can be recomputed."""

    forward = recomputable(nn.Sequential.forward)


class RecomputableBlocks(nn.Sequential):
    """Modules one after the other, each of which can be recomputed by itself."""

    recomputes = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            again = self.recomputes and torch.is_grad_enabled()
            x = recomputed(block, nn.Module.__call__, x) if again else block(x)
        return x


def make_blocks_recomputable(network: nn.Module) -> None:
    """Make the outermost sequences of blocks in a network recomputable, under the same names.

    Sequences of single layers are left alone: a layer that works in place would spoil what it is recomputed from.
    """
    for name, child in network.named_children():
        if type(child) is nn.Sequential and all(any(block.children()) for block in child):
            setattr(network, name, RecomputableBlocks(OrderedDict(child._modules)))
        else:
            make_blocks_recomputable(child)


def recomputed(module: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Compute ``forward(module, *inputs)``, and again in the backward pass.

    A compiler repeats operations, not what they do to running statistics, but only where it compiles a part as a whole.
    Synchronised batch normalisation, which reads the processes' batch sizes, breaks a part into several.
    """
    if torch.compiler.is_compiling() and not any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
        return checkpoint(forward, module, *inputs, use_reentrant=False)
    return recomputed_eagerly(module, forward, *inputs)


@torch.compiler.disable(recursive=False)
def recomputed_eagerly(module: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Compute a part twice without a compiler, which may compile what the part consists of."""
    contexts = partial(first_and_second_pass, module)
    return checkpoint(forward, module, *inputs, use_reentrant=False, context_fn=contexts)


def first_and_second_pass(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a part's two forward passes; the second leaves its running statistics alone."""
    return nullcontext(), FrozenStatistics(module)


class FrozenStatistics(AbstractContextManager):
    """Context in which batch normalisations update copies of their running statistics, which are then dropped.

    It can be entered again, for a second backward pass through the same part.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.kept: list[tuple[nn.Module, dict[str, Tensor | None]]] = []

    def __enter__(self) -> None:
        norms = [m for m in self.module.modules() if isinstance(m, _BatchNorm)]
        self.kept = [(norm, dict(norm._buffers)) for norm in norms]
        for norm in norms:
            norm._buffers.update({name: x if x is None else x.clone() for name, x in norm._buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in self.kept:
            norm._buffers.update(buffers)
        self.kept = []


def set_recomputation(modules: Iterable[Any], enabled: bool) -> bool:
    """Switch recomputation on or off in all parts of networks and losses, and tell whether there is such a part.

    A loss that is no module has none.
    """
    wholes = [module for module in modules if isinstance(module, nn.Module)]
    parts = [part for whole in wholes for part in whole.modules() if can_recompute(type(part))]  # type: ignore[arg-type]
    for part in parts:
        part.recomputes = enabled  # type: ignore[assignment]
    return bool(parts)


def is_recomputing(network: nn.Module) -> bool:
    """Whether recomputation is on in any part of a network."""
    return any(getattr(part, "recomputes", False) for part in network.modules())


@cache
def can_recompute(kind: type) -> bool:
    """Whether a class of modules is made of recomputable blocks, or one of its methods is :func:`recomputable`."""
    methods = (method for base in kind.__mro__ for method in vars(base).values())
    return hasattr(kind, "recomputes") or any(hasattr(method, "recomputable") for method in methods)
