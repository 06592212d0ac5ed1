"""Proves that the status says of each run how far it is: step, epoch, Dice, time left, or why nobody works on it."""

import itertools
import os
import subprocess
import sys

import pytest
from support.benchmark_commands import everything, finish
from support.holders import HOLD, line, process

from nnunet_plugins.benchmark.progress import TAIL, ends_of
from nnunet_plugins.benchmark.runs import log_file, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.cli import main
from nnunet_plugins.files import write_json


def rows(path, capsys):
    """Cells of each run by its trainer and fold, and the last line."""
    main(["benchmark", "status", str(path)])
    header, *lines, empty, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["TRAINER", "DATASET", "FOLD", "EPOCH", "DICE", "LEFT", "STATE"]
    assert empty == ""
    starts = [header.index(name) for name in header.split()]
    for row in lines:
        assert all(row[start - 1] == " " for start in starts[1:])
    cells = [[row[a:b].strip() for a, b in itertools.pairwise([*starts, None])] for row in lines]
    return {(trainer, int(fold)): tuple(found) for trainer, _, fold, *found in cells}, last


def states(path, capsys):
    found, last = rows(path, capsys)
    return {run: state for run, (*_, state) in found.items()}, last


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
    runs_of_suite = [(trainer, fold) for fold in (0, 1) for trainer in ("nnUNetTrainer", "DCFFSNetTrainer")]
    assert found == dict.fromkeys(runs_of_suite, "waiting") and list(found) == runs_of_suite
    assert last == f"0 of 4 trainings done, 4 waiting. Logs: {root / 'nnUNet_results' / 'benchmarks' / 'tiny' / 'logs'}"
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
    assert state == "done" and last.startswith("1 of 2 trainings done, 1 waiting. Logs")
    write_json(
        run.validation_receipt, {"tolerance": 2.0, "parts": ["validation"], "cases": []}
    )  # the suite wants another
    assert state_of_first(first, capsys)[0] != "done"
    write_log(suite, run, TRACEBACK)  # of a training before the one that succeeded
    run.validation_receipt.unlink()
    log = log_file(suite, "validate", run.validation_receipt)
    assert state_of_first(first, capsys)[0] == "waiting to validate"
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
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.stdin.close()


LOG = """2026-01-01 10:00:00: Epoch {} \n2026-01-01 10:00:01: Current learning rate: 0.01 \n2026: train_loss -0.5 \n\
2026: Pseudo dice [{}] \n2026: Epoch time: {} s \n"""


def write_epochs(run, *epochs, name="2026_1_1_10_00_00", begun=""):
    """Write nnU-Net's log of epochs, each with the Dice of its labels and its time, and the beginning of a last one."""
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / f"training_log_{name}.txt"
    log.write_text("".join(LOG.format(*epoch) for epoch in epochs) + begun)
    return log


def row_of_first(first, capsys):
    return next(iter(rows(first[0], capsys)[0].values()))


def test_training_that_another_process_works_on_tells_epoch_dice_and_time_left(first, locked, capsys):
    write_log(first[1], first[2], TRACEBACK)
    assert row_of_first(first, capsys) == ("0 of 5", "-", "-", "training")
    write_epochs(first[2], (0, "0.0", 3.0), (1, "np.float32(0.5), np.float64(0.75), nan", 5.0))
    assert row_of_first(first, capsys) == ("2 of 5", "0.625", "12 s", "training")
    write_epochs(first[2], (0, "0.0", 3.0), (1, "0.5, 0.75", 5.0), begun="2026: Epoch 2 \n2026: train_loss -0.5\n")
    assert row_of_first(first, capsys) == ("2 of 5", "0.625", "12 s", "training")


