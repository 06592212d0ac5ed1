"""Proves: resizing takes means over areas, moves nothing, keeps types and places, and counts every object it loses."""

from fractions import Fraction

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.property_inputs import noise, seeds, sizes

from nnunet_plugins.dataset_conversion.pictures import Geometry, Picture
from nnunet_plugins.dataset_conversion.resizing import nearest, resize_labels, resize_picture, vanished_objects

OBLIQUE = Geometry((0.75, 0.8, 3.0), (-172.3, 179.5, -340.2), (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0))
TYPES = [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]


def area_mean(row: list[int], new: int) -> list[Fraction]:
    """Exact mean over each of ``new`` equal parts of a row of pixels."""
    means = []
    for index in range(new):
        start, end = Fraction(index * len(row), new), Fraction((index + 1) * len(row), new)
        shares = [max(Fraction(0), min(end, pixel + 1) - max(start, pixel)) for pixel in range(len(row))]
        means.append(sum(share * value for share, value in zip(shares, row, strict=True)) / (end - start))
    return means


@pytest.mark.parametrize(("old", "new"), [(6, 3), (7, 3), (10, 8), (37, 16), (5, 5), (9, 1)])
def test_shrinking_takes_the_exact_mean_over_areas(old, new):
    """Libraries that give whole pixels to one area or the other are off by dozens of grey values here."""
    row = noise(old, (old,), np.uint8).tolist()
    image = np.repeat(np.array([row], np.uint8), 4, axis=0)
    resized = resize_picture(Picture(image), (2, new)).array
    expected = [round(mean) for mean in area_mean(row, new)]
    assert np.abs(resized.astype(int) - expected).max() <= (0 if old % new == 0 else 1)
    exact = resize_picture(Picture(image.astype(np.float64)), (2, new)).array
    np.testing.assert_allclose(exact, [[float(mean) for mean in area_mean(row, new)]] * 2, rtol=1e-12)


def ramp(length: int) -> np.ndarray:
    """Positions of the centres of pixels, as parts of the length, in thousandths."""
    return 1000 * (np.arange(length) + 0.5) / length


