"""Proves: images and masks that are missing or do not match, and masks with other values, are refused in a sentence."""

import numpy as np
import pytest
from support.files import save, save_volume
from support.refusals import (
    PNGS,
    VOLUMES,
    assert_says,
    mask,
    mask_volume,
    picture,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")


# ---- files that lack, exceed, or do not match ------------------------------------------------------------------------


def test_missing_mask_is_named(download):
    (download / "masks/1.png").unlink()
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        download / "images/1.png",
        "has no mask",
        "masks/1.png",
        "add it, or",
    )


def test_mask_without_image_is_named(download):
    save(download / "masks/9.png", mask())
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        download / "masks/9.png",
        "has no image",
        "images/9.png",
        "add it, or",
    )


def test_masks_that_the_images_pattern_finds_too_never_become_images(tmp_path):
    for index in range(3):
        save(tmp_path / f"mixed/v{index}.png", picture(index))
        save(tmp_path / f"mixed/v{index}_seg.png", mask())
    options = ("--images", "*.png", "--masks", "*_seg.png", *PNGS[5:], "--missing-masks", "background")
    text = refusal_text("folder", tmp_path / "mixed", *options)
    assert_says(text, "v0_seg.png is found as an image, but it is a mask of 'v0': narrow the pattern of the images")


def test_files_of_a_series_are_to_be_given_by_their_folder(tmp_path):
    path = tmp_path / "scans/p0/ct/0.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(128) + b"DICM")
    save_volume(tmp_path / "scans/p0/seg.nii.gz", mask_volume())
    options = ("--images", "*/ct/*.nii.gz", "--masks", "*/seg.nii.gz", *PNGS[5:])
    assert "a series of DICOM is given by its folder, as in" in refusal_text("folder", tmp_path / "scans", *options)


def test_missing_channel_is_named(download):
    for index in range(2):
        save(download / f"second/{index}.png", picture(index)[..., 0])
    for index in range(3):
        save(download / f"images/{index}.png", picture(index)[..., 0])
    options = ("--images", "images/*.png", "second/*.png", "--channels", "a", "b", *PNGS[3:])
    assert_says(
        refusal_in_one_sentence("folder", download, *options),
        download / "images/2.png",
        "there is no second/2.png",
        "add it",
    )


def test_image_and_mask_of_different_sizes_are_named_with_sizes(download):
    path = save(download / "masks/1.png", mask()[:, :-1])
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        path,
        "is 23x20",
        download / "images/1.png",
        "is 24x20",
        "do not belong together",
    )


def test_mask_turned_by_90_degrees_is_refused(download):
    path = save(download / "masks/1.png", np.rot90(mask()))
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), path, "is 20x24", "is 24x20")


def test_volumes_of_different_sizes_are_named_with_sizes(volumes):
    path = save_volume(volumes / "masks/1.nii.gz", mask_volume()[:-1])
    assert_says(
        refusal_in_one_sentence(*with_source(VOLUMES, volumes)),
        path,
        "is 12x10x3",
        volumes / "images/1.nii.gz",
        "is 12x10x4",
    )


def test_two_files_for_one_case_are_named(download):
    again = save(download / "masks/1.tif", mask())
    options = [option.replace("masks/*.png", "masks/*.{png,tif}") for option in PNGS]
    assert_says(
        refusal_in_one_sentence(*with_source(options, download)),
        download / "masks/1.png",
        again,
        "'1'",
        "a pattern that tells them apart",
    )


def test_two_names_that_become_one_identifier_are_named(download):
    for name in ("a (1)", "a [1]"):
        save(download / f"images/{name}.png", picture())
        save(download / f"masks/{name}.png", mask())
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, download / "images/a (1).png", download / "images/a [1].png", "'a_1_'", "rename one")


def test_masks_of_another_folder_are_refused_by_name(download):
    (download / "masks").rename(download / "annotations")
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)), download, "'masks/*.png'", "the end of a file's path"
    )


# ---- values of masks -------------------------------------------------------------------------------------------------


def test_grey_values_in_binary_mask_are_shown_with_their_shares(download):
    array = mask()
    array[0, :12] = 100
    path = save(download / "masks/1.png", array)
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(
        text, path, "0 (76.67%), 100 (2.50%), 255 (20.83%)", "only 0 and 255, or 0 and 1", "--threshold", "--label-map"
    )


def test_many_grey_values_are_counted_and_not_listed(download):
    save(download / "masks/1.png", picture()[..., 0])
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, "rarer ones")
    assert len(text) < 600


def test_mask_with_0_1_and_255_is_refused(download):
    array = mask()
    array[0, 0] = 1
    save(download / "masks/1.png", array)
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), "0 (78.96%), 1 (0.21%), 255 (20.83%)")


def test_grey_photo_among_jpeg_masks_is_refused(tmp_path):
    source = tmp_path / "Kvasir-SEG"
    for index in range(3):
        save(source / f"images/{index}.jpg", picture(index))
        save(source / f"masks/{index}.jpg", mask())
    path = save(source / "masks/1.jpg", np.tile(np.arange(0, 240, 10, dtype=np.uint8), (20, 1)))
    assert_says(
        refusal_in_one_sentence("kvasir_seg", tmp_path),
        path,
        "even a JPEG",
        "% are not",
        "replace the file by the published one",
    )


def test_mask_of_0_and_1_among_jpeg_masks_is_refused(tmp_path):
    """It must not become empty by the JPEGs' threshold."""
    for index in range(3):
        save(tmp_path / f"images/{index}.png", picture(index))
        save(tmp_path / f"masks/{index}.{'png' if index else 'jpg'}", mask(1 if index else 255))
    options = [option.replace("masks/*.png", "masks/*") for option in PNGS]
    text = refusal_text(*with_source(options, tmp_path))
    assert_says(text, tmp_path / "masks/1.png", "is black or has pixels close to 255", "--threshold")


def test_coloured_mask_is_refused(download):
    path = save(download / "masks/1.png", picture())
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        path,
        "has the colours",
        "grey values are expected",
        "--label-map",
    )


def test_unexpected_label_value_is_shown_with_the_expected_ones(volumes):
    array = mask_volume()
    array[0, 0, 0] = 7
    path = save_volume(volumes / "masks/1.nii.gz", array)
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes), "--label-map", "0=background", "1=cell")
    assert_says(text, path, "7 (0.21%)", "only 0 and 1 are expected", "add to --label-map 7=NAME")


def test_fractional_and_negative_label_values_are_shown(volumes):
    array = mask_volume().astype(np.float32)
    array[0, 0, :2] = 0.5, -3
    save_volume(volumes / "masks/1.nii.gz", array)
    assert_says(
        refusal_in_one_sentence(*with_source(VOLUMES, volumes), "--label-map", "0=background", "1=cell"),
        "-3 (0.21%)",
        "0.5 (0.21%)",
    )
