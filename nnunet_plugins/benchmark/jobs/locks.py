"""Locks that end with the process that holds them, however it ends.

They are POSIX record locks: a training's forked workers, which may outlive it when it is killed, do not hold them too.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_plugins.errors import UserError

GPUS = "NNUNET_PLUGINS_GPUS"
"""Environment variable with the devices that local trainings share, e.g. ``0,1``."""


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Lock a file for this process, and yield whether that worked: without ``wait``, another process may hold it."""
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
            reason = f"{path} cannot be locked ({error.strerror})"
            raise UserError(f"{reason}: use a file system with locks for nnU-Net's folders") from error
        yield True


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock."""
    if not path.exists():
        return False
    with lock(path, wait=False) as held:
        return not held


@contextmanager
def one_gpu() -> Iterator[None]:
    """Give this process a device of :data:`GPUS` that no other training on this machine has; wait for one."""
    devices = [device for device in os.environ.get(GPUS, "").split(",") if device]
    if not devices:
        yield
        return
    with locked_device(devices) as device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
        print(f"On GPU {device}", flush=True)
        yield


@contextmanager
def locked_device(devices: Sequence[str]) -> Iterator[str]:
    """Wait for a device that no other process has locked, and lock it."""
    folder = Path(tempfile.gettempdir(), f"nnunet-plugins-{os.getuid()}")
    while True:
        for device in devices:
            with lock(folder / f"gpu-{device}.lock", wait=False) as held:
                if held:
                    yield device
                    return
        time.sleep(1)
