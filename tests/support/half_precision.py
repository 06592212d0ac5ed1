"""Training steps in mixed precision with data in them, without a GPU.

A CPU's autocast, with CUDA's rules for what stays float32, and a gradient scaler of a fixed scale.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from nnunet_plugins.trainers.memory.half_precision import COMPUTED_IN_FLOAT32, RESULT_IN_FLOAT32

INITIAL_SCALE = 65536.0
"""Scale with which nnU-Net's gradient scaler begins."""


class CudaRules(TorchFunctionMode):
    """Functions that CUDA's autocast computes in float32, computed so under a CPU's, of either half precision."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RESULT_IN_FLOAT32 | COMPUTED_IN_FLOAT32:
            args, kwargs = tree_map_only(Tensor, self.in_float32, (args, kwargs))
        return func(*args, **kwargs)

    def in_float32(self, x: Tensor) -> Tensor:
        return x.float() if x.dtype == self.dtype and torch.is_autocast_enabled("cpu") else x


@contextmanager
def mixed_precision(dtype: torch.dtype) -> Iterator[None]:
    """Autocast to ``dtype``, or, for float32, none."""
    if dtype == torch.float32:
        yield
    else:
        with torch.autocast("cpu", dtype), CudaRules(dtype):
            yield


class FixedScaler:
    """Gradient scaler of nnU-Net's steps that keeps its scale, remembers the gradients and takes no step.

    Attributes:
        gradients: of every parameter by its name, without the scale; those that overflowed are not finite.
    """

    def __init__(self, network: nn.Module, scale: float = INITIAL_SCALE):
        self.network = network
        self.factor = scale
        self.gradients: dict[str, Tensor] = {}

    def scale(self, loss: Tensor) -> "ScaledLoss":
        return ScaledLoss(loss * self.factor)

    def unscale_(self, optimizer: Any) -> None:
        parameters = self.network.named_parameters()
        self.gradients = {name: p.grad / self.factor for name, p in parameters if p.grad is not None}

    def step(self, optimizer: Any) -> None:
        """Leave the weights alone."""

    def update(self) -> None:
        """Keep the scale."""


class ScaledLoss:
    """Loss whose backward pass runs outside autocast, as in nnU-Net's steps."""

    def __init__(self, loss: Tensor):
        self.loss = loss

    def backward(self) -> None:
        torch.clear_autocast_cache()
        with torch.autocast("cpu", enabled=False):
            self.loss.backward()
