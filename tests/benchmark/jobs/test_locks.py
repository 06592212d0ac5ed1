"""Proves that a lock is one process's alone and ends with it, however it ends, and that trainings never share a GPU."""

import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

from nnunet_plugins.benchmark.jobs.locks import GPUS, is_locked, lock, one_gpu

HOLD = """
import sys
from pathlib import Path
from nnunet_plugins.benchmark.jobs.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from nnunet_plugins.benchmark.jobs.locks import lock
with lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    print(worker, flush=True)
    time.sleep(600)
"""
TAKE_A_GPU = """
import os, sys
from nnunet_plugins.benchmark.jobs.locks import one_gpu
with one_gpu():
    print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(script, *arguments):
    """A Python process that works until its input ends."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def line(started, beginning=""):
    """Next line of a process's output that has the beginning."""
    return next(text.strip() for text in started.stdout if text.startswith(beginning))


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


def test_trainings_get_different_devices_and_wait_for_a_free_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the lock files are
    monkeypatch.setenv(GPUS, "3,GPU-5f8a")
    with ExitStack() as stack:
        holders = [stack.enter_context(process(TAKE_A_GPU)) for _ in range(2)]
        taken = [line(holder, "devices") for holder in holders]
        assert sorted(taken) == ["devices 3", "devices GPU-5f8a"]

        third = stack.enter_context(process(TAKE_A_GPU))
        assert not select.select([third.stdout], [], [], 2)[0]
        holders[0].kill()
        assert line(third, "devices") == taken[0]


def test_without_devices_to_share_the_environment_stays(monkeypatch):
    monkeypatch.setenv(GPUS, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
