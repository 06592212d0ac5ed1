"""Proves that pixels, voxels and geometry arrive as published: read, written, and read by nnU-Net's own readers."""

import bz2
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunet_plugins.dataset_conversion import pictures
from nnunet_plugins.dataset_conversion.cases import fit_channels, write_case
from nnunet_plugins.dataset_conversion.datasets.folder import DATASET
from nnunet_plugins.dataset_conversion.pictures import (
    Geometry,
    Picture,
    grid_difference,
    read_mask,
    read_picture,
    write_volume,
)
from nnunet_plugins.errors import UserError

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 10**6)
TENTH = 0.1  # of a voxel


@contextmanager
def place() -> Iterator[Path]:
    """A folder for one example of a property."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def noise(seed: int, shape: tuple[int, ...], dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def read_by_nnunet(path: Path, labels: np.ndarray | None = None, channels: int = 3) -> np.ndarray:
    """The channels ``(C, H, W)`` that nnU-Net sees, once the image was converted."""
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


def pictures_dataset(channels: int):
    from dataclasses import replace

    return replace(DATASET, channels=tuple("abc"[:channels]))


# ---- pictures --------------------------------------------------------------------------------------------------------

LOSSLESS = [".png", ".PNG", ".bmp", ".tif", ".TIFF"]


@given(sizes, seeds, st.sampled_from(LOSSLESS))
def test_colours_arrive(size, seed, ending):
    array = noise(seed, (*size, 3))
    with place() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        seen = read_by_nnunet(folder / f"x{ending}", labels=noise(seed, size) % 3)
    assert np.array_equal(seen, array.transpose(2, 0, 1))


@given(sizes, seeds, st.sampled_from([*LOSSLESS, ".gif"]))
def test_grey_values_arrive(size, seed, ending):
    array = noise(seed, size)
    with place() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, array)
        seen = read_by_nnunet(folder / f"x{ending}", channels=1)
    assert np.array_equal(seen, array[None])


@given(sizes, seeds)
def test_grey_image_among_coloured_ones_gets_three_equal_channels(size, seed):
    array = noise(seed, size)
    with place() as folder:
        Image.fromarray(array).save(folder / "x.png")
        assert np.array_equal(read_by_nnunet(folder / "x.png"), np.stack([array] * 3))


@given(sizes, seeds, st.sampled_from([".png", ".tif"]))
def test_alpha_is_dropped_and_changes_no_colour(size, seed, ending):
    array = noise(seed, (*size, 4))
    with place() as folder:
        Image.fromarray(array, "RGBA").save(folder / f"x{ending}")
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}"), array[..., :3].transpose(2, 0, 1))


@given(sizes, seeds)
def test_alpha_of_grey_is_dropped_and_changes_no_value(size, seed):
    array = noise(seed, (*size, 2))
    array[..., 1] = array[0, 0, 1]
    with place() as folder:
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
    with place() as folder:
        Image.fromarray(array).save(folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, array * np.uint8(255))
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}", channels=1)[0], array * 255)


@given(sizes, seeds, st.sampled_from([".png", ".tif"]), st.booleans())
def test_grey_of_16_bits_arrives_in_full(size, seed, ending, big_endian):
    array = noise(seed, size, np.uint16)
    with place() as folder:
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
    with place() as folder:
        save_deep(array, folder / f"x{ending}", compressed)
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}"), array[..., :3].transpose(2, 0, 1))


@given(sizes, seeds)
def test_mask_of_16_bit_colours_is_its_grey_value(size, seed):
    """As some programs save masks; its three channels are equal."""
    array = np.repeat(noise(seed, size)[..., None].astype(np.uint16), 3, -1)
    with place() as folder:
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
    with place() as folder:
        save_deep(array, folder / "x.png")
        with suppress(UserError):
            assert np.array_equal(read_by_nnunet(folder / "x.png", channels=1), array[None, ..., 0])


@given(sizes, seeds, st.integers(-1, 65536))
def test_wide_integers_arrive_or_are_refused(size, seed, highest):
    array = noise(seed, size).astype(np.int32)
    array.flat[0] = highest
    with place() as folder:
        Image.fromarray(array, "I").save(folder / "x.tif")
        if 0 <= highest <= 65535:
            assert np.array_equal(read_by_nnunet(folder / "x.tif", channels=1), array[None])
        else:
            with pytest.raises(UserError, match="PNG holds 0 to 65535: use NIfTI"):
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
    with place() as folder:
        save_palette(numbers, np.repeat(greys[:, None], 3, 1), folder / f"x{ending}")
        assert np.array_equal(read_mask((folder / f"x{ending}",), size).array, expected)
        assert np.array_equal(read_by_nnunet(folder / f"x{ending}", channels=1)[0], expected)


@given(sizes, seeds, st.integers(2, 200))
def test_coloured_palettes_give_numbers_to_masks_and_colours_to_images(size, seed, number):
    colours = noise(seed, (number, 3))
    colours[:, 0] |= 1
    colours[:, 1] &= 254  # red and green differ: no colour is grey
    numbers = noise(seed, size) % number
    with place() as folder:
        save_palette(numbers, colours, folder / "x.png")
        assert np.array_equal(read_mask((folder / "x.png",), size).array, numbers)
        assert np.array_equal(read_by_nnunet(folder / "x.png"), colours[numbers].transpose(2, 0, 1))


@given(sizes, seeds)
def test_transparent_entries_of_a_palette_keep_their_colour(size, seed):
    colours = noise(seed, (4, 3))
    numbers = noise(seed, size) % 4
    with place() as folder:
        save_palette(numbers, colours, folder / "x.png", transparency=bytes([0, 128, 255, 7]))
        seen = read_by_nnunet(folder / "x.png")
    assert np.array_equal(seen, colours[numbers].transpose(2, 0, 1))


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_numbers_of_colours_do_not_depend_on_which_of_them_an_image_uses(tmp_path, background):
    """A mask without foreground uses one colour only; if this is grey, its number counts nevertheless."""
    colours = np.array([background, (255, 0, 0), (0, 255, 0)])
    save_palette(np.zeros((4, 5), np.uint8), colours, tmp_path / "x.png")
    assert np.array_equal(read_mask((tmp_path / "x.png",), (4, 5)).array, np.zeros((4, 5)))


# ---- damage ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".gif"]), st.integers(0, 10**6), st.integers(0, 255), seeds)
def test_damaged_picture_is_read_or_refused_in_one_sentence(ending, position, value, seed):
    """Any exception other than UserError would be a traceback."""
    with place() as folder:
        path = folder / f"x{ending}"
        array = noise(seed, (9, 8, 3))
        Image.fromarray(array if ending != ".gif" else array[..., 0]).save(path)
        data = bytearray(path.read_bytes())
        data[position % min(len(data), 120)] = value
        data[(position * 7919) % len(data)] ^= value
        for damaged in (data, data[: position % len(data)]):
            path.write_bytes(damaged)
            for read in (read_picture, lambda path: read_mask((path,), (9, 8))):
                try:
                    read(path)
                except UserError as error:
                    assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("error", [EOFError(), OSError(), SyntaxError(), ValueError("")])
def test_reader_that_does_not_say_what_is_wrong_is_a_sentence_too(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    (tmp_path / "x.png").write_bytes(b"x")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "x.png")


def test_picture_that_would_fill_the_memory_is_refused(tmp_path):
    """A PNG of some kilobytes that declares 50 000 x 50 000 pixels."""
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "x.png")


# ---- volumes ---------------------------------------------------------------------------------------------------------


@st.composite
def geometries(draw) -> Geometry:
    """Random spacing and origin, and a random rotation, sometimes with a reflection."""
    rng = np.random.default_rng(draw(seeds))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if draw(st.booleans()):
        rotation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    return Geometry(
        tuple(float(s) for s in np.exp(rng.uniform(-2, 2, 3))),
        tuple(float(o) for o in rng.uniform(-500, 500, 3)),
        tuple(float(d) for d in rotation.ravel()),
    )


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
TYPES = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]


def voxels(seed: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 5000, shape).astype(np.int64).astype(dtype)


def assert_same_grid(ours: Geometry, theirs: Geometry) -> None:
    """To the precision of NIfTI's header, 32 bits."""
    assert ours.spacing == pytest.approx(theirs.spacing, rel=1e-6)
    assert ours.origin == pytest.approx(theirs.origin, rel=1e-6, abs=1e-4)
    assert ours.direction == pytest.approx(theirs.direction, abs=1e-6)


