"""Proves: 4D files become channels, and volumes of one slice two-dimensional files that keep their spacing."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image
from support.files import save, save_volume
from support.refusals import (
    PNGS,
    SIZE,
    VOLUMES,
    assert_says,
    convert,
    mask,
    mask_volume,
    noise_volume,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    with_source,
)

from nnunet_plugins.files import read_json

pytestmark = pytest.mark.usefixtures("nnunet_folders")
CASES = range(3)


def save_nifti(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (0.5, 0.7, 2.0)) -> Path:
    """Write an array ``(x, y, z, ...)`` with nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1]))
    image.header.set_zooms([*spacing, *[1] * array.ndim][: array.ndim])
    image.to_filename(path)
    return path


def seen_by_nnunet(case: str) -> tuple[np.ndarray, np.ndarray, dict]:
    folder = raw_dataset()
    image, properties = SimpleITKIO().read_images(sorted(map(str, folder.glob(f"imagesTr/{case}_*.nii.gz"))))
    return image, SimpleITKIO().read_seg(str(folder / f"labelsTr/{case}.nii.gz"))[0], properties


# ---- channels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fourth axis", "fifth axis", "vectors"])
def test_channels_of_one_file_become_a_file_each(volumes, kind):
    channels = {index: [noise_volume(10 * index), noise_volume(10 * index + 1)] for index in CASES}
    for index, (first, second) in channels.items():
        path = volumes / f"images/{index}.nii.gz"
        if kind == "vectors":
            image = sitk.GetImageFromArray(np.stack([first, second], -1), isVector=True)
            image.SetSpacing((1, 1, 2))
            image.SetOrigin((3, 4, 5))
            sitk.WriteImage(image, path)
        else:
            array = np.stack([first.T, second.T], -1)
            save_nifti(path, array if kind == "fourth axis" else array[..., None, :], (1, 1, 2))
    options = (*VOLUMES, "--channels", "T1", "T2", *(() if kind == "vectors" else ["--trust-image-geometry"]))
    convert(*with_source(options, volumes))
    for index, expected in channels.items():
        image, label, properties = seen_by_nnunet(str(index))
        assert np.array_equal(image, expected) and np.array_equal(label[0], mask_volume())
        assert properties["spacing"] == [2, 1, 1]
    assert read_json(raw_dataset() / "dataset.json")["channel_names"] == {"0": "T1", "1": "T2"}


@pytest.mark.parametrize(("second", "trust"), [(0.4688, False), (1.3, True)])
def test_channels_of_several_files_get_one_geometry(tmp_path, second, trust):
    """NnU-Net takes no two that differ, by a rounded spacing for instance."""
    for index in CASES:
        for channel, spacing in enumerate((0.46875, second)):
            array = noise_volume(2 * index + channel).T
            save_nifti(tmp_path / f"download/{channel}/{index}.nii.gz", array, (spacing, 1, 2))
        save_nifti(tmp_path / f"download/masks/{index}.nii.gz", mask_volume().T, (0.46875, 1, 2))
    options = ("--images", "0/*.nii.gz", "1/*.nii.gz", "--channels", "T1", "T2", "--masks", "masks/*.nii.gz")
    trusted = ("--trust-image-geometry",) * trust
    convert("folder", tmp_path / "download", *options, "--dataset-name", "Cells", "-d", 7, *trusted)
    image, _, properties = seen_by_nnunet("0")
    np.testing.assert_array_equal(image[1], noise_volume(1))
    np.testing.assert_allclose(properties["spacing"], (2, 1, 0.46875))


def test_channels_of_one_file_want_names(volumes):
    for index in CASES:
        save_nifti(volumes / f"images/{index}.nii.gz", np.stack([noise_volume(index).T] * 2, -1))
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, volumes / "images/0.nii.gz", "has 2 channels", "name them with --channels")


