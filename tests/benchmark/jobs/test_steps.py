"""Proves that the process of a job ends the processes it must, and logs all that it and its children print."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import tiny_suite
from support.cell_datasets import LABELS

from nnunet_plugins.benchmark.jobs import steps
from nnunet_plugins.benchmark.runs import runs, stop_file
from nnunet_plugins.benchmark.suite import read_suite


def test_no_step_begins_while_its_driver_stops(run, tmp_path):
    suite_file = tiny_suite.write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}")
    suite = read_suite(suite_file)
    run = runs(suite)[0]
    stop_file(suite).parent.mkdir(parents=True)
    stop_file(suite).touch()
    with pytest.raises(SystemExit) as stopped:
        steps.main(["train", str(suite_file), str(run.training_receipt)])
    assert stopped.value.code == 1
    assert not run.folder.exists()


FIRST_ATTEMPT_IS_KILLED = """
import os, signal, sys, time
from pathlib import Path
started = Path(sys.argv[1])
if not started.exists():
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    started.write_text(str(worker))
    os.kill(os.getpid(), signal.SIGKILL)
from nnunet_plugins.benchmark.jobs.training import end_orphans
end_orphans(sys.argv[1])
print("went on")
"""


def test_workers_of_a_killed_training_are_ended(tmp_path):
    script, started, other = tmp_path / "train.py", tmp_path / "started", tmp_path / "other"
    script.write_text(FIRST_ATTEMPT_IS_KILLED)
    command = [sys.executable, "-P", script]
    try:
        for marker in (started, other):
            assert subprocess.run([*command, marker]).returncode == -signal.SIGKILL
        worker, worker_of_other = (psutil.Process(int(marker.read_text())) for marker in (started, other))
        assert worker.is_running()
        second = subprocess.run([*command, started], capture_output=True, text=True)
        assert (second.returncode, second.stdout) == (0, "went on\n")
        assert tiny_suite.have_ended([worker], timeout=5)
        assert tiny_suite.is_alive(worker_of_other)
    finally:
        for marker in (started, other):
            if marker.exists() and psutil.pid_exists(int(marker.read_text())):
                os.kill(int(marker.read_text()), signal.SIGKILL)


SAME_COMMAND = """
import sys
from nnunet_plugins.benchmark.jobs.training import end_orphans
if sys.stdin.readline() == "end\\n":
    end_orphans("a receipt")
sys.stdin.read()
"""


def test_a_process_that_is_not_a_job_kills_no_others():
    """All workers of a parallel test run have the same command."""
    command = [sys.executable, "-c", SAME_COMMAND]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as other:
        subprocess.run(command, input="end\n", text=True, check=True)
        assert other.poll() is None
        other.communicate("")
        assert other.returncode == 0


LOGGED = """
import os, signal, subprocess, sys
from pathlib import Path
from nnunet_plugins.benchmark.jobs.steps import logged
with logged(Path(sys.argv[1]), "train fold 0"):
    print("an epoch")
    exec(sys.argv[2])
"""


def logged(path: Path, code: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", LOGGED, path, code], capture_output=True, text=True, env=environment)


def test_the_log_has_what_children_print_and_the_terminal_nothing(tmp_path):
    path = tmp_path / "new" / "a.log"
    finished = logged(path, "subprocess.run(['echo', 'a child']); print('a warning', file=sys.stderr)")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert {"an epoch", "a child", "a warning"} <= set(path.read_text().splitlines())


def test_a_failure_is_one_sentence_on_the_terminal_and_a_traceback_in_the_log(tmp_path):
    path = tmp_path / "a.log"
    for _ in range(2):
        finished = logged(path, "raise RuntimeError('no\\n memory')")
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr == f"train fold 0 failed: no memory. See {path}\n"
    assert path.read_text().count("Traceback") == 2


def test_an_interrupted_step_has_not_failed(tmp_path):
    path = tmp_path / "a.log"
    finished = logged(path, "raise KeyboardInterrupt")
    assert (finished.returncode, finished.stdout, finished.stderr) == (128 + signal.SIGINT, "", "")
    assert path.read_text().endswith("Interrupted\n") and "Traceback" not in path.read_text()


def test_the_log_of_a_killed_step_has_what_it_printed(tmp_path):
    path = tmp_path / "a.log"
    assert logged(path, "os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    assert "an epoch" in path.read_text()
