"""Strategies, random pixels and temporary folders for property-based tests."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 10**6)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for one example of a property."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def noise(seed: int, shape: tuple[int, ...], dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
