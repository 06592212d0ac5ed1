"""What networks return in training: tensors, nested as each method has them."""

from typing import Any

from torch import Tensor


def tensors(outputs: Any) -> list[Tensor]:
    """The outputs that there are, the logits first."""
    match outputs:
        case None:
            return []
        case Tensor():
            return [outputs]
        case dict():
            return tensors(tuple(outputs.values()))
    return [tensor for output in outputs for tensor in tensors(output)]
