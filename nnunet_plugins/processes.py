"""Processes of this interpreter, work shared among them, their end with all their workers, and signals that end us."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from multiprocessing import get_context
from typing import NoReturn, TypeVar

from nnunet_plugins.errors import UserError

S = TypeVar("S")
T = TypeVar("T")


def python_command(arguments: list[str]) -> list[str]:
    """Turn a call of one of nnU-Net's console scripts, which may be missing from PATH, into one of this interpreter."""
    script = next(iter(entry_points(group="console_scripts", name=arguments[0])))
    return python_call(script.module, script.attr, arguments)


def python_call(module: str, function: str, arguments: list[str]) -> list[str]:
    """Command that calls a function in a new interpreter with this ``sys.path``, ``arguments`` being its ``sys.argv``.

    A new interpreter may not find the packages of this one, for instance after ``pip install --target``.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; sys.argv[0] = {arguments[0]!r}; "
        f"from {module} import {function} as run; run()"
    )
    return [sys.executable, "-P", "-c", code, *arguments[1:]]


def end_workers(process: subprocess.Popen[str]) -> None:
    """Wait for a command's end, then kill its worker processes: those of a killed nnU-Net keep its output open."""
    process.wait()
    end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and its worker processes."""
    with suppress(ProcessLookupError):  # nothing is left
        os.killpg(process.pid, signal.SIGKILL)


def in_processes(work: Callable[[S], T], items: Sequence[S], processes: int) -> Iterator[T]:
    """Yield ``work`` of each item, in their order, done by new processes, or by this one if one is enough.

    Raises:
        UserError: a process was killed.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        yield from map(work, items)
        return
    ignore_interrupt = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # this process ends the others
    with ProcessPoolExecutor(processes, get_context("spawn"), ignore_interrupt) as pool:
        try:
            yield from pool.map(work, items, chunksize=max(1, min(16, len(items) // (64 * processes))))
        except BrokenProcessPool as error:
            raise UserError(
                f"One of {processes} processes was killed, most likely for want of memory: take fewer with -np"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


PR_SET_PDEATHSIG = 1
"""Number of the option with which Linux sends a process a signal when its parent ends."""


@contextmanager
def forked_end_with_this_process() -> Iterator[None]:
    """Let Linux kill every process that this one's main thread forks in the block, and those that they fork in turn.

    It does so when the parent ends; for Linux, that is the thread that forks.
    """
    watch_forks()
    before, Forks.follow = Forks.follow, True
    try:
        yield
    finally:
        Forks.follow = before


class Forks:
    """Whether forked processes follow this one, and the number of the one that forks."""

    follow = False
    parent = 0


@functools.cache
def watch_forks() -> None:
    """Register what is done at every fork from now on; this cannot be undone."""
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl

    def remember() -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        Forks.parent = os.getpid() if Forks.follow and in_main_thread else 0

    def follow() -> None:
        if not Forks.parent:
            return
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != Forks.parent:  # it has ended in the meantime
            os._exit(1)

    os.register_at_fork(before=remember, after_in_child=follow)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP, as from a batch system or a closed terminal, into an exception that cleans up."""

    def leave(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    numbers = signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
