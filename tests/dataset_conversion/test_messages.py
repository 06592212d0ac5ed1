"""Proves: equal problems are said once with examples and all in a file, and what is printed leads on to training."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.files import save
from support.refusals import (
    PNGS,
    SIZE,
    assert_says,
    convert,
    mask,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

from nnunet_plugins.cli import main

pytestmark = pytest.mark.usefixtures("nnunet_folders")


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Folder for temporary files of the test's own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def many(tmp_path) -> Path:
    """Twelve images in ``my data``, of which eight have masks of other values and two have none."""
    for index in range(12):
        save(tmp_path / f"my data/images/p {index}.png", picture(index))
        array = np.zeros(SIZE, np.uint8)
        array[3:9, 4 : 9 + index] = 100 + index % 3 if index < 8 else 255
        if index < 10:
            save(tmp_path / f"my data/masks/p {index}.png", array)
    return tmp_path / "my data"


def test_equal_problems_are_said_once_and_all_in_a_file(many, temporary):
    text = refusal_text(*with_source(PNGS, many))
    lines = text.splitlines()
    assert len(lines) == 4
    assert_says(lines[0], "p 10.png has no mask", "masks/p 10.png")
    assert_says(lines[1], "p 11.png has no mask")
    assert_says(
        lines[2],
        "masks/p 0.png has the values 0 (",
        "(and 7 more of this kind, such as masks/p 1.png and masks/p 2.png)",
    )
    assert_says(lines[2], "all of them together need --label-map 0=background 100=NAME1 101=NAME2 102=NAME3")
    assert_says(lines[3], "these 10 problems", "nothing was converted")
    (path,) = temporary.iterdir()
    assert lines[3].endswith(str(path))
    told = path.read_text().splitlines()
    assert len(told) == 10 and sum("masks/p 3.png" in line for line in told) == 1


def test_line_for_all_values_converts_the_masks(many, temporary):
    for index in (10, 11):
        (many / f"images/p {index}.png").unlink()
    text = refusal_text(*with_source(PNGS, many))
    entries = re.search(r"together need --label-map (.*)", text)[1].split()
    names = [entry.replace("NAME", f"class{number}") for number, entry in enumerate(entries)]
    convert(*with_source(PNGS, many), "--label-map", *names, "255=other")


def test_few_problems_are_listed_without_a_file(many, temporary):
    for index in range(8):
        save(many / f"masks/p {index}.png", mask())
    assert len(refusal_text(*with_source(PNGS, many)).splitlines()) == 3
    assert not list(temporary.iterdir())


def test_pattern_that_finds_nothing_is_answered_with_what_is_there(download):
    (download / "images/0.png").rename(download / "images/0.dcm")
    (download / "masks/Thumbs.db").write_bytes(b"x")
    options = [option.replace("images/*.png", "images/*.jpg") for option in PNGS]
    text = refusal_in_one_sentence(*with_source(options, download))
    assert_says(text, "'images/*.jpg'", "it has 3 masks/*.png, 2 images/*.png and 1 images/*.dcm")


def test_next_steps_lead_to_training(download, capsys):
    convert(*with_source(PNGS, download))
    said = capsys.readouterr().out
    assert_says(said, "nnUNetv2_plan_and_preprocess -d 7 -c 2d", "nnUNetv2_train 7 2d 0 -tr", "nnunet-plugins list")
    assert_says(said, f"Look at {raw_dataset()}/preview.png")


def test_list_says_which_datasets_are_part_of_what_is_published(capsys):
    main(["convert", "--list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "of 3064" in lines["brain_tumor"] and "of 1000" in lines["kvasir_small"]
    assert "of 1000" not in lines["kvasir_seg"]


def test_options_that_lack_are_named_with_an_example_that_has_them(download):
    text = refusal_in_one_sentence("folder", download, "--images", "images/*.png", "--masks", "masks/*.png")
    assert_says(text, "--dataset-name, --dataset-id", "--dataset-name Polyps -d 123")
