"""Proves: named datasets are converted in the layouts in which they are passed on, or say how `folder` takes them."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.files import save
from support.refusals import (
    SIZE,
    assert_says,
    convert,
    mask,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
)

from nnunet_plugins.cli import main

pytestmark = pytest.mark.usefixtures("nnunet_folders")


def stones(root: Path, images: str, masks: str, mask_of: np.ndarray, **options: int) -> Path:
    for index in range(4):
        save(root / f"download/{images.format(index)}", picture(index, SIZE))
        save(root / f"download/{masks.format(index)}", mask_of, **options)
    return root / "download"


def written(index: int) -> np.ndarray:
    return np.asarray(Image.open(raw_dataset("Dataset526_KidneyStone") / f"labelsTr/{index}.png"))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("image/{}.tif", "label/{}.tif"),
        ("images/{}.png", "labels/{}.png"),
        ("kidney/image/{}.jpg", "kidney/mask/{}.bmp"),
    ],
)
def test_kidney_stones_in_other_folders_and_formats(tmp_path, images, masks):
    convert("kidney_stone", stones(tmp_path, images, masks, mask()))
    np.testing.assert_array_equal(written(2), mask(1))


def test_kidney_stones_with_lossy_edges_need_a_threshold(tmp_path):
    big = np.kron(mask(), np.ones((4, 4), np.uint8))
    source = stones(tmp_path, "image/{}.png", "label/{}.jpg", big, quality=60)
    for index in range(4):
        save(source / f"image/{index}.png", picture(index, big.shape))
    grey = np.asarray(Image.open(source / "label/0.jpg"))
    assert set(np.unique(grey)) > {0, 255}
    assert_says(refusal_text("kidney_stone", source), "label/0.jpg", "or give --threshold 127")
    convert("kidney_stone", source, "--threshold", "127")
    np.testing.assert_array_equal(written(0), grey > 127)
    np.testing.assert_array_equal(written(0) > 0, big > 0)


def test_threshold_for_masks_of_many_values_is_refused(tmp_path):
    source = stones(tmp_path, "image/{}.png", "label/{}.png", mask())
    assert_says(
        refusal_in_one_sentence("synapse", source, "--threshold", "1"), "--threshold", "synapse", "leave it out"
    )


@pytest.mark.parametrize(("problem", "masks"), [("values", "masks/{}.png"), ("name", "annotations/{}.png")])
def test_command_in_the_refusal_of_a_named_dataset_converts_the_files(tmp_path, problem, masks):
    source = stones(tmp_path / "my data", "images/{}.png", masks, mask())
    if problem == "values":
        save(source / "masks/1.png", np.where(mask() > 0, 200, 0).astype(np.uint8))
    text = refusal_text("kidney_stone", source)
    command = shlex.split(text[text.index("nnunet-plugins convert folder") :].splitlines()[0])
    command = [word.replace("masks/", f"{masks.split('/')[0]}/") for word in command]
    main([*command[1:], "-np", "1", *(("--threshold", "127") if problem == "values" else ())])
    assert written(3).shape == SIZE
    np.testing.assert_array_equal(written(3), mask(1))
