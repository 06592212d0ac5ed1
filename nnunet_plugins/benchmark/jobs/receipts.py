"""Receipts of finished steps and notes, as they are read.

A step writes its receipt last. A receipt holds while the files that it vouches for are there and unchanged, and a step
would do the same again: see states.py.
"""

import json
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.versions import shared_json
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json

REMEDY = "remove it and run the benchmark again"


def read_receipt(path: Path, *keys: str) -> dict[str, Any]:
    """Content of a receipt or note.

    Args:
        path: the file.
        keys: what it must hold.

    Raises:
        UserError: it cannot be read, or does not hold that.
    """
    return checked(path, read_json(path, REMEDY), *keys)


def shared_receipt(path: Path) -> dict[str, Any]:
    """Content of a receipt that many runs share; see :func:`read_receipt`."""
    return checked(path, shared_json(path, REMEDY))


def checked(path: Path, content: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise UserError(f"{path} is no receipt of nnunet-plugins: {REMEDY}")
    return content


def receipt_values(path: Path, *keys: str, optional: str = "") -> dict[str, Any]:
    """Some values of a receipt, without parsing the others: curves and cases make it long.

    Args:
        path: the receipt.
        keys: what it must hold.
        optional: what it may hold too.

    Raises:
        UserError: as :func:`read_receipt`.
    """
    decoder, values = json.JSONDecoder(), {}
    try:
        text = path.read_text(encoding="utf-8")
        for key in (*keys, optional):
            before = f'\n "{key}": '  # as only a key of the outermost object stands in what write_json writes
            if key in keys or before in text:
                values[key] = decoder.raw_decode(text, text.index(before) + len(before))[0]
    except (OSError, ValueError, RecursionError):
        return read_receipt(path, *keys)
    return values
