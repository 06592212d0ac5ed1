"""Proves: damaged files, and images that nnU-Net cannot train on, are refused in a sentence."""

import os
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from support.files import save, save_volume
from support.refusals import (
    PNGS,
    VOLUMES,
    assert_says,
    convert,
    mask,
    mask_volume,
    noise_volume,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    truncate,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_empty_file_is_named(download, kind):
    path = download / kind / "1.png"
    path.write_bytes(b"")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), path, "is empty (0 bytes)", "download it again")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_truncated_picture_is_named(download, kind, ending):
    for index in range(3):
        save(download / f"{kind}/{index}{ending}", picture(index) if kind == "images" else mask())
    path = truncate(download / kind / f"1{ending}")
    options = [option.replace(f"{kind}/*.png", f"{kind}/*{ending}") for option in PNGS]
    assert_says(refusal_in_one_sentence(*with_source(options, download)), path, "cannot be read", "download it again")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_truncated_volume_is_named(volumes, kind, ending, share):
    """SimpleITK itself fills missing parts of a NIfTI file with zeros or with anything that lies in memory."""
    array = np.random.default_rng(0).integers(0, 2, (4, 10, 12), np.uint8)
    for index in range(3):
        save_volume(volumes / f"{kind}/{index}{ending}", noise_volume(index) if kind == "images" else array)
    path = volumes / kind / f"1{ending}"
    os.truncate(path, int(share * path.stat().st_size))
    options = [option.replace(f"{kind}/*.nii.gz", f"{kind}/*{ending}") for option in VOLUMES]
    assert_says(refusal_in_one_sentence(*with_source(options, volumes)), path, "cannot be read", "download it again")


def test_volume_with_slanting_axes_is_not_called_damaged(volumes):
    slanting = np.diag([1.0, 1, 2, 1])
    slanting[0, 1] = 0.3
    array = noise_volume().T
    image = nibabel.Nifti1Image(array, None)
    image.set_sform(slanting, code=1)
    nibabel.save(image, volumes / "images/1.nii.gz")
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, volumes / "images/1.nii.gz", "axes that are not at right angles", "resample it")


def test_header_without_its_voxels_is_named(tmp_path):
    for index in range(3):
        save_volume(tmp_path / f"download/Case0{index}.mhd", noise_volume(index))
        save_volume(tmp_path / f"download/Case0{index}_segmentation.mhd", mask_volume())
    (tmp_path / "download/Case01.raw").unlink()
    text = refusal_in_one_sentence("promise12", tmp_path / "download")
    assert_says(text, tmp_path / "download/Case01.mhd", "cannot be read", "damaged or incomplete; download it again")


@pytest.mark.parametrize("first", [True, False])
def test_text_named_as_picture_is_named(download, first):
    path = download / f"images/{0 if first else 2}.png"
    path.write_text("<html>404 Not Found</html>")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), path, "cannot be read", "no image")


def test_text_named_as_volume_is_named(volumes):
    path = volumes / "images/0.nii.gz"
    path.write_text("<html>404 Not Found</html>")
    assert_says(refusal_in_one_sentence(*with_source(VOLUMES, volumes)), path, "cannot be read", "download it again")


def test_dangling_link_is_named(download):
    path = download / "images/1.png"
    path.unlink()
    path.symlink_to(download / "nowhere.png")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), path, "cannot be read", "No such file")


# ---- pictures and volumes that nnU-Net cannot train on ---------------------------------------------------------------


def test_volume_among_pictures_and_picture_among_volumes_are_refused(download):
    volume = save_volume(download / "images/9.nii.gz", noise_volume())
    save_volume(download / "masks/9.nii.gz", mask_volume())
    options = [option.replace(".png", ".{png,nii.gz}") for option in PNGS]
    assert_says(
        refusal_in_one_sentence(*with_source(options, download)), volume, "is a volume", "convert them separately"
    )
    shutil.move(volume, download / "images/-.nii.gz")
    shutil.move(download / "masks/9.nii.gz", download / "masks/-.nii.gz")
    for index in (1, 2):
        (download / f"images/{index}.png").unlink()
        (download / f"masks/{index}.png").unlink()
    assert_says(
        refusal_in_one_sentence(*with_source(options, download)),
        download / "images/0.png",
        "two-dimensional",
        "convert them separately",
    )