@pytest.mark.parametrize(("old", "new"), [(64, 24), (64, 32), (24, 64), (32, 64), (31, 45)])
def test_images_do_not_move(old, new):
    """Pixels hold their own positions, and so do those of the resized image, to a twentieth of a pixel."""
    image = np.broadcast_to(ramp(old), (old, old))
    resized = resize_picture(Picture(image.copy()), (new, new)).array
    inside = slice(new // 4, -(new // 4))  # at the ends there is nothing beyond
    offsets = (resized - ramp(new))[:, inside] * new / 1000  # in pixels
    assert np.abs(offsets).max() < 0.05 and abs(offsets.mean()) < 1e-3


@given(sizes, st.tuples(st.integers(0, 6), st.integers(0, 6)), seeds)
def test_labels_are_those_of_nearest_pixels_with_aligned_centres(old, exponents, seed):
    """Torch's ``nearest-exact`` computes positions in 32 bits, so exactly for powers of two."""
    labels, new = noise(seed, old), (2 ** exponents[0], 2 ** exponents[1])
    expected = torch.nn.functional.interpolate(torch.tensor(labels)[None, None].float(), new, mode="nearest-exact")
    np.testing.assert_array_equal(resize_labels(labels, new), expected[0, 0].numpy())


@pytest.mark.parametrize(("old", "new"), [(300, 100), (500, 224), (576, 256), (1022, 256), (224, 500), (7, 5)])
def test_labels_do_not_move(old, new):
    """The nearest pixel is never farther than half a pixel and on average not away; the first one of an area is."""
    centres = (np.arange(new) + 0.5) * old / new
    offsets = nearest(old, new) + 0.5 - centres
    assert np.abs(offsets).max() <= 0.5 and abs(offsets.mean()) < 0.01
    first = np.arange(new) * old // new + 0.5 - centres
    assert old < new or abs(first.mean()) > 0.1


def test_image_and_mask_stay_on_each_other():
    """Discs of any place have the same centre in the resized image as in the resized mask, to a third of a pixel."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.mgrid[:210, :330])
    for size in ((96, 128), (256, 256), (70, 110)):
        offsets = []
        for _ in range(20):
            centre = rng.uniform(60, 150, 2)
            disc = (np.hypot(*(grid - centre[:, None, None])) < 40).astype(np.uint8)
            image = resize_picture(Picture(200 * disc), size).array / 200
            mask = resize_labels(disc, size)
            offsets.append(centre_of(image) - centre_of(mask))
        assert np.abs(offsets).max() < 0.33 and np.abs(np.mean(offsets, axis=0)).max() < 0.1


def centre_of(weights: np.ndarray) -> np.ndarray:
    return np.array(
        [(weights * axis).sum() / weights.sum() for axis in np.mgrid[: weights.shape[0], : weights.shape[1]]]
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(12, 12), (40, 41), (12, 40), (20, 24)])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_types_and_channels_are_kept(dtype, size, channels):
    shape = (20, 24) if channels is None else (20, 24, channels)
    array = (noise(0, shape, np.uint8).astype(np.int32) * 200 % 2**15).astype(dtype)
    resized = resize_picture(Picture(array), size)
    assert resized.array.dtype == dtype and resized.array.shape == (*size, *shape[2:])
    assert resized.geometry is None and resized.array.flags.c_contiguous
    assert array.min() <= resized.array.min() and resized.array.max() <= array.max()
    for channel in range(channels or 0):
        alone = resize_picture(Picture(np.ascontiguousarray(array[..., channel])), size).array
        np.testing.assert_array_equal(resized.array[..., channel], alone)


@pytest.mark.parametrize("value", [0, 1, 37003, 65535])
def test_even_areas_keep_their_value_in_16_bits(value):
    image = Picture(np.full((30, 50), value, np.uint16))
    for size in ((7, 11), (64, 64), (64, 11)):
        assert np.unique(resize_picture(image, size).array).tolist() == [value]


def test_same_size_changes_no_bit():
    image = Picture(noise(0, (20, 24, 3), np.uint16))
    assert resize_picture(image, (20, 24)).array.tobytes() == image.array.tobytes()
    np.testing.assert_array_equal(resize_labels(image.array[..., 0], (20, 24)), image.array[..., 0])


# ---- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 6), (32, 40), (8, 40)])
def test_slices_are_resized_and_stay_where_they_lie(size):
    """Voxels hold their own position, so a resized voxel must hold the place where its header puts it."""
    volume = sitk.Image([20, 16, 3], sitk.sitkFloat64)
    volume.SetSpacing(OBLIQUE.spacing), volume.SetOrigin(OBLIQUE.origin), volume.SetDirection(OBLIQUE.direction)
    indices = [(x, y, z) for z in range(3) for y in range(16) for x in range(20)]
    for axis in range(3):
        positions = np.array([volume.TransformIndexToPhysicalPoint(index)[axis] for index in indices])
        resized = resize_picture(Picture(positions.reshape(3, 16, 20), OBLIQUE), size)
        assert resized.shape == (3, *size)
        copy = sitk.GetImageFromArray(resized.array)
        copy.SetSpacing(resized.geometry.spacing), copy.SetOrigin(resized.geometry.origin)
        copy.SetDirection(resized.geometry.direction)
        for x, y, z in ((size[1] // 2, size[0] // 2, 0), (size[1] // 2 - 1, size[0] // 2 + 1, 2)):
            assert resized.array[z, y, x] == pytest.approx(
                copy.TransformIndexToPhysicalPoint((x, y, z))[axis], abs=0.05
            )


@given(st.integers(1, 40), sizes, sizes)
def test_outlines_of_volumes_stay(depth, old, new):
    picture = Picture(np.zeros((depth, *old), np.uint8), OBLIQUE)
    resized = resize_picture(picture, new)
    for end in (-0.5, 1):  # in voxels: the outer corners of the first and the last
        ours, theirs = (
            np.array(p.geometry.origin)
            + np.reshape(p.geometry.direction, (3, 3))
            @ ((np.full(3, -0.5) if end < 0 else np.array(p.shape[::-1]) - 0.5) * p.geometry.spacing)
            for p in (resized, picture)
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


# ---- what is lost ----------------------------------------------------------------------------------------------------


def test_objects_without_a_pixel_are_counted_by_label():
    labels = np.zeros((24, 24), np.uint8)
    labels[2:12, 2:12] = 1  # large: stays
    labels[13, 1], labels[13, 4] = 1, 1  # centres of new pixels are 1, 4, 7, ...: both stay
    labels[15, 2], labels[18, 18], labels[20, 20] = 2, 2, 3  # between them: vanish
    labels[16:18, 19:21] = 2  # touches another by a corner: one object, of which a pixel stays
    resized = resize_labels(labels, (8, 8))
    assert np.unique(resized).tolist() == [0, 1, 2]
    assert vanished_objects(labels, (8, 8)) == {2: 1, 3: 1}
    assert vanished_objects(labels, (24, 24)) == vanished_objects(labels, (48, 48)) == {}
    assert vanished_objects(np.zeros((24, 24), np.uint8), (8, 8)) == {}


@given(sizes, sizes, seeds)
def test_count_is_that_of_objects_flooded_one_by_one(old, new, seed):
    labels = (np.random.default_rng(seed).random(old) < 0.2).astype(np.uint8)
    labels[: old[0] // 2] *= 2
    assert vanished_objects(labels, new) == flooded(labels, new)


def flooded(labels: np.ndarray, size: tuple[int, int]) -> dict[int, int]:
    kept = {(int(r), int(c)) for r in nearest(labels.shape[0], size[0]) for c in nearest(labels.shape[1], size[1])}
    counts: dict[int, int] = {}
    left = {tuple(map(int, place)) for place in np.argwhere(labels)}
    while left:
        start = left.pop()
        found, queue = {start}, [start]
        while queue:
            row, column = queue.pop()
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            same = {place for place in around if labels[place] == labels[start]}
            left -= same
            found |= same
            queue += same
        if not found & kept:
            label = int(labels[start])
            counts[label] = counts.get(label, 0) + 1
    return counts


def test_object_of_a_volume_is_lost_only_if_all_its_slices_lose_it():
    labels = np.zeros((3, 24, 24), np.uint8)
    labels[:, 2, 2] = 1
    labels[1, 3:5, 3:5] = 1  # diagonal to it, and on a centre
    labels[0, 20, 20] = 1
    assert vanished_objects(labels, (8, 8)) == {1: 1}
