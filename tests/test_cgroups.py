"""Proves that limits of containers and batch jobs are found wherever in the tree of control groups they are set."""

import math

import pytest

from nnunet_plugins import files
from nnunet_plugins.cgroups import core_limit, memory_left


@pytest.fixture
def job(tmp_path):
    """A tree of control groups with the job of this process in it, and the file that names the job."""
    folder = tmp_path / "cgroup" / "system.slice" / "slurmstepd.scope" / "job_7"
    folder.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/system.slice/slurmstepd.scope/job_7\n")
    return folder, {"root": tmp_path / "cgroup", "own": own}


def write(folder, **values):
    for name, value in values.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


def test_without_a_limit_there_is_none(job, tmp_path):
    folder, where = job
    nowhere = {"root": tmp_path / "none", "own": tmp_path / "neither"}
    assert core_limit(**nowhere) == memory_left(**nowhere) == core_limit(**where) == memory_left(**where) == math.inf
    write(folder, cpu_max="max 100000", memory_max="max", memory_current=5)
    assert core_limit(**where) == memory_left(**where) == math.inf


def test_the_smallest_limit_from_the_job_up_to_the_root_counts(job):
    folder, where = job
    write(folder, cpu_max="400000 100000", memory_max=9000, memory_current=1000)
    assert (core_limit(**where), memory_left(**where)) == (4, 8000)
    write(where["root"], cpu_max="150000 100000", memory_max=5000, memory_current=4000)
    assert (core_limit(**where), memory_left(**where)) == (1.5, 1000)


def test_a_container_with_a_tree_of_its_own_is_its_root(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/\n")
    write(tmp_path, cpu_max="200000 100000", memory_max=100, memory_current=120)
    assert (core_limit(tmp_path, own), memory_left(tmp_path, own)) == (2, 0)


def test_memory_of_files_that_were_read_is_not_used_up(job):
    folder, where = job
    write(folder, memory_max=64, memory_current=63, memory_stat="anon 3\ninactive_file 50\nactive_file 10")
    assert memory_left(**where) == 51


@pytest.mark.parametrize(("limit", "cores"), [(math.inf, 8), (2.5, 3), (0.5, 1), (16, 8)])
def test_cores_are_those_of_the_affinity_whose_time_there_is(limit, cores, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(files, "core_limit", lambda: limit)
    assert files.usable_cores() == cores
