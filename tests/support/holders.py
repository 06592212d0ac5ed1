"""Processes that hold locks until their input ends."""

import subprocess
import sys
from contextlib import contextmanager

HOLD = """
import sys
from pathlib import Path
from nnunet_plugins.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
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
