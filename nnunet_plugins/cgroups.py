"""Limits of the container or batch job that this process runs in, as Linux's control groups of version 2 tell them."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cgroups(root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """Folders of this process's control group and of those around it, the inmost first.

    Args:
        root: where the control groups are mounted.
        own: file that names those of this process; without it, the outermost is taken for the only one.
    """
    path = ""
    with suppress(OSError):
        path = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), path)
    inmost = root / path.strip("/")
    yield from (folder for folder in (inmost, *inmost.parents) if folder.is_relative_to(root))


def core_limit(root: Path = ROOT, own: Path = OWN) -> float:
    """Number of cores whose time this process may use, e.g. 1.5; infinity without a limit."""
    limits = [math.inf]
    for folder in cgroups(root, own):
        with suppress(OSError, ValueError):  # there is no number where there is no limit
            quota, period = map(float, (folder / "cpu.max").read_text().split())
            limits.append(quota / period)
    return min(limits)


def memory_left(root: Path = ROOT, own: Path = OWN) -> float:
    """Bytes that this process may still use up to its limit, those of cached files included; infinity without one."""
    left = [math.inf]
    for folder in cgroups(root, own):
        with suppress(OSError, ValueError):
            limit, used = (float((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
            left.append(max(0.0, limit - used + cached(folder)))
    return min(left)


def cached(folder: Path) -> float:
    """Bytes of files in memory that have not been read lately and are given up first."""
    with suppress(OSError, ValueError, StopIteration):
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return next(float(words[1]) for words in lines if words[0] == "inactive_file")
    return 0.0
