"""Files and folders that are written whole or not at all, JSON, hashes, and the number of usable cores."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_plugins.cgroups import core_limit
from nnunet_plugins.errors import UserError, reason

PARTIAL = ".partial"
"""Ending of the names of files and folders that are not whole yet."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which is renamed to ``path`` if nothing was raised, and else removed.

    It is on the disk before it is renamed, so that a power cut cannot leave ``path`` empty.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "folder" / "notes.txt"
        >>> with atomic_write(path) as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> path.read_text()
        'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write_with_companions(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder, for a writer that derives other files' names from it.

    If nothing was raised, all files of that folder are moved to the folder of ``path``, and ``path`` itself last.
    """
    temporary = partial_path(path)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary / path.name
        files = sorted(temporary.iterdir(), key=lambda file: file.name == path.name)
        for file in files:
            flush(file)
        for file in files:
            file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """Name beside ``path`` for what is not whole yet, of this process alone: several may write the same file."""
    return path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}{PARTIAL}")


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_partial(folder: Path, beginning: str) -> None:
    """Remove what killed processes have left half written of files whose names begin so.

    Args:
        folder: where these files are. No living process may be writing them.
        beginning: of the files' names.
    """
    for path in folder.glob(f".{beginning}*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Write a JSON file whole or not at all, and make its folder."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, allow_nan=False), encoding="utf-8")


def read_json(path: Path, remedy: str = "correct or remove it") -> Any:
    """Read a file that :func:`write_json` or nnU-Net has written.

    Args:
        path: the file.
        remedy: what the user can do about a file that is missing or damaged.

    Raises:
        UserError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): {remedy}") from error


def digest(*paths: Path) -> str:
    """SHA-256 of the files' content, one after the other, in hexadecimal.

    Raises:
        UserError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: total)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): check it and its permissions") from error
    return total.hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target``; a folder that was there is removed afterwards, or stays on failure.

    Of a link to a folder only the link is replaced, and what it leads to stays.
    """
    before = backup_folder(target)
    if os.path.lexists(target):
        remove_folder(before)
        target.rename(before)
    try:
        new.rename(target)
    except OSError:
        recover_folder(target)
        raise
    remove_folder(before)


def recover_folder(target: Path) -> None:
    """Put back the folder that :func:`replace_folder`, if it was killed halfway, had moved away."""
    if os.path.lexists(backup_folder(target)) and not os.path.lexists(target):
        backup_folder(target).rename(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder, or of a link to one the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def backup_folder(target: Path) -> Path:
    """Name of a folder while another one takes its place."""
    return target.with_name(f".{target.name}.before")


def nearest_existing(path: Path) -> Path:
    """The path itself, or else the first above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def usable_cores() -> int:
    """Number of cores this process may use, which in a container or a batch job can be fewer than the machine's.

    A share of a core, where it may use so much of its time, counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(cores, core_limit()))
