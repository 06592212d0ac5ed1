"""A reader of segmentations whose process is killed, as the kernel does when memory is short."""

import multiprocessing
import os
import signal

import numpy as np


class DyingReader:
    def read_seg(self, path: str) -> tuple[np.ndarray, dict]:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((1, 1, 4, 4)), {"spacing": (999, 1, 1)}
