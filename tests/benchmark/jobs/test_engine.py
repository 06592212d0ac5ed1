"""Proves that a driver ends when it must, and only then; see test_end_to_end.py for real ones."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnunet_plugins.benchmark.jobs import engine
from nnunet_plugins.benchmark.runs import stop_file, work_folder
from nnunet_plugins.benchmark.suite import Data, Suite, read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS

SUITE = Suite("cells", ("A",), "A", 100, (Data(1),))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / "Dataset001_Cells").mkdir(parents=True)
    stop_file(SUITE).parent.mkdir(parents=True)


def gone(*_, **__):
    raise BrokenPipeError


def test_suite_goes_on_when_the_reader_of_its_output_is_gone(folders, monkeypatch):
    monkeypatch.setattr(engine, "snakemake", lambda *_: time.sleep(1.2) is None)
    monkeypatch.setattr("builtins.print", gone)
    assert engine.supervise(survey(SUITE), stop_file(SUITE), "local", ()) is True


def test_what_snakemake_raises_is_not_lost(folders, monkeypatch):
    def snakemake(*_):
        raise UserError("no such executor")

    monkeypatch.setattr(engine, "snakemake", snakemake)
    with pytest.raises(UserError, match="no such executor"):
        engine.supervise(survey(SUITE), stop_file(SUITE), "local", ())


@pytest.mark.parametrize("failing", [None, "print", "end_jobs"])
def test_a_driver_that_is_stopped_ends_its_jobs_and_itself_whatever_fails(failing, folders, monkeypatch, capsys):
    """Ctrl-C also ends the `tee` that the driver writes to."""
    ended = []

    def end_jobs(executor, folder):
        assert stop_file(SUITE).exists()  # or Snakemake tries them again
        ended.append((executor, folder))
        if failing == "end_jobs":
            raise UserError("Slurm does not answer")

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(engine, "end_jobs", end_jobs)
    monkeypatch.setattr(engine.os, "_exit", end)
    if failing == "print":
        monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(SystemExit, match="130"):
        engine.stop(SUITE, "slurm", 2)
    assert ended == [("slurm", stop_file(SUITE).parent)]
    if failing == "end_jobs":
        assert "Jobs may be left: Slurm does not answer" in capsys.readouterr().err


PRETENDED_STEP = """#!/bin/sh
mkdir -p "$(dirname "$6")"
echo "{}" > "$6"
echo "$4 $6" >> order
"""


def test_interrupted_trainings_go_on_first(folders, tmp_path, monkeypatch):
    path = tmp_path / "suite.toml"
    path.write_text('name = "cells"\ntrainers = ["A", "B"]\nreference = "A"\nepochs = 100\ndatasets = [{ id = 1 }]')
    found = survey(read_suite(path))
    interrupted, trained = found.runs[5], found.runs[8]
    for run, name in ((interrupted, "latest"), (trained, "final")):
        run.folder.mkdir(parents=True)
        (run.folder / f"checkpoint_{name}.pth").touch()
    step = tmp_path / "step"
    step.write_text(PRETENDED_STEP)
    step.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(step))
    monkeypatch.setattr(engine, "usable_cores", lambda: 1)
    with ThreadPoolExecutor(1) as pool:  # in the main thread Snakemake would keep SIGTERM for itself
        assert pool.submit(engine.snakemake, found, path, "local", ()).result()
    order = [line.split() for line in (work_folder(SUITE) / "order").read_text().splitlines()]
    receipts = [receipt for step, receipt in order if step == "train"]
    assert len(receipts) == 10
    assert set(receipts[:2]) == {str(interrupted.training_receipt), str(trained.training_receipt)}


def test_folders_may_be_relative_to_where_the_driver_starts(folders, tmp_path, monkeypatch):
    """Snakemake goes elsewhere, and the jobs with it."""
    path = tmp_path / "suite.toml"
    path.write_text('name = "cells"\ntrainers = ["A"]\nreference = "A"\nepochs = 100\ndatasets = [{ id = 1 }]')
    monkeypatch.chdir(tmp_path)
    for variable in (RAW, PREPROCESSED, RESULTS):
        monkeypatch.setenv(variable, os.path.relpath(os.environ[variable], tmp_path))
    step = tmp_path / "step"
    step.write_text(PRETENDED_STEP.replace('"{}"', """'{"parts": ["validation"]}'"""))
    step.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(step))
    found = survey(read_suite(path))
    assert engine.run_suite(found, path, "local", ())
    assert all(run.validation_receipt.exists() for run in found.runs)
