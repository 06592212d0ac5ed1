"""Files that many runs share, read or hashed again only if they have changed.

A suite of thousands of trainings has a few dozen datasets: their plans, folds and descriptions are asked for once per
training. What is returned is shared too, and must not be changed.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.files import digest, read_json

NUM_KEPT = 512
"""Contents kept at a time: a few of each dataset."""


class Version(NamedTuple):
    """A file, and what tells that it has changed."""

    path: Path
    inode: int
    size: int
    modified: int
    changed: int


def version(path: Path) -> Version | None:
    """Version of a file as it is now; None if there is none that can be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Version(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def shared_json(path: Path, remedy: str) -> Any:
    """Content of a JSON file, as :func:`nnunet_plugins.files.read_json` reads it."""
    found = version(path)
    return read_json(path, remedy) if found is None else content_of(found, remedy)


def shared_digest(path: Path) -> str:
    """SHA-256 of a file, as :func:`nnunet_plugins.files.digest` computes it."""
    found = version(path)
    return digest(path) if found is None else digest_of(found)


@lru_cache(NUM_KEPT)
def content_of(found: Version, remedy: str) -> Any:
    return read_json(found.path, remedy)


@lru_cache(NUM_KEPT)
def digest_of(found: Version) -> str:
    return digest(found.path)
