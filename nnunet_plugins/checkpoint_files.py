"""Files of weights, read without running what they hold.

A checkpoint of torch's is a pickle, and a pickle is a program. nnU-Net runs it when it predicts or continues a
training; this package reads tensors, numbers and texts of it, and nothing else.
"""

import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nnunet_plugins.errors import UserError

NUMBERS = "?bBhHiIlLqQefd"
"""Characters of numpy's types of numbers, which nnU-Net's log and record of the best are made of."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or a file of torch's that holds tensors, numbers, texts and containers alone.

    Raises:
        UserError: the file is damaged, is none of these, or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        refuse_archives_of_programs(path)
        with only_numbers_of_numpy():
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        raise UserError(f"{path} cannot be read as weights alone ({reason(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read as weights alone (it holds a {type(content).__name__}, no dict)")
    return content


def refuse_archives_of_programs(path: Path) -> None:
    """Refuse torch's two formats that hold more than weights, which older torch reads regardless of ``weights_only``.

    Raises:
        ValueError: the file is a tar archive (CVE-2025-32434) or a TorchScript program.
    """
    program = tarfile.is_tarfile(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            program |= any(name.endswith(("constants.pkl", ".py")) for name in archive.namelist())
    if program:
        raise ValueError("it is an archive that may hold programs")


@contextmanager
def only_numbers_of_numpy() -> Iterator[None]:
    """Let torch read numpy's numbers, and for this long nothing that others in this process have allowed."""
    serialization = torch.serialization
    allowed_by_others = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(
        [np.dtype, *(type(np.dtype(number)) for number in NUMBERS), *map(scalar_of, ("numpy.core", "numpy._core"))]
    )
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed_by_others)


def scalar_of(package: str) -> Callable[..., Any]:
    """Function that makes numpy's numbers, under the name that it has in numpy 1 (``numpy.core``) or 2."""
    make: Any = np.float64(0).__reduce__()[0]

    def scalar(dtype: np.dtype, data: bytes) -> Any:
        if dtype.hasobject:
            raise ValueError("it holds a Python object as a number")
        return make(dtype, data)

    scalar.__module__, scalar.__qualname__ = f"{package}.multiarray", "scalar"
    return scalar


def reason(error: Exception) -> str:
    """Short text for what a reader has raised; of torch's page about ``weights_only`` the name that it refused."""
    text = str(error)
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {refused[1]}"
    if "weights_only" in text:
        return "it holds more than that"
    return " ".join(text.split()[:30]) or type(error).__name__
