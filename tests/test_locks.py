"""Proves that a lock is one process's alone and ends with it, however it ends."""

import os
import signal
from contextlib import ExitStack

from support.holders import HOLD, line, process

from nnunet_plugins.locks import is_locked, lock

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from nnunet_plugins.locks import lock
with lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    print(worker, flush=True)
    time.sleep(600)
"""


def test_one_process_alone_holds_a_lock(tmp_path):
    path = tmp_path / "new folder" / ".lock"
    with process(HOLD, path) as holder:
        assert line(holder) == "held"
        assert is_locked(path)
        with lock(path, wait=False) as held:
            assert not held
        holder.communicate()
        with lock(path, wait=False) as held:
            assert held


def test_process_that_waits_for_a_lock_says_so_and_gets_it(tmp_path):
    path = tmp_path / ".lock"
    with ExitStack() as stack:
        first = stack.enter_context(process(HOLD, path))
        assert line(first) == "held"
        second = stack.enter_context(process(HOLD, path))
        assert line(second) == f"Another process works on {tmp_path}: waiting for it."
        first.communicate()
        assert line(second) == "held"


def test_a_lock_ends_with_a_killed_process_whose_workers_live_on(tmp_path):
    path = tmp_path / ".lock"
    with process(HOLD_AND_FORK, path) as holder:
        worker = int(line(holder))
        assert is_locked(path)
        holder.kill()
        holder.wait()
        try:
            os.kill(worker, 0)
            assert not is_locked(path)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_missing_lock_file_is_not_made_by_looking(tmp_path):
    assert not is_locked(tmp_path / ".lock")
    assert not list(tmp_path.iterdir())
