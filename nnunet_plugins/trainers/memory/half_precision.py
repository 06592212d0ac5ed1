"""CUDA's rules of mixed precision, for tensors on a CPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

HALF = torch.bfloat16
"""Half precision of a CPU's autocast: as many bytes as CUDA's float16."""

RESULT_IN_FLOAT32 = {"cumprod", "cumsum", "log_softmax", "prod", "softmax", "sum", "vector_norm"}
"""Functions of half-precision tensors that CUDA's autocast lets return float32."""

COMPUTED_IN_FLOAT32 = {
    "binary_cross_entropy_with_logits",
    "cosine_similarity",
    "cross_entropy",
    "exp",
    "group_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "log",
    "logsumexp",
    "mse_loss",
    "nll_loss",
    "norm",
    "pow",
    "reciprocal",
    "rsqrt",
    "smooth_l1_loss",
    "softplus",
}
"""Functions before which CUDA's autocast converts half-precision tensors to float32."""


class CudaRules(TorchFunctionMode):
    """Functions that CUDA's autocast computes in float32, computed so under a CPU's.

    A CPU's autocast converts the same convolutions and matrix products to half precision, but leaves softmax, sums and
    interpolation alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and args[0].dtype == HALF and torch.is_autocast_enabled("cpu"):
            if name in RESULT_IN_FLOAT32 and kwargs.get("dtype") is None:
                kwargs = {**kwargs, "dtype": torch.float32}
            elif name in COMPUTED_IN_FLOAT32:
                args, kwargs = tree_map_only(Tensor, in_float32, (args, kwargs))
        if func is Tensor.backward:
            torch.clear_autocast_cache()  # nnU-Net has left autocast before the backward pass
            with self, torch.autocast("cpu", enabled=False):  # on again in the forward passes that are repeated here
                return run_backward(*args, **kwargs)
        return func(*args, **kwargs)


def run_backward(
    root: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Do what ``root.backward()`` does, without the check for modes that its public function begins with."""
    gradient = torch.ones_like(root) if gradient is None else gradient
    keep_graph = create_graph if retain_graph is None else retain_graph
    options = {"allow_unreachable": True, "accumulate_grad": True}
    _engine_run_backward((root,), (gradient,), keep_graph, create_graph, tuple(inputs or ()), **options)


def in_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype == HALF else x


@contextmanager
def half_precision_as_on_cuda() -> Iterator[None]:
    """Mixed precision for tensors on a CPU, with the dtypes that they would have on a GPU."""
    with torch.autocast("cpu", HALF), CudaRules():
        yield
