"""Proves: colours and palettes become the classes that the pixels' colours show, or are refused with both readings."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from support.files import save, save_volume
from support.refusals import (
    PNGS,
    SIZE,
    TIFFS,
    VOLUMES,
    assert_says,
    convert,
    mask,
    mask_volume,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)
CLASSES = np.zeros(SIZE, np.uint8)
CLASSES[2:18, 1:7] = 1
CLASSES[2:18, 9:21] = 2


def painted(colours: list[tuple[int, ...]]) -> np.ndarray:
    """The classes in these colours."""
    return np.array(colours, np.uint8)[CLASSES]


def save_palette(path: Path, numbers: np.ndarray, palette: list[tuple[int, ...]]) -> None:
    image = Image.fromarray(numbers.astype(np.uint8), mode="P")
    image.putpalette([value for colour in palette for value in colour])
    image.save(path)


def label(index: int = 0) -> np.ndarray:
    return np.asarray(Image.open(raw_dataset() / f"labelsTr/{index}.png"))


def with_masks(ending: str) -> tuple[str, ...]:
    return tuple(option.replace("masks/*.png", f"masks/*{ending}") for option in PNGS)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_colours_become_classes(download, ending):
    for index in range(3):
        (download / f"masks/{index}.png").unlink()
        save(download / f"masks/{index}{ending}", np.roll(painted([BLACK, RED, GREEN]), index, axis=0))
    entries = ("--label-map", "#000000=background", "0,255,0=stone", "#FF0000=kidney")
    convert(*with_source(with_masks(ending), download), *entries)
    assert json.loads((raw_dataset() / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "stone": 1,
        "kidney": 2,
    }
    for index in range(3):
        np.testing.assert_array_equal(label(index), np.roll(np.array([0, 2, 1])[CLASSES], index, axis=0))


def test_palette_and_grey_masks_have_colours_too(download):
    save_palette(download / "masks/0.png", CLASSES, [GREEN, RED, BLACK])
    save(download / "masks/1.png", painted([BLACK, RED, GREEN]))
    save(download / "masks/2.png", np.zeros(SIZE, np.uint8))
    convert(*with_source(PNGS, download), "--label-map", "#000000=background", "#00ff00=a", "#ff0000=b")
    np.testing.assert_array_equal(label(0), np.array([1, 2, 0])[CLASSES])
    np.testing.assert_array_equal(label(1), np.array([0, 2, 1])[CLASSES])
    assert not label(2).any()


@pytest.mark.parametrize("quality", [75, 95])
def test_neighbours_of_colours_in_a_jpeg_take_the_nearest_one(download, quality):
    big = np.kron(CLASSES, np.ones((8, 8), np.uint8))
    colours = np.array([BLACK, RED, GREEN], np.uint8)
    for index in range(3):
        (download / f"masks/{index}.png").unlink()
        save(download / f"images/{index}.png", picture(index, (*big.shape, 3)))
        save(download / f"masks/{index}.jpg", colours[big], quality=quality)
    decoded = np.asarray(Image.open(download / "masks/0.jpg")).astype(int)
    assert len(np.unique(decoded.reshape(-1, 3), axis=0)) > 10
    convert(*with_source(with_masks(".jpg"), download), "--label-map", "#000000=background", "#ff0000=a", "#00ff00=b")
    distances = ((decoded[:, :, None] - colours.astype(int)) ** 2).sum(-1)
    np.testing.assert_array_equal(label(), distances.argmin(-1))
    assert (label() == big).mean() > 0.97


def test_jpeg_of_another_colour_is_refused_with_its_share(download):
    for index in range(3):
        (download / f"masks/{index}.png").unlink()
        save(download / f"masks/{index}.jpg", painted([BLACK, RED, GREEN]), quality=95, subsampling=0)
    entries = ("--label-map", "#000000=background", "#ff0000=a")
    text = refusal_text(*with_source(with_masks(".jpg"), download), *entries)
    assert_says(text, "masks/0.jpg", "% of its pixels farther than 64", "#00", "name the missing colour")


def test_colour_that_is_not_named_is_refused_with_an_entry_for_it(download):
    save(download / "masks/1.png", painted([BLACK, RED, GREEN]))
    text = refusal_in_one_sentence(
        *with_source(PNGS, download), "--label-map", "#000000=background", "#ff0000=a", "#ffffff=b"
    )
    assert_says(text, "masks/1.png", "#00ff00 (40.00%)", "only #000000, #ff0000 and #ffffff", "'#00ff00=NAME'")


def test_coloured_mask_is_refused_with_entries_ready_to_paste(download):
    path = save(download / "masks/1.png", painted([BLACK, RED, GREEN]))
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, path, "#000000 (40.00%)", "#ff0000 (20.00%)", "grey values are expected")
    assert_says(text, "--label-map '#000000=background' '#00ff00=NAME1' '#ff0000=NAME2'")


def test_colours_that_are_transparent_in_parts_are_refused(download):
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[0, 0] = 0
    save(download / "masks/1.png", np.concatenate([painted([BLACK, RED, GREEN]), alpha], -1))
    entries = ("--label-map", "#000000=background", "#ff0000=a", "#00ff00=b", "#ffffff=c")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), *entries), "masks/1.png", "transparent in parts")


@pytest.mark.parametrize(
    "entries, parts",
    [
        (["0=background", "#ff0000=a"], ["'0=background' is no colour", "'#000000=name'"]),
        (["#000000=background", "#ff00=a"], ["'#ff00=a'", "VALUE=NAME"]),
        (["#000000=background", "256,0,0=a"], ["'256,0,0=a'", "VALUE=NAME"]),
        (["#000000=background", "0,0,0=a"], ["'0,0,0=a'", "repeats"]),
        (["#000000=a", "#ff0000=b"], ["no background", "#000000=background"]),
    ],
)
def test_unclear_colours_are_refused(download, entries, parts):
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), "--label-map", *entries), *parts)


# ---- palettes of two colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "palette, object_number",
    [([RED, BLACK], 0), ([BLACK, RED], 1), ([WHITE, BLACK], 0), ([BLACK, WHITE], 1), ([GREEN, RED, BLACK], 1)],
)
def test_palette_is_read_by_colour_so_that_no_mask_comes_out_inverted(download, palette, object_number):
    inside = mask() > 0
    for index in range(3):
        numbers = np.where(np.roll(inside, index, 0), object_number, palette.index(BLACK))
        save_palette(download / f"masks/{index}.png", numbers, palette)
    convert(*with_source(PNGS, download))
    for index in range(3):
        colours = np.asarray(Image.open(download / f"masks/{index}.png").convert("RGB"))
        np.testing.assert_array_equal(label(index), colours.any(-1))
        np.testing.assert_array_equal(label(index), np.roll(inside, index, 0))


def test_numbered_objects_in_a_palette_are_one_class_by_a_threshold(download):
    numbers = mask(1)
    numbers[8:] *= 2
    for index in range(3):
        save_palette(download / f"masks/{index}.png", numbers, [BLACK, RED, GREEN])
    convert(*with_source(PNGS, download), "--threshold", "0")
    np.testing.assert_array_equal(label(), mask(1))


def test_objects_in_a_palette_whose_black_has_another_number_are_never_inverted(download):
    for index in range(3):
        save_palette(download / f"masks/{index}.png", 1 - mask(1), [RED, BLACK])
    convert(*with_source(PNGS, download), "--threshold", "0")
    np.testing.assert_array_equal(label(), mask(1))
    numbers = np.ones(SIZE, np.uint8)
    numbers[5:9], numbers[9:12] = 0, 2
    save_palette(download / "masks/0.png", numbers, [RED, BLACK, GREEN])
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), "--threshold", "0", "--overwrite"), "1 #000000")


def test_colours_of_a_stack_become_classes(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (3, 20, 24), np.uint8)
    colours = np.zeros((3, 20, 24, 3), np.uint8)
    colours[1, 5:15, 5:15] = RED
    for index in range(3):
        for name, array, meaning in (("images", stack, "minisblack"), ("masks", colours, "rgb")):
            path = tmp_path / f"download/{name}/{index}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, photometric=meaning)
    options = ("--pages", "volume", "--label-map", "#000000=background", "#ff0000=cell")
    convert(*with_source(TIFFS, tmp_path / "download"), *options)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(raw_dataset() / "labelsTr/0.nii.gz")))
    np.testing.assert_array_equal(written, colours.any(-1))


def test_palette_without_black_is_refused_with_both_readings(download):
    save_palette(download / "masks/1.png", mask(1), [WHITE, RED])
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, "masks/1.png", "0 #ffffff (79.17%), 1 #ff0000 (20.83%)")
    assert_says(text, "--label-map 0=background 1=NAME", "--label-map '#ffffff=background' '#ff0000=NAME'")


def test_entries_of_many_palettes_together_keep_both_readings_apart(download):
    for index in range(6):
        save(download / f"images/{index}.png", picture(index))
        save_palette(download / f"masks/{index}.png", mask(1), [WHITE, RED if index else (0, 0, 255)])
    text = refusal_text(*with_source(PNGS, download))
    assert_says(text, "need --label-map 0=background 1=NAME or '#0000ff=NAME1' '#ff0000=NAME2' '#ffffff=background'")


@pytest.mark.parametrize(
    "entries, expected", [(["0=background", "1=x"], [0, 1]), (["#ffffff=x", "#ff0000=background"], [1, 0])]
)
def test_each_reading_of_a_palette_can_be_chosen(download, entries, expected):
    for index in range(3):
        save_palette(download / f"masks/{index}.png", mask(1), [WHITE, RED])
    convert(*with_source(PNGS, download), "--label-map", *entries)
    np.testing.assert_array_equal(label(), np.array(expected)[mask(1)])


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_entries_for_the_values_of_a_mask_are_ready_to_paste(download):
    array = mask(128)
    array[0, :4] = 255
    for index in range(3):
        save(download / f"masks/{index}.png", array)
    assert_says(refusal_text(*with_source(PNGS, download)), "--label-map 0=background 128=NAME1 255=NAME2")
    text = refusal_text(*with_source(PNGS, download), "--label-map", "0=background", "128=cell")
    assert_says(text, "add to --label-map 255=NAME")
    convert(*with_source(PNGS, download), "--label-map", "0=background", "128=cell", "255=tool")
    np.testing.assert_array_equal(label(), (array == 128) + 2 * (array == 255))


def test_values_to_ignore_may_be_negative(volumes):
    array = mask_volume().astype(np.int16)
    array[0, :, :3] = -1
    for index in range(3):
        save_volume(volumes / f"masks/{index}.nii.gz", array)
    convert(*with_source(VOLUMES, volumes), "--label-map", "0=background", "-1=ignore", "1=cell")
    assert json.loads((raw_dataset() / "dataset.json").read_text())["labels"]["ignore"] == 2
    written = np.asarray(nibabel.load(raw_dataset() / "labelsTr/0.nii.gz").dataobj).T
    np.testing.assert_array_equal(written, np.where(array == -1, 2, array))
