"""Proves: TIFF arrives with all its bits and channels, as black on white, and pages are what the user says."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from support.files import save
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
    with_source,
)

from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.errors import UserError

CASES = range(3)
HEIGHT, WIDTH = SIZE


def write(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **options)
    return path


def mask_values(path: Path) -> np.ndarray:
    return read_mask((path,), SIZE).array


# ---- depth and channels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
        {"tile": (16, 16), "planarconfig": "separate", "compression": "lzw"},
        {"compression": "deflate", "predictor": True, "rowsperstrip": 3},
        {"bigtiff": True, "byteorder": ">"},
        {"subfiletype": 0, "software": "x", "metadata": None},
    ],
    ids=["strips", "planes", "tiles", "planes of tiles", "predictor", "big", "plain"],
)
def test_colours_arrive_however_they_are_stored(tmp_path, dtype, options):
    array = noise(0, (*SIZE, 3), dtype)
    stored = np.moveaxis(array, -1, 0) if options.get("planarconfig") == "separate" else array
    path = write(tmp_path / "x.tif", stored, photometric="rgb", **options)
    read = read_picture(path)
    assert read.array.dtype == dtype and read.array.dtype.isnative and np.array_equal(read.array, array)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("planes", [True, False])
def test_channels_without_a_meaning_are_all_kept(tmp_path, channels, planes):
    array = noise(0, (*SIZE, channels), np.uint16)
    stored, config = (np.moveaxis(array, -1, 0), "separate") if planes else (array, "contig")
    path = write(tmp_path / "x.tif", stored, photometric="minisblack", planarconfig=config)
    assert np.array_equal(read_picture(path).array, array)
    with pytest.raises(UserError, match=f"has {channels} channels, but a mask has one"):
        mask_values(path)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_dropped_from_images_and_judged_in_masks(tmp_path, channels, dtype):
    array = noise(0, (*SIZE, channels), dtype)
    array[..., :-1] = array[..., :1]
    photometric = "rgb" if channels == 4 else "minisblack"
    path = write(tmp_path / "x.tif", array, photometric=photometric, extrasamples=["unassalpha"])
    assert np.array_equal(read_picture(path).array, array[..., 0] if channels == 2 else array[..., :3])
    with pytest.raises(UserError, match="transparent in parts"):
        mask_values(path)
    array[..., -1] = 255
    write(path, array, photometric=photometric, extrasamples=["unassalpha"])
    assert np.array_equal(mask_values(path), array[..., 0])


def test_grey_and_alpha_of_16_bits_arrive_from_png_too(tmp_path):
    """Pillow would keep 8 bits."""
    array = noise(0, (*SIZE, 2), np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), tmp_path / "x.png")
    assert np.array_equal(read_picture(tmp_path / "x.png").array, array[..., 0])
    with pytest.raises(UserError, match="transparent in parts"):
        mask_values(tmp_path / "x.png")


@pytest.mark.usefixtures("nnunet_folders")
def test_five_channels_become_five_files(tmp_path):
    for index in CASES:
        write(
            tmp_path / f"download/images/{index}.tif",
            noise(index, (*SIZE, 5), np.uint16),
            photometric="minisblack",
            planarconfig="contig",
        )
        save(tmp_path / f"download/masks/{index}.tif", mask())
    text = refusal_in_one_sentence(*with_source(TIFFS, tmp_path / "download"))
    assert_says(text, "0.tif has 5 channels: name them with --channels")
    convert(*with_source(TIFFS, tmp_path / "download"), "--channels", *"abcde")
    for channel in range(5):
        written = np.asarray(Image.open(raw_dataset() / f"imagesTr/1_{channel:04}.png"))
        assert np.array_equal(written, noise(1, (*SIZE, 5), np.uint16)[..., channel])


# ---- meanings of values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_white_is_zero_is_turned_to_black_on_white(tmp_path, dtype):
    foreground = mask() > 0
    largest = 1 if dtype is bool else np.iinfo(dtype).max
    stored = np.where(foreground, 0, largest).astype(dtype)  # what is 0 is shown white
    path = write(tmp_path / "x.tif", stored, photometric="miniswhite")
    shown = np.where(foreground, 255 if dtype is bool else largest, 0)
    assert np.array_equal(mask_values(path), shown) and np.array_equal(read_picture(path).array, shown)
    if dtype is not np.uint16:  # which Pillow refuses
        assert np.array_equal(np.asarray(Image.open(path).convert("L")), shown)


def test_signed_white_is_zero_is_refused(tmp_path):
    path = write(tmp_path / "x.tif", mask().astype(np.int16), photometric="miniswhite")
    with pytest.raises(UserError, match="of which 0 is white, which is ambiguous"):
        read_picture(path)


@pytest.mark.parametrize("inverted", [True, False])
def test_grey_palettes_give_greys(tmp_path, inverted):
    image = Image.fromarray(mask() // 255, "P")
    image.putpalette([255, 255, 255, 0, 0, 0] if inverted else [0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "x.tif")
    shown = np.asarray(image.convert("L"))
    assert np.array_equal(mask_values(tmp_path / "x.tif"), shown)
    assert np.array_equal(read_picture(tmp_path / "x.tif").array, shown)


def test_coloured_palettes_give_numbers_to_masks_and_colours_to_images(tmp_path):
    numbers = mask() // 255 * 2
    image = Image.fromarray(numbers, "P")
    image.putpalette([10, 20, 30, 0, 255, 0, 255, 0, 0])
    image.save(tmp_path / "x.tif")
    assert np.array_equal(mask_values(tmp_path / "x.tif"), numbers)
    assert np.array_equal(read_picture(tmp_path / "x.tif").array, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_are_those_of_pillow(tmp_path, mode):
    image = Image.fromarray(picture())
    if mode == "LAB":
        image = Image.frombytes("LAB", (WIDTH, HEIGHT), picture().tobytes())
    image.convert(mode).save(tmp_path / "x.tif")
    assert np.array_equal(
        read_picture(tmp_path / "x.tif").array, np.asarray(Image.open(tmp_path / "x.tif").convert("RGB"))
    )


def test_turned_page_is_refused(tmp_path):
    path = write(tmp_path / "x.tif", mask(), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(UserError, match="to be shown turned"):
        read_picture(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 2}])
@pytest.mark.parametrize("missing", [1, 400])
def test_page_that_lacks_its_last_bytes_is_refused(tmp_path, options, missing):
    path = write(tmp_path / "x.tif", noise(0, (60, 60)), metadata=None, **options)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(path)


# ---- fractions -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nnunet_folders")
def test_fractions_become_nifti_with_two_axes(tmp_path, capsys):
    images = [np.random.default_rng(index).normal(size=SIZE).astype(np.float32) for index in CASES]
    images[2] = np.arange(images[2].size).reshape(SIZE).astype(np.int32)  # another program's integers
    for index, image in enumerate(images):
        save(tmp_path / f"download/images/{index}.tif", image)
        save(tmp_path / f"download/masks/{index}.tif", mask())
    convert(*with_source(TIFFS, tmp_path / "download"))
    for index, image in enumerate(images):
        written = nibabel.load(raw_dataset() / f"imagesTr/{index}_0000.nii.gz")
        assert np.array_equal(written.get_fdata(), image.T)
        label = nibabel.load(raw_dataset() / f"labelsTr/{index}.nii.gz")
        assert np.array_equal(np.asarray(label.dataobj), (mask() > 0).T)
    assert "-c 2d" in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
def test_signed_slices_keep_their_hounsfield_units_whichever_comes_first(tmp_path):
    images = [picture(index)[..., 0].astype(np.int16) - np.int16(1000 * (index == 2)) for index in CASES]
    for index, image in enumerate(images):
        write(tmp_path / f"download/images/{index}.tif", image)
        save(tmp_path / f"download/masks/{index}.tif", mask())
    convert(*with_source(TIFFS, tmp_path / "download"))
    for index, image in enumerate(images):
        assert np.array_equal(nibabel.load(raw_dataset() / f"imagesTr/{index}_0000.nii.gz").get_fdata(), image.T)


@pytest.mark.usefixtures("nnunet_folders")
def test_fractions_among_integers_are_refused(tmp_path):
    for index in CASES:
        save(tmp_path / f"download/images/{index}.tif", picture(index)[..., 0] if index else mask())
        save(tmp_path / f"download/masks/{index}.tif", mask())
    path = save(tmp_path / "download/images/1.tif", np.full(SIZE, 0.5, np.float32))
    text = refusal_in_one_sentence(*with_source(TIFFS, tmp_path / "download"))
    assert_says(text, f"{path} has float32 values from 0 to 0.5", "convert files with other values separately")


@pytest.mark.parametrize("read", [read_picture, mask_values])
def test_values_that_are_no_number_are_counted_and_refused(tmp_path, read):
    array = np.zeros(SIZE, np.float32)
    array[0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(UserError, match=r"x\.tif has 3 of 480 values that are not a number"):
        read(save(tmp_path / "x.tif", array))


@pytest.mark.parametrize("further", [{"spacing": 1.0}, {}])
@pytest.mark.parametrize(("unit", "size"), [("um", (0.2, 0.2, 1.0)), ("pixel", (1.0, 1.0, 1.0))])
def test_stacks_of_imagej_keep_their_voxel_size_even_if_their_distance_is_one(tmp_path, further, unit, size):
    """ImageJ writes no distance of slices that is exactly 1."""
    stack = np.zeros((4, *SIZE), np.uint8)
    options = {"imagej": True, "resolution": (5, 5), "metadata": {"axes": "ZYX", "unit": unit, **further}}
    path = write(tmp_path / "x.tif", stack, **options)
    expected = (0.2, 0.2, 1.0) if further else size
    assert read_picture(path, "volume").geometry.spacing == pytest.approx(expected)
