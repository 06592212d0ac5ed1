"""Proves that a running suite tells each event once in a file, and keeps one table up to date on a terminal."""

import os
import pty
import re
import subprocess
import sys

import pytest
from support.benchmark_commands import finish
from support.holders import HOLD, line, process
from support.suite_files import TWO_DATASETS

from nnunet_plugins.benchmark.jobs import watch
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.files import write_json

EPOCH = "2026: Epoch {} \n2026: Pseudo dice [0.5, 0.75] \n2026: Epoch time: 3.0 s\n"


@pytest.fixture
def first(folders):
    """The first training, on a dataset that is prepared."""
    run = runs(TWO_DATASETS)[0]
    run.folder.mkdir(parents=True)
    write_json(run.splits_file, [{"train": [], "val": [str(case) for case in range(40)]}] * 5)
    write_json(run.preprocessed / "dataset.json", {"file_ending": ".png"})
    return run


def write_epochs(run, number):
    (run.folder / "training_log_1.txt").write_text("".join(map(EPOCH.format, range(number))))


def events(capsys):
    """Lines since the last call, without their times."""
    return [re.sub(r"^[\d-]+ [\d:]+  ", "", text) for text in capsys.readouterr().out.splitlines()]


def test_a_file_gets_one_line_for_each_event(first, capsys):
    with watch.lines(watch.Watch(survey(TWO_DATASETS))) as tell:
        assert events(capsys)[0].startswith("0 of 8 trainings done, 8 waiting. Logs: ")
        tell(True)
        with process(HOLD, first.dataset_lock_file) as holder:
            assert line(holder) == "held"
            tell(True)
            tell(True)
            holder.communicate()
        assert events(capsys) == ["0 of 8 done  Dataset001_Cells: planning"]  # of all four of its trainings
        for receipt in (first.plan_receipt, first.preprocessing_receipt):
            write_json(receipt, {})
        with process(HOLD, first.lock_file) as holder:
            assert line(holder) == "held"
            for epochs in (0, 1, 9, 10, 11, 12, 20):
                write_epochs(first, epochs)
                tell(True)
            (first.folder / "checkpoint_final.pth").touch()
            tell(True)
            (first.folder / "validation").mkdir()
            for case in range(21):
                (first.folder / "validation" / f"{case}.png").touch()
                tell(True)
            holder.communicate()
        begun, tenth, fifth, validating, *predicted = events(capsys)
        assert begun == f"0 of 8 done  {first}: training, epoch 0 of 100"
        assert tenth == f"0 of 8 done  {first}: training, epoch 10 of 100, Dice 0.625, 4 min left"
        assert fifth == f"0 of 8 done  {first}: training, epoch 20 of 100, Dice 0.625, 4 min left"
        assert validating == f"0 of 8 done  {first}: validating, 0 of 40 cases, Dice 0.625"
        assert predicted == [
            f"0 of 8 done  {first}: validating, {number} of 40 cases, Dice 0.625" for number in range(4, 21, 4)
        ]
        finish(first)
        tell(True)
        tell(True)
        assert events(capsys) == [f"1 of 8 done  {first}: done"]


def test_what_was_done_before_is_told_once_and_not_looked_at_again(first, capsys, monkeypatch):
    finish(first)
    with watch.lines(watch.Watch(survey(TWO_DATASETS))) as tell:
        assert events(capsys)[0].startswith("1 of 8 trainings done, 7 waiting")
        looked_at = []
        monkeypatch.setattr(watch.Watch, "now", lambda self, run: looked_at.append(run) or self.progress[run])
        tell(True)
        assert len(looked_at) == 7 and first not in looked_at
        assert not events(capsys)


def test_looking_takes_a_small_part_of_the_time(first, monkeypatch):
    watched = watch.Watch(survey(TWO_DATASETS))
    times = iter([100.0, 102.0, 103.0, 139.0, 143.0, 144.0])
    monkeypatch.setattr(watch.time, "monotonic", lambda: next(times))
    looked_at = []
    monkeypatch.setattr(watched, "now", lambda run: looked_at.append(run) or watched.progress[run])
    for expected in (8, 8, 8, 16):  # looks of two seconds are forty apart
        watched.look()
        assert len(looked_at) == expected


ON_A_TERMINAL = """
import subprocess, sys
from pathlib import Path
from support.benchmark_commands import finish
from support.suite_files import TWO_DATASETS
from nnunet_plugins.benchmark.jobs.watch import telling
from nnunet_plugins.benchmark.survey import survey

found = survey(TWO_DATASETS)
with telling(found) as tell:
    tell(True)
    subprocess.run(["sh", "-c", "echo 'train A failed: no [memory]' >&2"])
    finish(found.runs[0])
    tell(True)
print("after the table")
"""


def test_a_terminal_has_one_table_and_messages_above_it(first):
    controller, terminal = pty.openpty()
    environment = os.environ | {
        "COLUMNS": "120",
        "LINES": "12",
        "TERM": "xterm",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", ON_A_TERMINAL]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as started:
        os.close(terminal)
        output = b""
        while chunk := read(controller):
            output += chunk
        assert started.wait() == 0, output.decode()
    os.close(controller)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.decode())
    assert text.count("TRAINER") >= 2 and "\x1b[1A" in output.decode()  # drawn again, in the same place
    rows = [row.split() for row in text[text.rindex("TRAINER") :].splitlines()]
    assert rows[0] == ["TRAINER", "DATASET", "FOLD", "EPOCH", "DICE", "LEFT", "STATE"]
    table = [row for row in rows[1:] if "Dataset001_Cells" in row or "Dataset002_Nuclei" in row]
    assert len(table) == 6  # as many as the terminal has lines for
    assert "1 of 8 trainings done, 7 waiting" in text and "0 of 8 trainings done" in text
    assert "train A failed: no [memory]" in text
    assert text.rstrip().endswith("after the table")


def read(controller):
    """Next bytes that a terminal shows; none when all its users are gone."""
    try:
        return os.read(controller, 65536)
    except OSError:
        return b""