@given(shapes, geometries(), seeds, st.sampled_from(TYPES))
def test_volumes_arrive_where_they_lie(shape, geometry, seed, dtype):
    array = voxels(seed, shape, dtype)
    with place() as folder:
        write_volume(Picture(array, geometry), folder / "x.nii.gz")
        read = read_picture(folder / "x.nii.gz")
        seen, properties = SimpleITKIO().read_images([str(folder / "x.nii.gz")])
    assert read.array.dtype == dtype and np.array_equal(read.array, array)
    assert read.geometry is not None
    assert_same_grid(read.geometry, geometry)
    assert grid_difference(read, Picture(array, geometry)) == ""
    assert np.array_equal(seen[0], array.astype(np.float32))
    assert_same_grid(Geometry(*(properties["sitk_stuff"][name] for name in Geometry._fields)), geometry)


@given(shapes, geometries(), seeds, st.sampled_from([".mha", ".nrrd", ".mhd", ".nii", ".NRRD"]))
def test_volumes_of_other_formats_become_nifti(shape, geometry, seed, ending):
    array, labels = voxels(seed, shape, np.int16), noise(seed, shape) % 3
    with place() as folder:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(geometry.spacing)
        image.SetOrigin(geometry.origin)
        image.SetDirection(geometry.direction)
        sitk.WriteImage(image, folder / f"x{ending.lower()}")
        if ending != ending.lower():
            (folder / f"x{ending.lower()}").rename(folder / f"x{ending}")
        read = read_picture(folder / f"x{ending}")
        for part in ("images", "labels"):
            (folder / part).mkdir()
        write_case(
            folder, "case", [read, Picture(read.array + np.int16(1), read.geometry)], Picture(labels, read.geometry)
        )
        seen, properties = SimpleITKIO().read_images([str(folder / f"images/case_000{c}.nii.gz") for c in range(2)])
        segmentation, _ = SimpleITKIO().read_seg(str(folder / "labels/case.nii.gz"))
    assert np.array_equal(seen, np.stack([array, array + np.int16(1)]))
    assert np.array_equal(segmentation[0], labels)
    assert_same_grid(Geometry(*(properties["sitk_stuff"][name] for name in Geometry._fields)), geometry)


