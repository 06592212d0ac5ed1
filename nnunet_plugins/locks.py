"""Locks that end with the process that holds them, however it ends.

They are POSIX record locks: a training's forked workers, which may outlive it when it is killed, do not hold them too.
"""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_plugins.errors import UserError


class NoLocks(UserError):
    """The file system has no locks."""


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Lock a file for this process, and yield whether that worked: without ``wait``, another process may hold it.

    Raises:
        NoLocks: the file system has none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if not wait:
                yield False
                return
            print(f"Another process works on {path.parent}: waiting for it.", flush=True)
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            raise no_locks(path, error) from error
        with suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield True


def holder(path: Path) -> str:
    """Tell which process holds a lock, or held it last, and on which machine; this one must not hold it."""
    return path.read_text(encoding="utf-8") or "another process"


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock; nothing is written."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError as error:
            raise no_locks(path, error) from error
    return False


def no_locks(path: Path, error: OSError) -> NoLocks:
    reason = f"{path} cannot be locked ({error.strerror})"
    return NoLocks(f"{reason}: use a file system with locks for nnU-Net's folders")
