"""Proves: voxels and geometry arrive as published in nnU-Net's own reader, and incomplete volumes are refused."""

import bz2
import os

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from support.property_inputs import noise, seeds, temporary_folder

from nnunet_plugins.dataset_conversion.cases import write_case
from nnunet_plugins.dataset_conversion.pictures import (
    Geometry,
    Picture,
    grid_difference,
    write_volume,
)
from nnunet_plugins.dataset_conversion.readers import files_behind, read_picture
from nnunet_plugins.errors import UserError

TENTH = 0.1  # of a voxel
GEOMETRY = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


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
    """Compare two grids to the precision of NIfTI's header, 32 bits."""
    assert ours.spacing == pytest.approx(theirs.spacing, rel=1e-6)
    assert ours.origin == pytest.approx(theirs.origin, rel=1e-6, abs=1e-4)
    assert ours.direction == pytest.approx(theirs.direction, abs=1e-6)


@given(shapes, geometries(), seeds, st.sampled_from(TYPES))
def test_volumes_arrive_where_they_lie(shape, geometry, seed, dtype):
    array = voxels(seed, shape, dtype)
    with temporary_folder() as folder:
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
    with temporary_folder() as folder:
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
    """The tenth is of the shortest side of a voxel, in any direction."""
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
    """The box of voxels is the same; only the order of the corners differs."""
    ours = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    theirs = Geometry((1, 1, 1), (8, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    array = np.zeros((9, 9, 9), np.uint8)
    difference = grid_difference(Picture(array, ours), Picture(array, theirs))
    assert "direction" in difference and "origin" in difference


@given(arrays(np.float32, (3, 4, 5), elements=st.floats(-1000, 1000, width=32)))
def test_fractional_voxels_arrive_bit_by_bit(array):
    geometry = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    with temporary_folder() as folder:
        write_volume(Picture(array, geometry), folder / "x.nii.gz")
        assert read_picture(folder / "x.nii.gz").array.tobytes() == array.tobytes()


def test_header_of_nifti_with_scaling_is_applied(tmp_path):
    """nnU-Net's reader, too, sees the values of the file times slope plus intercept."""
    write_volume(Picture(np.arange(60, dtype=np.int16).reshape(3, 4, 5), GEOMETRY), tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    data[112:120] = np.array([2.0, -1024.0], np.float32).tobytes()
    (tmp_path / "x.nii").write_bytes(data)
    assert read_picture(tmp_path / "x.nii").array.ravel().tolist() == [2 * value - 1024 for value in range(60)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("shape", [(2, 3, 4), (64, 64, 64)])
def test_volume_that_does_not_fit_on_the_disk_is_an_error(tmp_path, shape):
    (tmp_path / "x.nii.gz").symlink_to("/dev/full")
    with pytest.raises(OSError):
        write_volume(Picture(voxels(0, shape, np.float32), GEOMETRY), tmp_path / "x.nii.gz")


def test_volumes_compressed_otherwise_are_refused(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(bz2.compress(b"x" * 1000))
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "x.nii.gz")


def test_voxels_of_metaimage_may_lie_in_a_folder_beside_the_header(tmp_path):
    volume = sitk.GetImageFromArray(noise(0, (4, 5, 6)))
    sitk.WriteImage(volume, str(tmp_path / "x.mhd"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "x.raw").rename(tmp_path / "raw" / "x.raw")
    (tmp_path / "x.mhd").write_text((tmp_path / "x.mhd").read_text().replace("= x.raw", "= raw/x.raw"))
    assert files_behind(tmp_path / "x.mhd") == [tmp_path / "x.mhd", tmp_path / "raw" / "x.raw"]


def test_metaimage_in_capitals_is_to_be_renamed(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(noise(0, (4, 5, 6))), str(tmp_path / "x.mha"))
    (tmp_path / "x.mha").rename(tmp_path / "x.MHA")
    with pytest.raises(UserError, match=r"rename it, as SimpleITK knows \.mha in small letters only"):
        read_picture(tmp_path / "x.MHA")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("missing", [1, 100, 352])
def test_volume_that_lacks_its_last_bytes_is_refused(tmp_path, ending, missing):
    path = tmp_path / f"x{ending}"
    write_volume(Picture(noise(0, (8, 9, 10)), Geometry((1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel()))), path)
    read_picture(path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(path)