@given(shapes, geometries(), st.floats(0, 0.3), seeds)
def test_grids_may_differ_by_a_tenth_of_a_voxel_and_no_more(shape, geometry, voxels, seed):
    """Of the shortest side of a voxel, in any direction."""
    assume(abs(voxels - TENTH) > 1e-3)
    direction = np.random.default_rng(seed).normal(size=3)
    shift = voxels * min(geometry.spacing) * direction / np.linalg.norm(direction)
    moved = geometry._replace(origin=tuple((np.array(geometry.origin) + shift).tolist()))
    array = np.zeros(shape, np.uint8)
    difference = grid_difference(Picture(array, geometry), Picture(array, moved))
    assert bool(difference) == (voxels > TENTH)
    if voxels > TENTH and np.abs(shift).max() > 0.1:
        assert difference.startswith("origin (") and "spacing" not in difference and "direction" not in difference


@given(geometries(), st.integers(2, 100), st.floats(0, 0.01))
def test_spacing_may_differ_by_as_much_as_the_last_voxel_moves(geometry, length, stretch):
    moved = abs(stretch) * (length - 1)
    assume(abs(moved - TENTH) > 1e-3)
    geometry = geometry._replace(spacing=(1.0, 1.0, 1.0))
    array = np.zeros((1, 1, length), np.uint8)
    other = geometry._replace(spacing=(1.0 + stretch, 1.0, 1.0))
    assert bool(grid_difference(Picture(array, geometry), Picture(array, other))) == (moved > TENTH)


@given(shapes, geometries())
def test_corners_are_where_simpleitk_sees_them(shape, geometry):
    image = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    expected = {
        tuple(np.round(image.TransformIndexToPhysicalPoint((x, y, z)), 6) + 0.0)
        for x in (0, shape[2] - 1)
        for y in (0, shape[1] - 1)
        for z in (0, shape[0] - 1)
    }
    corners = geometry.corners(shape)
    assert corners.shape == (8, 3)
    for corner in corners:
        assert min(np.abs(np.array(point) - corner).max() for point in expected) < 1e-5


def test_flipped_axes_are_another_grid():
    """Of the same box of voxels: only the order of the corners tells."""
    ours = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    theirs = Geometry((1, 1, 1), (8, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    array = np.zeros((9, 9, 9), np.uint8)
    difference = grid_difference(Picture(array, ours), Picture(array, theirs))
    assert "direction" in difference and "origin" in difference


@given(arrays(np.float32, (3, 4, 5), elements=st.floats(-1000, 1000, width=32)))
def test_fractional_voxels_arrive_bit_by_bit(array):
    geometry = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    with place() as folder:
        write_volume(Picture(array, geometry), folder / "x.nii.gz")
        assert read_picture(folder / "x.nii.gz").array.tobytes() == array.tobytes()


def test_header_of_nifti_with_scaling_is_applied(tmp_path):
    """Values of the file times slope plus intercept, as nnU-Net's reader sees them."""
    write_volume(Picture(np.arange(60, dtype=np.int16).reshape(3, 4, 5), GEOMETRY), tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    data[112:120] = np.array([2.0, -1024.0], np.float32).tobytes()
    (tmp_path / "x.nii").write_bytes(data)
    assert read_picture(tmp_path / "x.nii").array.ravel().tolist() == [2 * value - 1024 for value in range(60)]


GEOMETRY = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("shape", [(2, 3, 4), (64, 64, 64)])
def test_volume_that_does_not_fit_on_the_disk_is_an_error(tmp_path, shape):
    (tmp_path / "x.nii.gz").symlink_to("/dev/full")
    with pytest.raises(OSError):
        write_volume(Picture(voxels(0, shape, np.float32), GEOMETRY), tmp_path / "x.nii.gz")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_picture_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    (tmp_path / "x.png").symlink_to("/dev/full")
    with pytest.raises(OSError):
        pictures.write_image(noise(0, (5, 5)), tmp_path / "x.png")


def test_volumes_compressed_otherwise_are_refused(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(bz2.compress(b"x" * 1000))
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("missing", [1, 100, 352])
def test_volume_that_lacks_its_last_bytes_is_refused(tmp_path, ending, missing):
    path = tmp_path / f"x{ending}"
    write_volume(Picture(noise(0, (8, 9, 10)), Geometry((1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel()))), path)
    read_picture(path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(path)
