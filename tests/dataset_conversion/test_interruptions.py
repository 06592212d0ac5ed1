"""Proves: a full disk, a signal or several problems end a conversion that leaves nothing behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from support.files import save
from support.refusals import (
    PNGS,
    VOLUMES,
    assert_says,
    convert,
    everything_below,
    picture,
    refusal_in_one_sentence,
    refusal_text,
    truncate,
    with_source,
)

from nnunet_plugins.dataset_conversion import writer

pytestmark = pytest.mark.usefixtures("nnunet_folders")


# ---- full disks ------------------------------------------------------------------------------------------------------


def failing_after(calls: int, original, error: BaseException):
    """Function that calls ``original`` so many times, and then raises ``error``."""
    count = 0

    def function(*arguments, **options):
        nonlocal count
        count += 1
        if count > calls:
            raise error
        return original(*arguments, **options)

    return function


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_disk_that_is_full_on_the_way_leaves_nothing(download, monkeypatch, calls):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Image.Image, "save", failing_after(calls, Image.Image.save, full))
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        os.environ["nnUNet_raw"],
        "the disk is full",
        "make room or set nnUNet_raw",
    )


@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("ITK\nERROR: full")])
def test_disk_that_is_full_for_volumes_leaves_nothing(volumes, monkeypatch, calls, error):
    monkeypatch.setattr(sitk, "WriteImage", failing_after(calls, sitk.WriteImage, error))
    assert_says(
        refusal_in_one_sentence(*with_source(VOLUMES, volumes)),
        os.environ["nnUNet_raw"],
        "full",
        "make room or set nnUNet_raw",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_volume_that_a_really_full_disk_has_cut_off_is_noticed(volumes, monkeypatch, kind):
    """SimpleITK itself prints a warning and goes on."""
    original = sitk.WriteImage

    def write_to_full_disk(image, path):
        if kind in Path(path).parts:
            Path(path).symlink_to("/dev/full")
        original(image, path)

    monkeypatch.setattr(sitk, "WriteImage", write_to_full_disk)
    assert_says(
        refusal_in_one_sentence(*with_source(VOLUMES, volumes)),
        os.environ["nnUNet_raw"],
        "could not be written",
        "make room",
    )


def test_disk_that_is_full_for_the_report_leaves_nothing(download, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(writer.output, "write_report", failing_after(0, None, full))
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        os.environ["nnUNet_raw"],
        "No space left on device",
        "make room",
    )


@pytest.mark.parametrize("calls", [0, 3])
def test_interrupted_conversion_leaves_nothing(download, monkeypatch, calls):
    monkeypatch.setattr(Image.Image, "save", failing_after(calls, Image.Image.save, KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit:
        convert(*with_source(PNGS, download))
    assert exit.value.code == 130
    assert not everything_below()


def test_conversion_interrupted_while_unpacking_leaves_nothing(download, monkeypatch):
    archive = shutil.make_archive(str(download), "zip", download)
    monkeypatch.setattr(shutil, "copyfileobj", failing_after(2, shutil.copyfileobj, KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit:
        convert(*with_source(PNGS, Path(archive)))
    assert exit.value.code == 130
    assert not everything_below()


@pytest.mark.parametrize("processes", [1, 2])
def test_conversion_that_a_batch_system_ends_leaves_nothing(download, processes):
    """The signal comes while the last picture, which takes seconds, is being written."""
    save(download / "images/z.png", picture(0, (2000, 2000, 3)), compress_level=0)
    save(download / "masks/z.png", np.zeros((2000, 2000), np.uint8))
    command = "import sys; from nnunet_plugins.cli import main; main(sys.argv[1:])"
    arguments = ["convert", *map(str, with_source(PNGS, download)), "-np", str(processes)]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(Path(os.environ["nnUNet_raw"]).glob(".*.partial/images/z_*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not everything_below()


# ---- several problems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
def test_all_problems_are_listed_at_once(download, dry_run):
    (download / "masks/0.png").unlink()
    truncated = truncate(download / "images/1.png")
    grey = save(download / "masks/2.png", picture()[..., 0])
    text = refusal_text(*with_source(PNGS, download), *(["--dry-run"] if dry_run else []))
    *problems, last = text.splitlines()
    assert len(problems) == 3
    assert all(problem.startswith("- ") for problem in problems)
    assert_says(text, download / "images/0.png", truncated, grey)
    assert_says(last, download, "these 3 problems", "nothing was converted")


def test_problems_end_the_process_with_1_and_no_traceback(download):
    (download / "masks/0.png").unlink()
    truncate(download / "images/1.png")
    command = "import sys; from nnunet_plugins.cli import main; main(sys.argv[1:])"
    arguments = ["convert", *map(str, with_source(PNGS, download)), "-np", "1", "--dry-run"]
    ended = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert_says(ended.stderr, "these 2 problems", "images/0.png", "images/1.png")
    assert not everything_below()
