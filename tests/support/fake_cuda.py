"""Mixed precision as on a GPU, without one: CUDA's own autocast rules, applied to tensors that have no data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
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
