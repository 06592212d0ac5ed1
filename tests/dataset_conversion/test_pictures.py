"""Proves: pixels arrive as published in nnU-Net's own reader, whatever the format, the palette and the depth."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from PIL import Image
from support.property_inputs import noise, seeds, sizes, temporary_folder

from nnunet_plugins.dataset_conversion.cases import fit_channels, write_case
from nnunet_plugins.dataset_conversion.dataset import Dataset
from nnunet_plugins.dataset_conversion.datasets.folder import DATASET
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.errors import UserError


def read_by_nnunet(path: Path, labels: np.ndarray | None = None, channels: int = 3) -> np.ndarray:
    """Convert an image and return the channels ``(C, H, W)`` that nnU-Net sees."""
    dataset = pictures_dataset(channels)
    image = fit_channels(read_picture(path), path, dataset, 1)
    labels = np.zeros(image.shape, np.uint8) if labels is None else labels
    for part in ("images", "labels"):
        (path.parent / part).mkdir()
    write_case(path.parent, "case", [image], Picture(labels))
    images = sorted((path.parent / "images").iterdir())
    assert [file.name for file in images] == [f"case_{channel:04}.png" for channel in range(len(images))]
    reader = NaturalImage2DIO()
    seen, _ = reader.read_images([str(file) for file in images])
    segmentation, _ = reader.read_seg(str(path.parent / "labels" / "case.png"))
    assert np.array_equal(segmentation[0, 0], labels)
    return seen[:, 0]


def pictures_dataset(channels: int) -> Dataset:
    return replace(DATASET, channels=tuple("abc"[:channels]))


# ---- pictures --------------------------------------------------------------------------------------------------------
LOSSLESS = [".png", ".PNG", ".bmp", ".tif", ".TIFF"]


@given(sizes, seeds, st.sampled_from(LOSSLESS))
def test_colours_arrive(size, seed, ending):
    array = noise(seed, (*size, 3))
    with temporary_folder() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        seen = read_by_nnunet(folder / f"x{ending}", labels=noise(seed, size) % 3)
    assert np.array_equal(seen, array.transpose(2, 0, 1))


@given(sizes, seeds, st.sampled_from([*LOSSLESS, ".gif"]))
def test_grey_values_arrive(size, seed, ending):
    array = noise(seed, size)
    with temporary_folder() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, array)
        seen = read_by_nnunet(folder / f"x{ending}", channels=1)
    assert np.array_equal(seen, array[None])


@given(sizes, seeds)
def test_grey_image_among_coloured_ones_gets_three_equal_channels(size, seed):
    array = noise(seed, size)
    with temporary_folder() as folder:
        Image.fromarray(array).save(folder / "x.png")
        assert np.array_equal(read_by_nnunet(folder / "x.png"), np.stack([array] * 3))


@given(sizes, seeds, st.sampled_from([".png", ".tif"]))
def test_alpha_is_dropped_and_changes_no_colour(size, seed, ending):
    array = noise(seed, (*size, 4))
    with temporary_folder() as folder:
        Image.fromarray(array, "RGBA").save(folder / f"x{ending}")
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}"), array[..., :3].transpose(2, 0, 1))


@given(sizes, seeds)
def test_alpha_of_grey_is_dropped_and_changes_no_value(size, seed):
    array = noise(seed, (*size, 2))
    array[..., 1] = array[0, 0, 1]
    with temporary_folder() as folder:
        Image.fromarray(array, "LA").save(folder / "x.png")
        assert np.array_equal(read_mask((folder / "x.png",), size).array, array[..., 0])
        assert np.array_equal(read_by_nnunet(folder / "x.png", channels=1), array[None, ..., 0])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_mask_whose_shape_is_its_transparency_is_refused(tmp_path, mode):
    array = np.full((4, 5, len(mode)), 255, np.uint8)
    array[1:3, 1:3, -1] = 0
    Image.fromarray(array, mode).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png is transparent in parts"):
        read_mask((tmp_path / "x.png",), (4, 5))


@given(sizes, seeds, st.sampled_from([".png", ".tif", ".bmp"]))
def test_one_bit_becomes_0_and_255(size, seed, ending):
    array = noise(seed, size) > 127
    with temporary_folder() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, array * np.uint8(255))
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}", channels=1)[0], array * 255)


@given(sizes, seeds, st.sampled_from([".png", ".tif"]), st.booleans())
def test_grey_of_16_bits_arrives_in_full(size, seed, ending, big_endian):
    array = noise(seed, size, np.uint16)
    with temporary_folder() as folder:
        path = folder / f"x{ending}"
        if big_endian and ending == ".tif":
            Image.frombytes("I;16B", size[::-1], array.astype(">u2").tobytes()).save(path)
        else:
            Image.fromarray(array).save(path)
        assert np.array_equal(read_mask((path,), size).array, array)
        assert np.array_equal(read_by_nnunet(path, channels=1), array[None])


def save_deep(array: np.ndarray, path: Path, compressed: bool = False) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), path, useCompression=compressed)


@given(sizes, seeds, st.sampled_from([".png", ".tif"]), st.booleans(), st.integers(3, 4))
def test_colours_of_16_bits_arrive_in_full_as_three_channels(size, seed, ending, compressed, channels):
    array = noise(seed, (*size, channels), np.uint16)
    with temporary_folder() as folder:
        save_deep(array, folder / f"x{ending}", compressed)
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}"), array[..., :3].transpose(2, 0, 1))


@given(sizes, seeds)
def test_mask_of_16_bit_colours_is_its_grey_value(size, seed):
    """Some programs save masks so, with three equal channels."""
    array = np.repeat(noise(seed, size)[..., None].astype(np.uint16), 3, -1)
    with temporary_folder() as folder:
        save_deep(array, folder / "x.png")
        assert np.array_equal(read_mask((folder / "x.png",), size).array, array[..., 0])


def test_mask_of_16_bits_that_is_coloured_is_refused(tmp_path):
    save_deep(noise(0, (5, 6, 3), np.uint16), tmp_path / "x.png")
    with pytest.raises(UserError, match="coloured"):
        read_mask((tmp_path / "x.png",), (5, 6))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_mask_in_which_one_channel_differs_is_refused(tmp_path, channel):
    array = np.zeros((5, 6, 3), np.uint8)
    array[2, 3, channel] = 1
    Image.fromarray(array).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="coloured"):
        read_mask((tmp_path / "x.png",), (5, 6))


@given(sizes, seeds)
def test_alpha_of_16_bit_grey_is_dropped_or_refused(size, seed):
    """SimpleITK cannot read it; Pillow would keep 8 bits."""
    array = noise(seed, (*size, 2), np.uint16)
    with temporary_folder() as folder:
        save_deep(array, folder / "x.png")
        with suppress(UserError):
            assert np.array_equal(read_by_nnunet(folder / "x.png", channels=1), array[None, ..., 0])


@given(sizes, seeds, st.integers(-1, 65536))
def test_wide_integers_arrive_or_are_refused(size, seed, highest):
    array = noise(seed, size).astype(np.int32)
    array.flat[0] = highest
    with temporary_folder() as folder:
        Image.fromarray(array, "I").save(folder / "x.tif")
        if 0 <= highest <= 65535:
            assert np.array_equal(read_by_nnunet(folder / "x.tif", channels=1), array[None])
        else:
            with pytest.raises(UserError, match="PNG holds integers from 0 to 65535"):
                read_by_nnunet(folder / "x.tif", channels=1)


def test_other_colour_spaces_become_rgb(tmp_path):
    rgb = Image.fromarray(noise(0, (8, 9, 3)))
    rgb.convert("CMYK").save(tmp_path / "x.tif")
    assert np.array_equal(read_by_nnunet(tmp_path / "x.tif"), np.asarray(rgb).transpose(2, 0, 1))


def test_jpeg_arrives_as_it_is_decoded(tmp_path):
    Image.fromarray(noise(0, (8, 9, 3))).save(tmp_path / "x.jpg")
    decoded = np.asarray(Image.open(tmp_path / "x.jpg"))
    assert np.array_equal(read_by_nnunet(tmp_path / "x.jpg"), decoded.transpose(2, 0, 1))


# ---- palettes --------------------------------------------------------------------------------------------------------
def save_palette(numbers: np.ndarray, colours: np.ndarray, path: Path, **options) -> None:
    image = Image.fromarray(numbers, "P")
    image.putpalette(colours.astype(np.uint8).ravel().tolist())
    image.save(path, **options)


@given(sizes, seeds, st.sampled_from(["rising", "inverted", "shuffled", "short"]), st.sampled_from([".png", ".bmp"]))
def test_grey_palettes_give_grey_values(size, seed, kind, ending):
    greys = np.arange(256)
    match kind:
        case "inverted":
            greys = greys[::-1]
        case "shuffled":
            greys = np.random.default_rng(seed).permutation(256)
        case "short":
            greys = np.array([255, 0])
    numbers = (noise(seed, size) % np.int64(len(greys))).astype(np.uint8)
    expected = greys[numbers]
    with temporary_folder() as folder:
        save_palette(numbers, np.repeat(greys[:, None], 3, 1), folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, expected)
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}", channels=1)[0], expected)


@given(sizes, seeds, st.integers(2, 200))
def test_coloured_palettes_give_numbers_to_masks_and_colours_to_images(size, seed, number):
    colours = noise(seed, (number, 3))
    colours[:, 0] |= 1
    colours[:, 1] &= 254  # red and green differ: no colour is grey
    numbers = noise(seed, size) % number
    with temporary_folder() as folder:
        save_palette(numbers, colours, folder / "x.png")
        assert np.array_equal(read_mask((folder / "x.png",), size).array, numbers)
        assert np.array_equal(read_by_nnunet(folder / "x.png"), colours[numbers].transpose(2, 0, 1))


@given(sizes, seeds)
def test_transparent_entries_of_a_palette_keep_their_colour(size, seed):
    colours = noise(seed, (4, 3))
    numbers = noise(seed, size) % 4
    with temporary_folder() as folder:
        save_palette(numbers, colours, folder / "x.png", transparency=bytes([0, 128, 255, 7]))
        seen = read_by_nnunet(folder / "x.png")
    assert np.array_equal(seen, colours[numbers].transpose(2, 0, 1))


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_numbers_of_colours_do_not_depend_on_which_of_them_an_image_uses(tmp_path, background):
    """A mask without foreground uses one colour only; if this is grey, its number counts nevertheless."""
    colours = np.array([background, (255, 0, 0), (0, 255, 0)])
    save_palette(np.zeros((4, 5), np.uint8), colours, tmp_path / "x.png")
    assert np.array_equal(read_mask((tmp_path / "x.png",), (4, 5)).array, np.zeros((4, 5)))
