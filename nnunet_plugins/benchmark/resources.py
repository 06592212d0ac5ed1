"""The table ``[resources]`` of a suite file: a training's share of a machine or of Slurm."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SLURM_NAMES = re.compile(r"[\w.,+@-]*")
SLURM_GPU = re.compile(r"[\w.]*", re.ASCII)

MAX_NUMBER = 999_999
"""Largest number of cores, hours, gigabytes or folds that can be asked for."""
MANAGED_OPTIONS = {
    "account": "slurm_account",
    "clusters": "",
    "comment": "",
    "constraint": "slurm_constraint",
    "cpus-per-gpu": "cpus",
    "cpus-per-task": "cpus",
    "error": "",
    "export": "",
    "gpus": "slurm_gpu",
    "gres": "slurm_gpu",
    "job-name": "",
    "mem": "memory_gb",
    "mem-per-cpu": "memory_gb",
    "nodes": "",
    "ntasks": "",
    "ntasks-per-gpu": "",
    "output": "",
    "parsable": "",
    "partition": "slurm_partition",
    "qos": "slurm_qos",
    "time": "hours",
    "workdir": "",
}
"""Options of sbatch that Snakemake's plugin gives and forbids, and the key that sets them; most need none."""
SHORT_OPTIONS = {
    "-A": "account", "-C": "constraint", "-c": "cpus-per-task", "-e": "error", "-G": "gpus", "-J": "job-name",
    "-M": "clusters", "-n": "ntasks", "-N": "nodes", "-o": "output", "-p": "partition", "-q": "qos", "-t": "time",
    "-D": "workdir",
}  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """Resources of one training, the table ``[resources]`` of the file."""

    device: str = "cuda"
    cpus: int = 8
    memory_gb: int = 32
    hours: float = 24.0
    """Time after which Slurm ends the job; the next attempt goes on from the last checkpoint."""
    retries: int = 2
    slurm_partition: str = ""
    slurm_account: str = ""
    slurm_constraint: str = ""
    """Features that a node must have."""
    slurm_qos: str = ""
    slurm_gpu: str = ""
    """Type of the GPU, as in ``--gpus=TYPE:1``."""
    slurm_extra: str = ""
    """Further options of sbatch, e.g. ``"--requeue"``."""
    slurm_jobs: int = 100
    """Most jobs that wait or run at a time."""

    def slurm_options(self) -> dict[str, str]:
        """Values given for Slurm, by the names of Snakemake's plugin; it hands further options to a shell."""
        given = {
            "slurm_partition": self.slurm_partition,
            "slurm_account": self.slurm_account,
            "constraint": self.slurm_constraint,
            "qos": self.slurm_qos,
            "slurm_extra": shlex.join(shlex.split(self.slurm_extra)),
        }
        return {name: value for name, value in given.items() if value}


def problems_of_resources(resources: Resources) -> Iterator[tuple[str, Any, str]]:
    if resources.device not in ("cuda", "cpu", "mps"):
        yield "device", resources.device, "expected 'cuda', 'cpu' or 'mps'"
    for key in ("cpus", "memory_gb", "hours"):
        if not 0 < getattr(resources, key) <= MAX_NUMBER:
            yield key, getattr(resources, key), f"expected a number above 0 and at most {MAX_NUMBER}"
    for key in ("slurm_partition", "slurm_account", "slurm_qos"):
        if not SLURM_NAMES.fullmatch(getattr(resources, key)):
            yield key, getattr(resources, key), "expected names as Slurm prints them, separated by commas"
    if not SLURM_GPU.fullmatch(resources.slurm_gpu):
        expectation = "Snakemake takes letters, digits, _ and . only, e.g. 'a100': use slurm_constraint instead"
        yield "slurm_gpu", resources.slurm_gpu, expectation
    try:
        words = shlex.split(resources.slurm_extra)
    except ValueError as error:
        yield "slurm_extra", resources.slurm_extra, f"these are no options of sbatch ({error}): correct them"
    else:
        if managed := next(filter(None, map(managed_option, words)), None):
            option, key = managed
            remedy = f"from another key: use {key}" if key else "by Snakemake: leave it out"
            yield "slurm_extra", resources.slurm_extra, f"{option} is set {remedy}"
    if not 1 <= resources.slurm_jobs <= MAX_NUMBER:
        yield "slurm_jobs", resources.slurm_jobs, f"expected a number from 1 to {MAX_NUMBER}"
    if not 0 <= resources.retries <= MAX_NUMBER:
        yield "retries", resources.retries, f"expected 0 or more, and at most {MAX_NUMBER}"


def managed_option(word: str) -> tuple[str, str] | None:
    """Option of sbatch that Snakemake gives itself, if a word of a command is one, and the key here that sets it."""
    name = word[2:].partition("=")[0] if word.startswith("--") else SHORT_OPTIONS.get(word[:2], "")
    return (f"--{name}", MANAGED_OPTIONS[name]) if name in MANAGED_OPTIONS else None
