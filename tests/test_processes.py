"""Proves: what a process of a benchmark has forked ends with it, even if it is killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import multiprocessing, os, time
from nnunet_plugins.processes import forked_end_with_this_process
fork = multiprocessing.get_context("fork")

def child(queue):
    grandchild = fork.Process(target=time.sleep, args=(300,))
    grandchild.start()
    queue.put((os.getpid(), grandchild.pid))
    time.sleep(300)

queue = fork.Queue()
with forked_end_with_this_process():
    fork.Process(target=child, args=(queue,)).start()
print(*queue.get(), flush=True)
time.sleep(300)
"""


AFTER_A_BLOCK = """
import multiprocessing, time
from nnunet_plugins.processes import forked_end_with_this_process
with forked_end_with_this_process():
    pass
process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
process.start()
print(process.pid, flush=True)
time.sleep(300)
"""


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can do this")
def test_forked_processes_end_with_a_killed_one_and_live_as_long_as_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    forked = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        time.sleep(0.5)
        assert len(forked) == 2 and all(map(is_running, forked))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 20
        while any(map(is_running, forked)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(is_running, forked))
    finally:
        parent.kill()
        parent.stdout.close()
        for pid in filter(is_running, forked):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can do this")
def test_processes_that_are_forked_after_the_block_are_left_alone():
    parent = subprocess.Popen([sys.executable, "-c", AFTER_A_BLOCK], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    time.sleep(0.5)
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)
