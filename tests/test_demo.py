"""Proves: the demo touches no folder but its own, and takes a trainer through nnU-Net's real commands."""

import os
import pty
import subprocess
import sys
import termios
from contextlib import chdir, redirect_stdout
from io import StringIO

import pytest
from skimage.io import imread

from nnunet_plugins import demo
from nnunet_plugins.errors import UserError

NUM_TEST = 2


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match=r"not empty and was not made by the demo: .*--keep DIR"):
        demo.run_demo(tmp_path, "DCFFSNetTrainer", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"cannot use .*file .*--keep DIR"):
        demo.run_demo(file, "DCFFSNetTrainer", 1)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "DCFFSNetTrainer_5epochs", "NoSuchTrainer"])
def test_trainers_outside_the_table_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=f"{name}.*nnunet-plugins list"):
        demo.run_demo(tmp_path / "new", name, 1)
    assert not (tmp_path / "new").exists()


def test_no_epochs_are_refused(tmp_path):
    with pytest.raises(UserError, match="--epochs 0: expected at least 1"):
        demo.run_demo(tmp_path / "new", "DCFFSNetTrainer", 0)


def test_failing_command_is_reported_with_its_log_and_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "python_command", lambda _: [sys.executable, "-c", "raise SystemExit('no such dataset')"])
    with pytest.raises(UserError, match=r"(?s)nnUNetv2_train failed \(exit code 1\): see .*demo.log.*no such dataset"):
        demo.Shell(tmp_path).run("nnUNetv2_train 999 2d 0")
    assert "no such dataset" in (tmp_path / "demo.log").read_text()


@pytest.mark.skipif(os.name != "posix", reason="terminals")
def test_a_terminal_shows_how_long_a_silent_command_has_worked_and_what_it_said(tmp_path):
    program = (
        "from nnunet_plugins import demo; from pathlib import Path; import sys, time\n"
        "with demo.live_line(['first', 'reading the images']): time.sleep(1.4)"
    )
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    subprocess.run([sys.executable, "-c", program], stderr=writer, check=True)
    os.set_blocking(reader, False)  # where nothing is shown, nothing can be read
    shown = os.read(reader, 10_000).decode()
    os.close(writer)
    os.close(reader)
    assert "00:01  reading the images" in shown
    silent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (silent.stdout, silent.stderr) == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_command_does_not_hang_the_demo_though_its_workers_live_on(tmp_path, monkeypatch):
    program = (
        "import os, signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setattr(demo, "python_command", lambda _: [sys.executable, "-c", program])
    with pytest.raises(UserError, match="killed, perhaps for want of memory"):
        demo.Shell(tmp_path).run("nnUNetv2_train 501 2d 0")


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory):
    """A whole demo, far too short to learn anything, and its output."""
    folder = tmp_path_factory.mktemp("demo")
    with chdir(folder), redirect_stdout(StringIO()) as output:
        demo.run_demo(None, "DCFFSNetTrainer", 1, iterations=2, num_train=5, num_test=NUM_TEST)
    return folder / demo.DEFAULT_FOLDER, output.getvalue()


def test_demo_shows_the_commands_that_it_runs(finished_demo):
    _, output = finished_demo
    typed = [line.split()[1] for line in output.splitlines() if line.startswith("$ nnUNet")]
    assert typed == ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_evaluate_folder"]
    assert "-tr DCFFSNetTrainer_1epoch_2iterations -device" in output
    assert "epoch 1/1: Dice" in output
    assert "It takes about 2 minutes on two CPU cores" in output
    assert "synthetic" in output.lower()


def test_demo_ends_with_table_picture_and_the_commands_for_own_data(finished_demo):
    folder, output = finished_demo
    report = output[output.index(f"{NUM_TEST} held-out") :]
    for expected in (
        "Dice",
        "IoU",
        "±",
        str(folder / "demo.png"),
        "nnUNetv2_train 123 2d 0 -tr DCFFSNetTrainer",
        "convert folder new_data -d 123 --test-images 'images/*.png' -o new_data_123",
        "--groups",
    ):
        assert expected in report
    assert "convert folder my_data -d 123" in report
    assert imread(folder / "demo.png").std() > 20
    assert len(list((folder / "predictions").glob("*.png"))) == NUM_TEST
    assert not any((folder / "results").iterdir())


def test_demo_can_be_run_again_in_its_folder_beside_files_of_the_user(finished_demo):
    """Whoever types on in the shell of the demo has datasets and models of their own in its folders."""
    folder, _ = finished_demo
    mine = {"mine.txt", "raw/Dataset123_Mine/dataset.json", "results/Dataset123_Mine/T__P__2d/fold_0/a.pth"}
    for path in (folder / name for name in mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    demo.prepare_folder(folder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {demo.MARKER, *mine}
