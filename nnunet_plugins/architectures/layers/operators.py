"""Operators of this package that read values on the CPU, and whose results have shapes known beforehand.

Where tensors have no data, as in an estimate of memory with fake tensors, torch asks for the shapes alone.
"""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("nnunet_plugins", "DEF")


def define(signature: str, compute: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Define an operator without a gradient.

    Args:
        signature: name, arguments and results in torch's notation.
        compute: computes the results from tensors on the CPU.
        shapes: makes empty results of the same shapes.
    """
    name = signature.partition("(")[0]
    LIBRARY.define(signature)
    LIBRARY.impl(name, compute, "CPU")
    LIBRARY.impl(name, shapes, "Meta")
    return getattr(torch.ops.nnunet_plugins, name)
