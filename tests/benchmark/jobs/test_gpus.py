"""Proves that trainings never share a GPU."""

import os
import select
from contextlib import ExitStack

from support.holders import line, process

from nnunet_plugins.benchmark.jobs.gpus import GPUS, one_gpu

TAKE_A_GPU = """
import os, sys
from nnunet_plugins.benchmark.jobs.gpus import one_gpu
with one_gpu():
    print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read()
"""


def test_trainings_get_different_devices_and_wait_for_a_free_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the lock files are
    monkeypatch.setenv(GPUS, "3,GPU-5f8a")
    with ExitStack() as stack:
        holders = [stack.enter_context(process(TAKE_A_GPU)) for _ in range(2)]
        taken = [line(holder, "devices") for holder in holders]
        assert sorted(taken) == ["devices 3", "devices GPU-5f8a"]

        third = stack.enter_context(process(TAKE_A_GPU))
        assert line(third, "Waiting") == "Waiting for a GPU: other trainings have 3 and GPU-5f8a"
        assert not select.select([third.stdout], [], [], 2)[0]
        holders[0].kill()
        assert line(third, "devices") == taken[0]


def test_each_allocation_of_slurm_has_devices_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(GPUS, "0")
    with ExitStack() as stack:
        for job in ("17", "18"):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            assert line(stack.enter_context(process(TAKE_A_GPU)), "devices") == "devices 0"
        assert line(stack.enter_context(process(TAKE_A_GPU)), "Waiting") == "Waiting for a GPU: other trainings have 0"


def test_without_devices_to_share_the_environment_stays(monkeypatch):
    monkeypatch.setenv(GPUS, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
