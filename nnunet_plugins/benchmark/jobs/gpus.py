"""GPUs that local trainings share, one for each."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_plugins.locks import lock
from nnunet_plugins.wording import enumeration

GPUS = "NNUNET_PLUGINS_GPUS"
"""Environment variable with the devices that local trainings share, e.g. ``0,1``."""


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
    """Wait for a device that no other process has locked, and lock it.

    In each of Slurm's allocations on a machine devices may be counted from 0.
    """
    folder = Path(tempfile.gettempdir(), f"nnunet-plugins-{os.getuid()}", os.environ.get("SLURM_JOB_ID", ""))
    told = False
    while True:
        for device in devices:
            with lock(folder / f"gpu-{device}.lock", wait=False) as held:
                if held:
                    yield device
                    return
        if not told:
            print(f"Waiting for a GPU: other trainings have {enumeration(devices)}", flush=True)
            told = True
        time.sleep(1)
