"""Proves that the status says of each run whether it is done, running, failed, stopped or waiting."""

import re
import subprocess
import sys

import pytest
from support.benchmark_commands import everything, finish

from nnunet_plugins.benchmark.runs import log_file, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.cli import main
from nnunet_plugins.files import write_json


def states(path, capsys):
    """State of each run by its name, and the last line."""
    main(["benchmark", "status", str(path)])
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert empty == ""
    found = dict(re.fullmatch(r"(.*?\S) {2,}(.*)", line).groups() for line in lines)
    assert len({line.index("  ") for line in lines} | {0}) <= 3
    return found, last


def write_log(suite, run, text):
    path = log_file(suite, "train", run.training_receipt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


TRACEBACK = "Traceback (most recent call last):\n  File ...\nRuntimeError: CUDA out of memory\n"


def test_status_of_a_suite_that_has_not_begun(root, suite_file, capsys):
    path = suite_file(("nnUNetTrainer", "DCFFSNetTrainer"))
    before = everything(root)
    found, last = states(path, capsys)
    names = [
        f"Dataset501_Cells 2d {trainer}_5epochs fold {fold}"
        for fold in (0, 1)
        for trainer in ("nnUNetTrainer", "DCFFSNetTrainer")
    ]
    assert found == dict.fromkeys(names, "waiting")
    assert last == f"0 of 4 trainings done. Logs: {root / 'nnUNet_results' / 'benchmarks' / 'tiny' / 'logs'}"
    assert everything(root) == before


@pytest.fixture
def first(suite_file):
    """A suite of two trainings on a preprocessed dataset, and the first one."""
    path = suite_file()
    suite = read_suite(path)
    run = runs(suite)[0]
    write_json(run.plan_receipt, {})
    write_json(run.preprocessing_receipt, {})
    return path, suite, run


def state_of_first(first, capsys):
    found, last = states(first[0], capsys)
    assert list(found.values())[1] == "waiting"
    return next(iter(found.values())), last


def test_training_with_metrics_is_done(first, capsys):
    _, suite, run = first
    finish(run)
    state, last = state_of_first(first, capsys)
    assert state == "done" and last.startswith("1 of 2 trainings done.")
    write_json(run.validation_receipt, {"tolerance": 2.0, "cases": []})  # the suite wants another
    assert state_of_first(first, capsys)[0] != "done"
    write_log(suite, run, TRACEBACK)  # of a training before the one that succeeded
    run.validation_receipt.unlink()
    log = log_file(suite, "validate", run.validation_receipt)
    assert state_of_first(first, capsys)[0] == "waiting"
    log.write_text("\n==== validate\n")
    assert state_of_first(first, capsys)[0] == "waiting to validate"
    log.write_text(f"\n==== validate\n{TRACEBACK}")
    assert state_of_first(first, capsys)[0] == f"failed to validate, see {log}"


@pytest.mark.parametrize("step", ["plan", "preprocess"])
def test_dataset_that_cannot_be_prepared_is_why_nothing_is_trained(step, first, capsys):
    path, suite, run = first
    receipt = run.plan_receipt if step == "plan" else run.preprocessing_receipt
    receipt.unlink()
    log = log_file(suite, step, receipt)
    log.parent.mkdir(parents=True)
    log.write_text("\n==== working\n")
    assert set(states(path, capsys)[0].values()) == {f"waiting to {step}"}
    log.write_text(f"\n==== working\n{TRACEBACK}")
    assert set(states(path, capsys)[0].values()) == {f"failed to {step}, see {log}"}


@pytest.fixture
def locked(first):
    """Let another process hold the training's lock."""
    script = (
        "import sys; from pathlib import Path; from nnunet_plugins.locks import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command_line = [sys.executable, "-c", script, str(first[2].folder / ".bench.lock")]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_training_that_another_process_works_on_is_running(first, locked, capsys):
    write_log(first[1], first[2], TRACEBACK)
    assert state_of_first(first, capsys)[0] == "running, epoch 0 of 5"
    log = first[2].folder / "training_log_2026_1_1_10_00_00.txt"
    log.write_text("2026: Epoch 0 \n2026: Epoch time: 3.1 s\n2026: \n2026: Epoch 1 \n2026: Epoch time: 3.1 s\n")
    assert state_of_first(first, capsys)[0] == "running, epoch 2 of 5"
    with log.open("a") as file:
        file.write("2026: Epoch 2 \n2026: train_loss -0.5\n")
    assert state_of_first(first, capsys)[0] == "running, epoch 2 of 5"


def test_training_whose_process_has_ended_is_not_running(first, capsys):
    first[2].folder.mkdir(parents=True)
    (first[2].folder / ".bench.lock").touch()
    write_log(first[1], first[2], "\n==== train\nUsing device: cpu\n")
    assert state_of_first(first, capsys)[0] == "stopped after epoch 0 of 5"


def test_training_whose_last_attempt_ended_with_a_traceback_has_failed(first, capsys):
    log = write_log(first[1], first[2], f"\n==== train (1)\nfine\n\n==== train (2)\n{TRACEBACK}")
    assert state_of_first(first, capsys)[0] == f"failed to train, see {log}"
    write_log(first[1], first[2], f"\n==== train (1)\n{TRACEBACK}\n==== train (2)\nepoch after epoch\n")
    assert state_of_first(first, capsys)[0] == "stopped after epoch 0 of 5"


def test_epochs_are_counted_on_after_a_restart(first, capsys):
    """The second attempt goes on from the checkpoint of epoch 1."""
    write_log(first[1], first[2], "")
    first[2].folder.mkdir(parents=True)
    epochs = "2026: Epoch {} \n2026: Epoch time: 3.1 s\n"
    (first[2].folder / "training_log_2026_1_1_10_00_00.txt").write_text("".join(map(epochs.format, (0, 1, 2))))
    (first[2].folder / "training_log_2026_1_1_11_00_00.txt").write_text(epochs.format(1))
    assert state_of_first(first, capsys)[0] == "stopped after epoch 2 of 5"