def test_coloured_picture_among_grey_ones_is_refused(download):
    save(download / "images/0.png", picture()[..., 0])
    text = refusal_text(*with_source(PNGS, download))
    assert_says(text, download / "images/1.png", download / "images/2.png", "is coloured", "2 problems")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
def test_voxels_that_are_no_number_are_counted_and_refused(volumes, kind, ending):
    """SimpleITK reads them as 0 from NIfTI."""
    array = noise_volume() if kind == "images" else mask_volume().astype(np.float64)
    array[0, 0, 0], array[3, 9, 11], array[2, 1, 1] = np.nan, np.inf, -np.inf
    (volumes / f"{kind}/1.nii.gz").unlink()
    path = save_volume(volumes / f"{kind}/1{ending}", array)
    options = [option.replace(f"{kind}/*.nii.gz", f"{kind}/*.{{nii.gz,{ending[1:]}}}") for option in VOLUMES]
    assert_says(
        refusal_in_one_sentence(*with_source(options, volumes)),
        f"{path} has 3 of 480 voxels that are not a number (NaN) or infinite",
        "replace them",
    )


def test_voxels_of_big_endian_nifti_that_are_no_number_are_counted(volumes):
    array = noise_volume().astype(">f8")
    array[0, 0, :5] = np.nan
    nibabel.Nifti1Image(array.T, np.eye(4), nibabel.Nifti1Header(endianness=">")).to_filename(
        volumes / "images/1.nii.gz"
    )
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, f"{volumes / 'images/1.nii.gz'} has 5 of 480 voxels that are not a number")


TURNED = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
OTHER_GRIDS = {
    "spacing": ({"spacing": (1, 1, 3)}, "spacing (1, 1, 3) and not (1, 1, 2)"),
    "origin": ({"origin": (3, 4, 6)}, "origin (3, 4, 6) and not (3, 4, 5)"),
    "direction": ({"direction": TURNED}, "direction (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1) and not (1, 0, 0, 0"),
}


@pytest.mark.parametrize("what", OTHER_GRIDS)
def test_mask_that_lies_elsewhere_is_refused_unless_the_image_is_trusted(volumes, what, capsys):
    grid, sentence = OTHER_GRIDS[what]
    path = save_volume(volumes / "masks/1.nii.gz", mask_volume(), **grid)
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(
        text, path, "lies elsewhere than its image", volumes / "images/1.nii.gz", sentence, "--trust-image-geometry"
    )
    assert all(other not in text for other in OTHER_GRIDS if other != what and other != "spacing")

    convert(*with_source(VOLUMES, volumes), "--trust-image-geometry")
    folder = raw_dataset()
    image, label = (sitk.ReadImage(folder / name) for name in ("imagesTr/1_0000.nii.gz", "labelsTr/1.nii.gz"))
    assert label.GetSpacing() == image.GetSpacing() == (1, 1, 2)
    assert label.GetOrigin() == image.GetOrigin() == (3, 4, 5)
    assert label.GetDirection() == image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(sitk.GetArrayFromImage(label), mask_volume())


def test_channel_that_lies_elsewhere_is_refused(volumes):
    for index in range(3):
        save_volume(
            volumes / f"second/{index}.nii.gz", noise_volume(index), origin=(0, 0, 0) if index == 2 else (3, 4, 5)
        )
    options = ("--images", "images/*.nii.gz", "second/*.nii.gz", "--channels", "T1", "T2", *VOLUMES[3:])
    text = refusal_in_one_sentence("folder", volumes, *options)
    assert_says(text, volumes / "second/2.nii.gz", "origin (0, 0, 0) and not (3, 4, 5)", "the channel's header")
