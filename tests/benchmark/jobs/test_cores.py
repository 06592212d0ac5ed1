"""Proves that jobs on the CPU share its cores: threads that wait sleep, and none is waited for that cannot start."""

import os
import subprocess
import sys

import pytest
from support import tiny_suite
from support.cell_datasets import LABELS, use_nnunet_folders

from nnunet_plugins.benchmark.jobs.training import usable_threads
from nnunet_plugins.benchmark.runs import log_file, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.files import usable_cores

JOB = """
import sys
from nnunet_plugins.benchmark.jobs import steps
from nnunet_plugins.benchmark.jobs.training import usable_threads

def train(suite, run):
    assert "torch" not in sys.modules
    import torch
    torch.set_num_threads(usable_threads(suite.resources.cpus))
    conv = torch.nn.Conv2d(1, 8, 3)
    for _ in range(20):
        conv(torch.zeros(2, 1, 64, 64)).mean().backward()
    print("threads:", torch.get_num_threads())

steps.STEPS["train"] = train
steps.main(sys.argv[1:])
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """``job(device, cpus, **environment)``: log of a job that computes, in which OpenMP tells its settings."""
    use_nnunet_folders(tmp_path, monkeypatch)
    (tmp_path / "nnUNet_raw" / f"Dataset{LABELS:03}_Cells").mkdir(parents=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}

    def log(device, cpus, **environment):
        path = tiny_suite.write_suite(tmp_path / "tiny.toml", ("A",), f"{{ id = {LABELS} }}", device=device)
        path.write_text(path.read_text().replace("cpus = 1", f"cpus = {cpus}").replace('"nnUNetTrainer"', '"A"'))
        suite = read_suite(path)
        receipt = runs(suite)[0].training_receipt
        command = [sys.executable, "-P", "-c", JOB, "train", path, receipt]
        subprocess.run(command, env=clean | {"OMP_DISPLAY_ENV": "verbose"} | environment, check=True, timeout=120)
        return log_file(suite, "train", receipt).read_text()

    return log


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' OpenMP tells its settings otherwise")
def test_threads_of_a_job_on_the_cpu_sleep_while_they_wait(job):
    log = job("cpu", 1)
    assert "GOMP_SPINCOUNT = '0'" in log and "OMP_NUM_THREADS = '1'" in log
    assert "threads: 1\n" in log


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' OpenMP tells its settings otherwise")
def test_a_job_on_a_gpu_and_the_user_keep_their_policy(job):
    for log in (job("cuda", 1), job("cpu", 1, OMP_WAIT_POLICY="ACTIVE")):
        assert "GOMP_SPINCOUNT = '" in log and "GOMP_SPINCOUNT = '0'" not in log


def test_a_limit_of_threads_does_not_stop_a_training(job):
    """A convolution would wait for ever for the second thread."""
    assert "threads: 1\n" in job("cpu", 2, OMP_THREAD_LIMIT="1")


@pytest.mark.parametrize(("cpus", "limit", "threads"), [(1, "", 1), (10**6, "", None), (2, "1", 1), (1, "no", 1)])
def test_threads_are_no_more_than_cores_and_the_limit(cpus, limit, threads, monkeypatch):
    monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    assert usable_threads(cpus) == (threads or usable_cores())
