"""Proves: the self-test trains and predicts through nnU-Net, fails whoever fails, and leaves nothing behind."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support.tiny_suite import have_ended

from nnunet_plugins import __version__
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.cli import main
from nnunet_plugins.processes import python_call
from nnunet_plugins.selftest import command
from nnunet_plugins.selftest.report import Outcome, row_of
from nnunet_plugins.trainers import TRAINERS

FAST = "DLKUNetTrainer"
FAILING = """
from torch import nn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class SelftestRaises(nnUNetTrainer):
    def initialize(self):
        raise RuntimeError("no such kernel\\nsecond line")

class SelftestNaN(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return nn.Conv2d(num_input_channels, num_output_channels, 3, padding=1)

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    def set_deep_supervision_enabled(self, enabled):
        pass

    def train_step(self, batch):
        loss = super().train_step(batch)["loss"]
        self.network.bias.data[0] = float("nan")
        return {"loss": loss}
"""
"""Trainers of a user: one raises, one has weights that are not numbers after its first step."""


@contextlib.contextmanager
def narrow_processes(suffix: str = "") -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(command, "DATA", ("support.narrow_selftest", f"prepare{suffix}"))
        monkeypatch.setattr(command, "TRIAL", ("support.narrow_selftest", f"run_trial{suffix}"))
        yield monkeypatch


def selftest(folder: Path, *arguments: str) -> tuple[object, str, dict[str, Any]]:
    """Exit code, output and report of the command on the CPU."""
    file, exit_code = folder / "new" / "report.json", None
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main(["selftest", "--device", "cpu", "--json", str(file), *arguments])
        except SystemExit as ended:
            exit_code = ended.code
    assert not isinstance(exit_code, str), exit_code
    return exit_code, output.getvalue(), json.loads(file.read_text())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[object, str, dict[str, Any]]:
    """A self-test of a main trainer and of those that fail."""
    folder = tmp_path_factory.mktemp("selftest")
    (folder / "failing.py").write_text(FAILING)
    with narrow_processes("_without_workers") as monkeypatch:
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(folder), DISCOVERY_FOLDER]))
        monkeypatch.setenv("nnUNet_results", "/nowhere")  # the user's own folders are left alone
        return selftest(folder, FAST, "SelftestRaises", "SelftestNaN")


def line_of(output: str, name: str) -> str:
    return next(line for line in output.splitlines() if line.startswith(f"{name} "))


def row(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in report["trainers"] if row["trainer"] == name)


def check_passed(row: dict[str, Any]) -> None:
    size = command.SIZES["cpu"]
    assert row["passed"], row["reason"]
    assert [step["epoch"] for step in row["steps"]] == [0] * size.iterations + [1] * size.iterations
    *times, uncounted = [step["milliseconds"] for step in row["steps"][size.iterations + 1 :]]
    assert 0 < min(times) <= row["step_ms"] <= max(times) and uncounted is None
    assert row["estimate_bytes"] == pytest.approx(row["peak_bytes"], rel=0.15)
    assert row["non_finite"] == {"losses": 0, "gradients": 0, "weights": False}
    assert row["prediction"]
    assert row["parameters"] > 0
    assert not row["compiled"]
    assert row["log"] == []


def test_a_main_trainer_passes(mixed):
    _, output, report = mixed
    check_passed(row(report, FAST))
    line = line_of(output, FAST)
    assert line.split()[1] == "pass"
    assert re.search(r" \d+ ms +\d+ MiB +\d+ MiB \([+-]\d+%\) ", line)


def test_failures_make_the_command_fail_and_do_not_end_the_others(mixed):
    exit_code, output, report = mixed
    assert exit_code == 1
    assert [row["passed"] for row in report["trainers"]] == [True, False, False]
    assert output.endswith("2 of 3 trainers failed.\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SelftestRaises", "training: RuntimeError: no such kernel"),
        ("SelftestNaN", "training: 3 of 4 losses are not finite"),
    ],
)
def test_a_failure_has_its_reason_in_its_line(mixed, name, reason):
    _, output, report = mixed
    assert row(report, name)["reason"] == reason
    line = line_of(output, name)
    assert line.split()[1] == "FAIL" and line.endswith(reason)


def test_the_last_output_of_a_failed_trainer_is_shown(mixed):
    _, output, report = mixed
    log = row(report, "SelftestRaises")["log"]
    assert "RuntimeError: no such kernel" in log
    shown = output.partition("The output of SelftestRaises ends with:\n")[2].splitlines()
    assert shown[: len(log)] == [f"  {line}".rstrip("\n") for line in log]


def test_values_that_are_not_finite_are_counted(mixed):
    _, output, report = mixed
    failed = row(report, "SelftestNaN")
    assert [step["loss"] is None for step in failed["steps"]] == [False] + [True] * 3  # then the trainer ends it
    assert failed["non_finite"] == {"losses": 3, "gradients": 3, "weights": True}
    assert "3 of 4 losses, 3 of 4 gradients, weights" in line_of(output, "SelftestNaN")


def test_the_report_says_what_was_measured_with_what(mixed):
    _, output, report = mixed
    assert (report["device"], report["patch"], report["batch"]) == ("cpu", [64, 64], 2)
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["nnunet-plugins"] == __version__
    assert "Device cpu, patch 64 x 64, batch 2, 2 epochs of 4 steps, float32, not compiled" in output
    assert "a CPU's peak is that of the tensors" in output
    assert f"torch {torch.__version__}, nnunetv2 2." in output


@pytest.mark.slow
def test_all_main_trainers_pass_on_the_cpu(tmp_path):
    with narrow_processes():
        exit_code, output, report = selftest(tmp_path)
    assert [row["trainer"] for row in report["trainers"]] == list(command.MAIN_TRAINERS)
    for passed in report["trainers"]:
        check_passed(passed)
    assert exit_code is None
    assert output.endswith("All trainers passed.\n")


def test_the_main_trainers_are_nnunets_and_the_methods():
    assert command.MAIN_TRAINERS[0] == "nnUNetTrainer"
    assert all(TRAINERS[name].varies.startswith("the paper's method") for name in command.MAIN_TRAINERS[1:])
    methods = [row.name for row in TRAINERS.values() if row.varies.startswith("the paper's method")]
    assert list(command.MAIN_TRAINERS[1:]) == methods


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NoSuchTrainer", f"{FAST}_5epochs", "../trainer"])
def test_unknown_trainers_are_refused_before_anything_is_done(name):
    with pytest.raises(SystemExit, match=r"^There is no trainer '.*' whose length can be chosen: give names without"):
        main(["selftest", "--device", "cpu", FAST, name])


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(SystemExit, match=r"^--device cuda: torch sees no GPU here; 'nnunet-plugins doctor' says why"):
        main(["selftest", "--device", "cuda"])


def test_a_report_over_a_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"^--json .* is a folder: give the name of a file"):
        main(["selftest", "--device", "cpu", "--json", str(tmp_path)])


def test_data_that_cannot_be_prepared_are_told_with_the_last_output(monkeypatch):
    monkeypatch.setattr(command, "DATA", ("no_such_module", "main"))
    with pytest.raises(SystemExit, match=r"(?s)cannot plan and preprocess .*exit code 1.*No module named"):
        main(["selftest", "--device", "cpu", FAST])


# ---- the judgement ---------------------------------------------------------------------------------------------------

FINISHED = Outcome(0, 1.0, [])


def record(*, finite: str = "++++", scaler: bool = True, peaks: tuple[int, ...] = (9, 1, 7, 2)) -> dict[str, Any]:
    """Record of a training on a GPU: one character for each step, + where its gradients are finite."""
    steps = [
        {"epoch": i // 2, "milliseconds": float(i), "loss": 0.5, "gradients_finite": character == "+", "peak": peak}
        for i, (character, peak) in enumerate(zip(finite, peaks, strict=True))
    ]
    return {"part": "end", "steps": steps, "weights_finite": True, "gradient_scaler": scaler, "gpu": "H200"}


def test_steps_that_a_gradient_scaler_skips_are_counted_and_are_no_failure():
    judged = row_of("A", record(finite="--++"), FINISHED)
    assert judged["passed"]
    assert judged["non_finite"]["gradients"] == 2


@pytest.mark.parametrize(
    ("finite", "scaler", "reason"),
    [
        ("+++-", True, "training: the gradients of the last step still overflow half precision"),
        ("-+++", False, "training: the gradients of 1 of 4 steps are not finite"),
    ],
)
def test_gradients_that_stay_infinite_are_a_failure(finite, scaler, reason):
    assert row_of("A", record(finite=finite, scaler=scaler), FINISHED)["reason"] == reason


def test_weights_that_are_not_finite_are_a_failure():
    judged = row_of("A", record() | {"weights_finite": False}, FINISHED)
    assert judged["reason"] == "training: weights or running statistics are not finite"


def test_time_and_memory_are_those_of_the_last_epoch_without_its_first_step():
    judged = row_of("A", record(peaks=(9, 8, 7, 2)), FINISHED)
    assert (judged["step_ms"], judged["peak_bytes"]) == (3.0, 2)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(-signal.SIGKILL, 1.0, []), "prediction: the process was killed, perhaps for want of memory"),
        (Outcome(-signal.SIGSEGV, 1.0, []), f"prediction: the process was ended by signal {int(signal.SIGSEGV)}"),
        (Outcome(3, 1.0, []), "prediction: the process ended with exit code 3"),
        (Outcome(None, 1200.0, []), "prediction: the process had not ended after 20 minutes"),
    ],
)
def test_a_process_that_ends_badly_fails_in_the_part_that_it_had_begun(outcome, reason):
    judged = row_of("A", record() | {"part": "prediction"}, outcome)
    assert (judged["passed"], judged["prediction"], judged["reason"]) == (False, False, reason)


def test_a_process_without_a_record_has_failed_at_its_start():
    assert row_of("A", {}, Outcome(1, 1.0, []))["reason"] == "start: the process ended with exit code 1"


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_process_that_hangs_is_ended_with_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "TIME_LIMIT", 3.0)
    program = (
        "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
        ".pid, flush=True); time.sleep(600)"
    )
    outcome = command.run_process([sys.executable, "-c", program], tmp_path, "log")
    assert outcome.exit_code is None and outcome.seconds >= 3
    assert has_ended(int(outcome.log[0]))


def has_ended(pid: int) -> bool:
    """Whether a process that was killed ends within seconds."""
    try:
        return have_ended([psutil.Process(pid)], timeout=10)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_selftest_ends_its_processes_and_removes_its_folder(tmp_path, number):
    arguments = ["nnunet-plugins", "selftest", "--device", "cpu", FAST]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        python_call("nnunet_plugins.cli", "main", arguments), env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 60
        while not (children := psutil.Process(process.pid).children()) or not list(tmp_path.glob("*selftest*/*.log")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*selftest*"))  # torch may leave a folder of its own
    assert have_ended(children, timeout=10)
