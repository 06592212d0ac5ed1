"""Memory of a GPU beyond what an estimate sees."""

GIB = 2**30
CONTEXT = GIB // 2
"""Bytes that CUDA's context and libraries take of a GPU, about, from the first tensor there on."""


def with_margin(peak: int) -> int:
    """Bytes that a GPU must have for an estimated peak, in bytes: 1 GiB and a twentieth more.

    The estimate does not see CUDA's context and libraries (half of this GiB), the workspaces of convolutions (cuDNN
    takes what is free, and does with little), and what is lost between pieces of memory.

    Example:
        >>> with_margin(20 * GIB) == 22 * GIB
        True
    """
    return peak + CONTEXT + GIB // 2 + peak // 20


def gib(memory: float) -> str:
    """Write bytes as GiB, for readers.

    Example:
        >>> gib(1536 * 2**20)
        '1.5 GiB'
    """
    return f"{memory / GIB:.1f} GiB"