def test_file_with_other_channels_than_the_first_is_refused(volumes):
    path = save_nifti(volumes / "images/1.nii.gz", np.stack([noise_volume().T] * 3, -1))
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, f"{path} has 3 channels, but 1 is expected", "--channels")


def test_mask_with_channels_is_refused(volumes):
    path = save_nifti(volumes / "masks/1.nii.gz", np.stack([mask_volume().T] * 2, -1))
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, f"{path} has 2 channels, but a mask has one")


def test_time_and_channels_together_are_refused(volumes):
    path = save_nifti(volumes / "images/0.nii.gz", np.zeros((12, 10, 4, 2, 3), np.float32))
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes))
    assert_says(text, f"{path} has the axes 12 x 10 x 4 x 2 x 3", "save a file for each")


# ---- one slice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, 2], ids=["two axes", "x", "y", "z"])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_one_slice_along_any_axis_is_written_with_two_axes(tmp_path, axis, num_channels, capsys):
    """nnU-Net then trains 2D, with the spacing of the slice."""
    rng, spacing = np.random.default_rng(0), (0.5, 0.7, 2.0)
    size, expected = (12, 10), {}
    for index in CASES:
        image, label = rng.normal(size=(*size, num_channels)).astype(np.float32), np.zeros(size, np.uint8)
        label[2:5, 3:9] = 1
        expected[index] = image.transpose(2, 1, 0)[:, None], label.T[None, None]
        if axis is not None:
            image, label = np.expand_dims(image, axis), np.expand_dims(label, axis)
        elif num_channels > 1:
            image = image[:, :, None]
        save_nifti(tmp_path / f"download/images/{index}.nii.gz", image[..., 0] if num_channels == 1 else image, spacing)
        save_nifti(tmp_path / f"download/masks/{index}.nii.gz", label, spacing)
    names = ["T1", "T2"][:num_channels]
    lost = ["--trust-image-geometry"] if axis is None and num_channels > 1 else []  # two axes have no direction
    convert(*with_source(VOLUMES, tmp_path / "download"), "--channels", *names, *lost)
    in_plane = [spacing[other] for other in range(3) if other != (2 if axis is None else axis)]
    for index, (image, label) in expected.items():
        seen_image, seen_label, properties = seen_by_nnunet(str(index))
        assert np.array_equal(seen_image, image) and np.array_equal(seen_label, label)
        assert properties["spacing"][1:] == pytest.approx(in_plane[::-1])
        assert nibabel.load(raw_dataset() / f"labelsTr/{index}.nii.gz").shape == size
    assert "-c 2d" in capsys.readouterr().out


def test_one_volume_of_several_slices_keeps_all_cases_volumes(tmp_path, capsys):
    for index, part in enumerate((slice(1, 2), slice(2, 3), slice(0, 4))):
        save_nifti(tmp_path / f"download/images/{index}.nii.gz", noise_volume(index).T[..., part])
        save_nifti(tmp_path / f"download/masks/{index}.nii.gz", mask_volume().T[..., part])
    convert(*with_source(VOLUMES, tmp_path / "download"))
    shapes = [nibabel.load(raw_dataset() / f"labelsTr/{index}.nii.gz").shape for index in CASES]
    assert shapes == [(12, 10, 1), (12, 10, 1), (12, 10, 4)]
    assert "-c 3d_fullres" in capsys.readouterr().out


def test_volume_as_second_channel_of_slices_is_refused(tmp_path):
    for index in CASES:
        for kind, slices in (("images", 1), ("second", 1 + 3 * (index == 1))):
            save_nifti(tmp_path / f"download/{kind}/{index}.nii.gz", noise_volume(index).T[..., :slices])
        save_nifti(tmp_path / f"download/masks/{index}.nii.gz", mask_volume().T[..., 1:2])
    options = ("--images", "images/*.nii.gz", "second/*.nii.gz", "--channels", "a", "b", *VOLUMES[3:])
    text = refusal_in_one_sentence("folder", tmp_path / "download", *options)
    assert_says(text, f"{tmp_path / 'download/second/1.nii.gz'} has several slices, but the first image has one")


