"""Checks of the machine's memory and cores, and of the settings of the processes and threads that use them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

from nnunet_plugins.cgroups import memory_left
from nnunet_plugins.doctor.findings import GB, Finding
from nnunet_plugins.files import usable_cores

SMALL_MEMORY = 8 * GB
SMALL_SHARED_MEMORY = 1 * GB
FEWER_WORKERS = "export nnUNet_n_proc_DA=2 for training, or close other programs"
LIMIT, POLICY = "OMP_THREAD_LIMIT", "OMP_WAIT_POLICY"


def processes() -> Iterator[Finding]:
    """Settings of nnU-Net's worker processes that make them die without a message."""
    for variable in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        value = os.environ.get(variable)
        if value is not None and not value.isdecimal():
            yield Finding("PROBLEM", f"{variable}={value} is not a number", f"export {variable}=4")
    if os.environ.get("nnUNet_n_proc_DA") == "0":
        yield Finding("note", "nnUNet_n_proc_DA=0 trains without workers, but planning fails", "unset nnUNet_n_proc_DA")


def memory() -> Iterator[Finding]:
    """Whether nnU-Net's workers have enough memory, and enough of it to share with the training."""
    available = available_memory()
    if available is not None:
        text = f"{available / GB:.0f} GB of memory available"
        if available < SMALL_MEMORY:
            yield Finding("note", f"{text}: nnU-Net's workers may be killed", FEWER_WORKERS)
        else:
            yield Finding("ok", text)
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir():  # only Linux has it
        return
    size, _, free = disk_usage(shared_memory)
    text = f"/dev/shm has {free / GB:.2f} of {size / GB:.2f} GB free"
    if size < SMALL_SHARED_MEMORY:
        remedy = "start the container with --ipc=host or --shm-size=8g, or export nnUNet_n_proc_DA=0 for training"
        yield Finding("note", f"{text}: workers may die with a bus error", remedy)
    elif free < SMALL_SHARED_MEMORY:
        remedy = "end the programs that fill it, or remove what dead ones have left there"
        yield Finding("note", f"{text}: workers may die with a bus error", remedy)
    else:
        yield Finding("ok", text)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Bytes that new processes can have: those of the machine, or up to a container's or job's limit; None: unknown.

    Args:
        meminfo: the kernel's table of the machine's memory.
    """
    try:
        lines = (line.split() for line in meminfo.read_text().splitlines())
        return min(memory_left(), next(1024.0 * int(words[1]) for words in lines if words[0] == "MemAvailable:"))
    except (OSError, StopIteration):
        return None


def threads(without_gpu: bool) -> Iterator[Finding]:
    """Whether trainings on the CPU, for which nnU-Net starts as many threads as the machine has cores, get stuck.

    Threads that wait for each other do so actively, unless told otherwise: two trainings on the same cores are then
    several times slower. With a limit below their number, torch's convolutions wait for threads that never come.
    """
    cores, usable = os.cpu_count() or 1, usable_cores()
    limit = os.environ.get(LIMIT, "")
    if limit.isdecimal() and int(limit) < cores:
        text = f"{LIMIT}={limit} is below the {cores} threads of nnUNetv2_train -device cpu, which may wait for ever"
        yield Finding("PROBLEM" if without_gpu else "note", text, f"unset {LIMIT}")
    if not without_gpu:
        return
    count = f" PYTHON_CPU_COUNT={usable}" if usable < cores and sys.version_info >= (3, 13) else ""
    text = f"nnUNetv2_train -device cpu starts {cores} threads, this process may use {usable} cores"
    if os.environ.get(POLICY, "").upper() == "PASSIVE" and not count:
        yield Finding("ok", f"{text}, {POLICY}=PASSIVE")
    else:
        yield Finding("note", f"{text}; waiting threads slow each other down", f"export {POLICY}=PASSIVE{count}")
