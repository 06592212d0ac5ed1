"""Proves: pages of a TIFF file are slices or images as the user says, and are refused when nobody says."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from support.files import save, save_volume
from support.property_inputs import noise
from support.refusals import (
    SIZE,
    TIFFS,
    assert_says,
    convert,
    mask,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

from nnunet_plugins.dataset_conversion.readers import read_picture
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json

CASES = range(3)


def write(path: Path, array: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def save_pages(path: Path, pages: list[np.ndarray]) -> Path:
    """Write pages with Pillow."""
    return save(path, pages[0], save_all=True, append_images=list(map(Image.fromarray, pages[1:])))


@pytest.fixture
def stacks(tmp_path) -> Path:
    """Three stacks of four pages, written by Pillow, with masks of as many pages."""
    for index in CASES:
        save_pages(tmp_path / f"download/images/{index}.tif", [picture(4 * index + p)[..., 0] for p in range(4)])
        save_pages(tmp_path / f"download/masks/{index}.tif", [np.roll(mask(), page) for page in range(4)])
    return tmp_path / "download"


@pytest.mark.usefixtures("nnunet_folders")
def test_pages_are_refused_with_both_readings(stacks):
    text = refusal_in_one_sentence(*with_source(TIFFS, stacks))
    assert_says(text, stacks / "images/0.tif", "has 4 pages", "slices of one volume", "images of their own")
    assert_says(text, "--pages volume or --pages images")


@pytest.mark.usefixtures("nnunet_folders")
def test_pages_become_the_slices_of_a_volume(stacks, capsys):
    convert(*with_source(TIFFS, stacks), "--pages", "volume")
    for index in CASES:
        image = sitk.ReadImage(raw_dataset() / f"imagesTr/{index}_0000.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(image), [picture(4 * index + page)[..., 0] for page in range(4)])
        assert image.GetSpacing() == (1, 1, 1)
        label = sitk.GetArrayFromImage(sitk.ReadImage(raw_dataset() / f"labelsTr/{index}.nii.gz"))
        assert np.array_equal(label, [np.roll(mask(), page) > 0 for page in range(4)])
    assert "-c 3d_fullres" in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
def test_pages_become_images_that_stay_in_one_fold(stacks):
    convert(*with_source(TIFFS, stacks), "--pages", "images")
    assert len(list((raw_dataset() / "imagesTr").iterdir())) == 12
    for index in CASES:
        for page in range(4):
            image = np.asarray(Image.open(raw_dataset() / f"imagesTr/{index}_{page + 1}_0000.png"))
            assert np.array_equal(image, picture(4 * index + page)[..., 0])
            label = np.asarray(Image.open(raw_dataset() / f"labelsTr/{index}_{page + 1}.png"))
            assert np.array_equal(label, np.roll(mask(), page) > 0)
    folds = read_json(raw_dataset() / "splits_final.json")
    for fold in folds:
        assert not {case[0] for case in fold["train"]} & {case[0] for case in fold["val"]}
    convert(*with_source(TIFFS, stacks), "--pages", "images")  # recognised as the same


@pytest.mark.usefixtures("nnunet_folders")
def test_mask_with_other_pages_is_refused(stacks):
    path = save_pages(stacks / "masks/1.tif", [mask()] * 3)
    text = refusal_in_one_sentence(*with_source(TIFFS, stacks), "--pages", "images")
    assert_says(text, f"{stacks / 'images/1.tif'} has 4 pages, but {path} has 3", "the same number")
    text = refusal_text(*with_source(TIFFS, stacks), "--pages", "volume")
    assert_says(text, f"{path} is 24x20x3, but its image", "is 24x20x4")


def test_pages_of_several_sizes_are_refused(tmp_path):
    path = save_pages(tmp_path / "x.tif", [mask(), mask()[:10]])
    with pytest.raises(UserError, match=r"different kinds or sizes \(24x10, 24x20\)"):
        read_picture(path, "volume")


@pytest.mark.parametrize("axes", ["ZYX", "ZCYX"])
def test_spacing_and_channels_of_imagej_arrive(tmp_path, axes):
    array = noise(0, (4, 2, *SIZE) if axes == "ZCYX" else (4, *SIZE), np.uint16)
    path = write(
        tmp_path / "x.tif", array, imagej=True, resolution=(2, 4), metadata={"axes": axes, "spacing": 2.5, "unit": "mm"}
    )
    volume = read_picture(path, "volume")
    assert volume.geometry is not None and volume.geometry.spacing == (0.5, 0.25, 2.5)
    assert np.array_equal(volume.array, np.moveaxis(array, 1, -1) if axes == "ZCYX" else array)


def test_time_and_depth_together_are_refused(tmp_path):
    path = write(tmp_path / "x.tif", noise(0, (3, 4, *SIZE)), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(UserError, match="T 3 x Z 4 x Y 20 x X 24"):
        read_picture(path, "volume")


@pytest.mark.usefixtures("nnunet_folders")
def test_pages_beside_a_nifti_mask_of_the_same_size_are_a_volume(stacks):
    labels = np.stack([np.roll(mask(1), page) for page in range(4)])
    for index in CASES:
        (stacks / f"masks/{index}.tif").unlink()
        save_volume(stacks / f"masks/{index}.nii.gz", labels, spacing=(1, 1, 1), origin=(0, 0, 0))
    options = [option.replace("masks/*.tif", "masks/*.nii.gz") for option in TIFFS]
    convert(*with_source(options, stacks), "--pages", "volume")
    written = sitk.ReadImage(raw_dataset() / "labelsTr/2.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(written), labels)
