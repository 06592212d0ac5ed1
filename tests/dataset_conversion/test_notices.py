"""Proves: what may be wrong with masks, though it is no error, is counted and said with examples."""

import numpy as np
import pytest
from support.files import save
from support.refusals import PNGS, SIZE, assert_says, convert, mask, picture, with_source

pytestmark = pytest.mark.usefixtures("nnunet_folders")
GROUPED = tuple(option.replace("/*.png", "/*/*.png") for option in PNGS)


@pytest.fixture
def patients(tmp_path):
    """Three patients with two images each."""
    for patient in "abc":
        for index in range(2):
            save(tmp_path / f"download/images/{patient}/{index}.png", picture(index))
            save(tmp_path / f"download/masks/{patient}/{index}.png", mask())
    return tmp_path / "download"


def test_foreground_of_more_than_half_is_counted_with_the_remedy(download, capsys):
    save(download / "masks/1.png", 255 - mask())
    convert(*with_source(PNGS, download))
    text = "more than half of 1 image, such as 1: if it should be the background there, name both in --label-map"
    assert_says(capsys.readouterr().out, text)


def test_remedy_for_inverted_masks_turns_them(download, capsys):
    for index in range(3):
        save(download / f"masks/{index}.png", 255 - mask())
    convert(*with_source(PNGS, download), "--label-map", "255=background", "0=cell")
    assert_says(capsys.readouterr().out, f"1 cell ({(mask() > 0).mean():.3%})")


def test_masks_without_foreground_are_counted(download, capsys):
    for index in (0, 2):
        save(download / f"masks/{index}.png", np.zeros(SIZE, np.uint8))
    convert(*with_source(PNGS, download))
    assert_says(capsys.readouterr().out, "No foreground in 2 cases, such as 0 and 2.")


ENTRIES = ("--label-map", "0=background", "255=cell", "7=tool")


def test_label_of_one_case_and_label_of_none_are_told(patients, capsys):
    convert(*with_source(GROUPED, patients), *ENTRIES, "--dry-run")
    assert_says(capsys.readouterr().out, "No training case has the label tool.")
    array = mask()
    array[0, :3] = 7
    save(patients / "masks/b/1.png", array)
    convert(*with_source(GROUPED, patients), *ENTRIES, "--dry-run")
    assert_says(capsys.readouterr().out, "Only 1 training case, b_1, has the label tool")
    save(patients / "masks/b/0.png", array)
    convert(*with_source(GROUPED, patients), *ENTRIES, "--dry-run")
    assert_says(capsys.readouterr().out, "Only 2 training cases, of the group b, have the label tool")
    save(patients / "masks/c/0.png", array)
    convert(*with_source(GROUPED, patients), *ENTRIES, "--dry-run")
    assert "have the label" not in capsys.readouterr().out
