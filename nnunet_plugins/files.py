"""Files that are written whole or not at all, their hashes, and the cores that there are to work on them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nnunet_plugins.errors import UserError


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, remedy: str) -> Any:
    """Content of a JSON file.

    Args:
        path: the file.
        remedy: what a user should do if it cannot be read.

    Raises:
        UserError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from error


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container or a batch job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
