"""Limits of logits."""

from torch import Tensor

MAX_LOGIT = 1000.0  # nnU-Net sums logits, times 10, in fp16 at inference


def bounded(logits: Tensor, limit: float = MAX_LOGIT) -> Tensor:
    """Clamp logits to ``-limit`` and ``limit``."""
    return logits.clamp(-limit, limit)
