"""Mixed precision as on a GPU, without one: CUDA's own autocast rules, applied to tensors that have no data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda_autocast() -> Iterator[None]:
    """Make tensors on a fake CUDA device, with autocast to float16, so that dtypes and devices are those of a GPU.

    CPU autocast is no substitute: it has other lists, and leaves softmax, sums and interpolation alone. (The public
    ``torch.autocast`` switches itself off where there is no GPU.)
    """
    enabled = torch.is_autocast_enabled("cuda")
    try:
        torch.set_autocast_dtype("cuda", torch.float16)
        torch.set_autocast_enabled("cuda", True)
        with FakeTensorMode(), torch.device("cuda"):
            yield
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.clear_autocast_cache()


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """Move the parameters and buffers of a module of fake tensors, and nothing else, as ``module.to("cuda")`` would."""
    moved: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            on_cuda = nn.Parameter(parameter.detach().to("cuda"), parameter.requires_grad)
            setattr(part, name, moved.setdefault(id(parameter), on_cuda))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = moved.setdefault(id(buffer), buffer.to("cuda"))
    return module