def test_time_left_is_that_of_the_last_epochs(first, locked, capsys):
    """The first ones compile and benchmark; and a long log is read from its end."""
    epochs = [(epoch, "0.5", 1000.0 if epoch < 300 else 60.0) for epoch in range(400)]
    log = write_epochs(first[2], *epochs)
    assert log.stat().st_size > 32768
    first[0].write_text(first[0].read_text().replace("epochs = 5", "epochs = 460"))
    first[2].lock_file.rename(first[2].folder / "elsewhere")  # the folder of another length is another
    run = runs(read_suite(first[0]))[0]
    run.model.parent.mkdir(parents=True, exist_ok=True)
    first[2].model.rename(run.model)
    (run.folder / "elsewhere").rename(run.lock_file)
    assert row_of_first(first, capsys) == ("400 of 460", "0.500", "1 h 00 min", "training")


def test_a_long_log_is_read_from_its_end(tmp_path):
    log = tmp_path / "training_log.txt"
    log.write_bytes(b"a" * TAIL)
    assert list(ends_of(log)) == ["a" * TAIL]
    for further in range(1, 20):
        log.write_bytes(b"a" * further + b"b" * TAIL)
        assert list(ends_of(log)) == ["b" * TAIL, "a" * further + "b" * TAIL]


def test_validation_is_a_state_of_its_own_with_its_cases(first, locked, capsys):
    _, _, run = first
    write_epochs(run, *((epoch, "0.5", 3.0) for epoch in range(5)), begun="2026: predicting case\n" * 4000)
    (run.folder / "checkpoint_final.pth").touch()
    write_json(run.splits_file, [{"train": [], "val": ["a", "b", "c"]}] * 2)
    (run.folder / "validation").mkdir()
    (run.folder / "validation" / "b.png").touch()
    assert row_of_first(first, capsys) == ("5 of 5", "0.500", "-", "validating, 1 of 3 cases")
    write_json(run.training_receipt, {"parts": ["validation"], "sha256": {}})
    assert row_of_first(first, capsys) == ("5 of 5", "0.500", "-", "measuring")


def test_dice_of_a_training_that_is_done_is_that_of_its_cases(first, capsys):
    _, _, run = first
    finish(run)
    assert row_of_first(first, capsys) == ("5 of 5", "-", "-", "done")  # an earlier version's
    write_json(run.validation_receipt, {"tolerance": 1.0, "parts": ["validation"], "dice": 0.8125, "cases": []})
    assert row_of_first(first, capsys) == ("5 of 5", "0.812", "-", "done")


def test_training_whose_process_has_ended_is_not_running(first, capsys):
    first[2].folder.mkdir(parents=True)
    (first[2].folder / ".bench.lock").touch()
    write_log(first[1], first[2], "\n==== train\nUsing device: cpu\n")
    assert row_of_first(first, capsys) == ("-", "-", "-", "stopped")


def test_training_whose_last_attempt_ended_with_a_traceback_has_failed(first, capsys):
    log = write_log(first[1], first[2], f"\n==== train (1)\nfine\n\n==== train (2)\n{TRACEBACK}")
    assert state_of_first(first, capsys)[0] == f"failed to train, see {log}"
    write_log(first[1], first[2], f"\n==== train (1)\n{TRACEBACK}\n==== train (2)\nepoch after epoch\n")
    assert state_of_first(first, capsys)[0] == "stopped"


def test_epochs_are_counted_on_after_a_restart(first, capsys):
    """The second attempt goes on from the checkpoint of epoch 1; the third has not begun an epoch."""
    write_log(first[1], first[2], "")
    attempts = [write_epochs(first[2], *((epoch, "0.5", 3.1) for epoch in (0, 1, 2))),
                write_epochs(first[2], (1, "0.5", 3.1), name="2026_1_1_11_00_00"),
                write_epochs(first[2], name="2026_1_1_12_00_00")]  # fmt: skip
    for time, log in enumerate(attempts):
        os.utime(log, (time, time))
    assert row_of_first(first, capsys) == ("2 of 5", "0.500", "-", "stopped")


def test_dataset_that_another_process_prepares_says_so(first, capsys):
    path, _, run = first
    run.preprocessing_receipt.unlink()
    with process(HOLD, run.dataset_lock_file) as holder:
        assert line(holder) == "held"
        before = everything(run.preprocessed)
        assert set(states(path, capsys)[0].values()) == {"preprocessing"}
        assert everything(run.preprocessed) == before
        holder.communicate()
