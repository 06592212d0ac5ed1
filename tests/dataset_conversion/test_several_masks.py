"""Proves: several masks of an image become one, or classes, or regions, and no file is left out unsaid."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.files import save
from support.refusals import SIZE, assert_says, convert, picture, raw_dataset, refusal_in_one_sentence

pytestmark = pytest.mark.usefixtures("nnunet_folders")
NAMED = ("--dataset-name", "Cells", "-d", "7")


def box(rows: slice, columns: slice) -> np.ndarray:
    array = np.zeros(SIZE, np.uint8)
    array[rows, columns] = 255
    return array


LEFT, RIGHT, INNER = box(slice(2, 9), slice(1, 8)), box(slice(4, 12), slice(10, 20)), box(slice(3, 6), slice(2, 5))


def save_masks(root: Path, **masks: np.ndarray) -> Path:
    """Five images in ``images/``, each with these masks in ``masks/`` (``_`` and the keyword at the end)."""
    for index in range(5):
        save(root / f"download/images/p ({index}).png", picture(index))
        for ending, array in masks.items():
            save(root / f"download/masks/p ({index})_{ending}.png", np.roll(array, index, axis=0))
    return root / "download"


def label(index: int, part: str = "Tr") -> np.ndarray:
    return np.asarray(Image.open(raw_dataset() / f"labels{part}/p_{index}_.png"))


def description() -> dict:
    return json.loads((raw_dataset() / "dataset.json").read_text())


def for_folder(source: Path, *masks: str, images: str = "images/*.png") -> tuple[object, ...]:
    return ("folder", source, "--images", images, *NAMED, "--masks", *masks)


@pytest.mark.parametrize(
    "masks", [("masks/*_mask.png", "masks/*_mask_#.png"), ("masks/*_mask*.png", "--merge-masks")], ids=["two", "merged"]
)
def test_parts_of_a_mask_are_united(tmp_path, masks):
    source = save_masks(tmp_path, mask=LEFT, mask_1=RIGHT, mask_2=INNER)
    (source / "masks/p (3)_mask_1.png").unlink()
    convert(*for_folder(source, *masks))
    for index in range(5):
        union = np.roll((LEFT | INNER | (0 if index == 3 else RIGHT)) > 0, index, axis=0)
        np.testing.assert_array_equal(label(index), union)
        assert (label(index) > 0).sum() == union.sum() > 0


def test_pattern_that_finds_several_masks_of_an_image_is_refused_with_both_readings(tmp_path):
    source = save_masks(tmp_path, mask=LEFT)
    save(source / "masks/p (2)_mask_1.png", RIGHT)
    text = refusal_in_one_sentence(*for_folder(source, "masks/*_mask*.png"))
    assert_says(text, "p (2)_mask.png", "p (2)_mask_1.png", "--merge-masks", "a pattern for each class")


def test_files_that_no_pattern_finds_are_counted_with_examples(tmp_path, capsys):
    """Half of the foreground of a public ultrasound set lies in such files."""
    source = save_masks(tmp_path, mask=LEFT, mask_1=RIGHT)
    (source / "masks/Thumbs.db").write_bytes(b"x")
    (source / "notes.txt").write_text("beside no image and no mask")
    convert(*for_folder(source, "masks/*_mask.png"))
    assert_says(
        capsys.readouterr().out,
        "5 files beside those of the patterns left out, such as masks/p (0)_mask_1.png, masks/p (1)_mask_1.png "
        "and masks/p (2)_mask_1.png.",
    )


def test_nothing_is_said_if_all_files_are_converted(tmp_path, capsys):
    convert(*for_folder(save_masks(tmp_path, mask=LEFT), "masks/*_mask.png"))
    assert "left out" not in capsys.readouterr().out


# ---- a file for each class -------------------------------------------------------------------------------------------


def test_files_of_classes_become_labels_in_the_order_of_the_names(tmp_path, capsys):
    source = save_masks(tmp_path, a=RIGHT, b=LEFT)
    (source / "masks/p (1)_b.png").unlink()
    convert(*for_folder(source, "right=masks/*_a.png", "left=masks/*_b.png"))
    assert description()["labels"] == {"background": 0, "right": 1, "left": 2}
    for index in range(5):
        expected = (RIGHT > 0) + (2 * (LEFT > 0) if index != 1 else 0)
        np.testing.assert_array_equal(label(index), np.roll(expected, index, axis=0))
    assert_says(capsys.readouterr().out, "1 image without a mask of left: images/p (1).png")


def test_ignored_files_get_the_highest_label(tmp_path):
    convert(*for_folder(save_masks(tmp_path, a=RIGHT, b=LEFT), "ignore=masks/*_a.png", "left=masks/*_b.png"))
    assert description()["labels"] == {"background": 0, "left": 1, "ignore": 2}
    np.testing.assert_array_equal(label(2), np.roll(2 * (RIGHT > 0) + (LEFT > 0), 2, axis=0))


def test_what_is_to_be_ignored_lies_on_all_else_and_is_no_foreground(tmp_path):
    source = save_masks(tmp_path, a=LEFT, b=box(slice(0, 20), slice(4, 24)))
    limit = ("--max-foreground-fraction", str((LEFT > 0).mean() + 0.01))
    convert(*for_folder(source, "polyp=masks/*_a.png", "ignore=masks/*_b.png"), *limit)
    expected = np.where(np.arange(SIZE[1]) < 4, LEFT > 0, 2)
    np.testing.assert_array_equal(label(2), np.roll(expected, 2, axis=0))


def test_ignored_pixels_hide_no_other_overlap_and_stay_ignored(tmp_path):
    """Masks with values are parts of one mask, in any order."""
    labels = ("--label-map", "0=background", "1=polyp", "2=tool", "3=ignore")
    polyp, ignored = (LEFT > 0).astype(np.uint8), np.where(INNER > 0, 3, 0).astype(np.uint8)
    source = save_masks(tmp_path, mask=ignored, mask_1=polyp)
    convert(*for_folder(source, "masks/*_mask.png", "masks/*_mask_1.png"), *labels)
    np.testing.assert_array_equal(label(0), np.where(INNER > 0, 3, polyp))
    save(source / "masks/p (0)_mask.png", np.where(INNER > 0, 3, 2 * polyp).astype(np.uint8))
    text = refusal_in_one_sentence(
        *for_folder(source, "masks/*_mask.png", "masks/*_mask_1.png"), *labels, "--overwrite"
    )
    assert_says(text, f"in {int(polyp.sum() - (INNER > 0).sum())} pixels", "tool and polyp")


def test_overlap_is_refused_with_count_case_and_classes(tmp_path):
    source = save_masks(tmp_path, a=LEFT, b=RIGHT)
    save(source / "masks/p (4)_b.png", np.roll(INNER, 4, axis=0))
    text = refusal_in_one_sentence(*for_folder(source, "liver=masks/*_a.png", "tumour=masks/*_b.png"))
    assert_says(text, "p (4)_b.png", "in 9 pixels", "liver and tumour", "--regions")


def test_class_inside_another_becomes_a_region(tmp_path):
    source = save_masks(tmp_path, a=LEFT, b=INNER, c=RIGHT)
    masks = ("liver=masks/*_a.png", "tumour=masks/*_b.png", "spleen=masks/*_c.png")
    convert(*for_folder(source, *masks), "--regions")
    assert description()["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2], "spleen": [3]}
    assert description()["regions_class_order"] == [1, 2, 3]
    for index in range(5):
        liver, tumour, spleen = (np.roll(array > 0, index, axis=0) for array in (LEFT, INNER, RIGHT))
        np.testing.assert_array_equal(np.isin(label(index), [1, 2]), liver)
        np.testing.assert_array_equal(label(index) == 2, tumour)
        np.testing.assert_array_equal(label(index) == 3, spleen)


@pytest.mark.parametrize(
    "order", [("tumour=masks/*_b.png", "liver=masks/*_a.png"), ("a=masks/*_a.png", "b=masks/*_b.png")]
)
def test_regions_that_are_not_nested_in_their_order_are_refused(tmp_path, order):
    partly = np.roll(INNER, 5, axis=1) if order[0].startswith("a") else INNER
    source = save_masks(tmp_path, a=LEFT, b=partly)
    text = refusal_in_one_sentence(*for_folder(source, *order), "--regions")
    assert_says(text, "pixels only", "name the outer class first")


def test_regions_of_values_contain_the_classes_that_are_named_later(tmp_path):
    values = np.where(INNER > 0, 9, np.where(LEFT > 0, 4, 0)).astype(np.uint8)
    source = save_masks(tmp_path, m=values)
    convert(*for_folder(source, "masks/*_m.png"), "--label-map", "0=background", "4=liver", "9=tumour", "--regions")
    assert description()["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2]}
    np.testing.assert_array_equal(label(0), (LEFT > 0).astype(int) + (INNER > 0))


@pytest.mark.parametrize(
    "masks, parts",
    [
        (("a=masks/*_a.png", "masks/*_b.png"), ["'masks/*_b.png' has no class", "NAME=masks/*_b.png"]),
        (("a=masks/*_a.png", "background=masks/*_b.png"), ["background", "leave it out"]),
        (("a=masks/*_a.png", "--label-map", "0=background", "1=x"), ["--label-map", "contradict"]),
    ],
)
def test_unclear_classes_are_refused(tmp_path, masks, parts):
    assert_says(refusal_in_one_sentence(*for_folder(save_masks(tmp_path, a=LEFT, b=RIGHT), *masks)), *parts)