def test_pages_are_no_option_for_volumes(volumes):
    text = refusal_in_one_sentence(*with_source(VOLUMES, volumes), "--pages", "images")
    assert_says(text, "--pages images is for TIFF and arrays, but", "leave it out")


def test_slices_are_resized_with_their_spacing(tmp_path):
    for index in CASES:
        save_nifti(tmp_path / f"download/images/{index}.nii.gz", noise_volume(index).T[:, :1])
        save_nifti(tmp_path / f"download/masks/{index}.nii.gz", np.repeat(mask_volume().T[:, 3:4], 1, 1))
    convert(*with_source(VOLUMES, tmp_path / "download"), "--resize", 8, 24)
    image, label, properties = seen_by_nnunet("0")
    assert image.shape == label.shape == (1, 1, 8, 24)
    assert properties["spacing"][1:] == pytest.approx([1.0, 0.25])  # 4 x 2.0 and 12 x 0.5 mm


def test_nifti_mask_of_a_picture_is_taken(download):
    """Programs that open pictures as volumes save masks so."""
    for index in CASES:
        (download / f"masks/{index}.png").unlink()
        save_volume(download / f"masks/{index}.nii.gz", mask(1)[None])
    convert(*with_source([option.replace("masks/*.png", "masks/*.nii.gz") for option in PNGS], download))
    assert np.array_equal(np.asarray(Image.open(raw_dataset() / "labelsTr/0.png")), mask(1))


def test_picture_as_mask_of_a_slice_is_taken(tmp_path):
    for index in CASES:
        save_nifti(tmp_path / f"download/images/{index}.nii.gz", picture(index, SIZE).T[..., None].astype(np.int16))
        save(tmp_path / f"download/masks/{index}.png", mask())
    convert(*with_source([o.replace("masks/*.nii.gz", "masks/*.png") for o in VOLUMES], tmp_path / "download"))
    image, label, _ = seen_by_nnunet("1")
    assert np.array_equal(image[0, 0], picture(1, SIZE)) and np.array_equal(label[0, 0], mask(1))


# ---- compressed pictures ---------------------------------------------------------------------------------------------


def test_compressed_ppm_arrives(download):
    """STARE is shared so."""
    for index in CASES:
        for kind, array in (("images", picture(index)), ("masks", mask())):
            (download / f"{kind}/{index}.png").unlink()
            path = save(download / f"{kind}/{index}.ppm", array)
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    convert(*with_source([option.replace(".png", ".ppm.gz") for option in PNGS], download))
    assert sorted(path.name for path in (raw_dataset() / "labelsTr").iterdir()) == ["0.png", "1.png", "2.png"]
    for index in CASES:
        assert np.array_equal(np.asarray(Image.open(raw_dataset() / f"imagesTr/{index}_0000.png")), picture(index))
        assert np.array_equal(np.asarray(Image.open(raw_dataset() / f"labelsTr/{index}.png")), mask(1))


def test_cut_off_compressed_ppm_is_refused(download):
    path = download / "images/2.ppm.gz"
    path.write_bytes(gzip.compress(b"P6 24 20 255\n" + bytes(range(256)) * 6)[:60])
    (download / "images/2.png").unlink()
    options = [option.replace("images/*.png", "images/*.{png,ppm.gz}") for option in PNGS]
    assert_says(refusal_in_one_sentence(*with_source(options, download)), f"{path} cannot be read", "damaged")


def test_ppm_with_16_bits_a_colour_is_refused(download):
    path = download / "images/0.ppm"
    path.write_bytes(b"P6 24 20 65535\n" + bytes(24 * 20 * 6))
    (download / "images/0.png").unlink()
    text = refusal_in_one_sentence(*with_source([o.replace("images/*.png", "images/*.p*") for o in PNGS], download))
    assert_says(text, f"{path} has 16 bits a colour", "save it as one of them")
