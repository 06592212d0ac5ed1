"""Proves: near-duplicates are found through chains of them and in any number, whatever the brightness and contrast."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.dataset_conversion.near_duplicates import near_duplicate_groups, thumbnail
from nnunet_plugins.dataset_conversion.pictures import Geometry, Picture


def components(vectors: list[np.ndarray], correlation: float) -> list[int]:
    """Number the connected components by spreading numbers until nothing changes."""
    numbers = list(range(len(vectors)))
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(vectors):
            for j, b in enumerate(vectors):
                if float((a * b).sum()) >= correlation and numbers[i] != numbers[j]:
                    numbers[i] = numbers[j] = min(numbers[i], numbers[j])
                    changed = True
    return numbers


@given(st.integers(0, 10**6), st.integers(1, 25), st.floats(0.1, 1.5))
def test_near_duplicates_are_the_connected_components(seed, number, noise):
    """Each picture is an earlier one with noise, which makes chains, or a new one."""
    rng = np.random.default_rng(seed)
    pictures = [rng.normal(size=(40, 40))]
    for _ in range(number - 1):
        new = rng.normal(size=(40, 40))
        pictures.append(pictures[rng.integers(len(pictures))] + noise * new if rng.random() < 0.7 else new)
    vectors = [thumbnail(Picture(picture)) for picture in pictures]
    names = [f"case{i}" for i in range(number)]
    groups = near_duplicate_groups(dict(zip(names, vectors, strict=True)), 0.8)
    numbers = components(vectors, 0.8)
    assert list(groups) == names
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            assert (groups[a] == groups[b]) == (numbers[i] == numbers[j])


def test_near_duplicates_are_found_beyond_a_block_of_1024():
    rng = np.random.default_rng(0)
    vectors = {i: thumbnail(Picture(rng.normal(size=(32, 32)))) for i in range(1030)}
    vectors[1029] = vectors[3]
    vectors[1028] = vectors[1026]
    groups = near_duplicate_groups(vectors, 0.95)
    assert groups[1029] == groups[3] and groups[1028] == groups[1026]
    assert len(set(groups.values())) == 1028


def test_flat_pictures_and_no_pictures_are_no_near_duplicates():
    assert near_duplicate_groups({}, 0.9) == {}
    flat = {i: thumbnail(Picture(np.full((9, 9), 50 * i, np.uint8))) for i in range(3)}
    assert len(set(near_duplicate_groups(flat, 0.9).values())) == 3


@pytest.mark.parametrize("channels", [(), (2,)])
def test_thumbnail_of_a_volume_is_that_of_its_mean(channels):
    volume = np.random.default_rng(0).integers(0, 100, (5, 40, 50, *channels))
    slices = np.moveaxis(volume.reshape(5, 40, 50, -1), -1, 0).reshape(-1, 40, 50)
    geometry = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    expected = thumbnail(Picture(slices.mean(0)))
    np.testing.assert_allclose(thumbnail(Picture(volume, geometry)), expected, atol=1e-6)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_thumbnails_ignore_brightness_and_contrast(height, width, coloured):
    array = np.random.default_rng(height).integers(
        0, 100, (height, width, 3) if coloured else (height, width), np.uint8
    )
    small = thumbnail(Picture(array))
    assert small.shape == (32, 32)
    assert abs(small.mean()) < 1e-6
    if small.any():
        assert (small * small).sum() == pytest.approx(1, abs=1e-4)
        assert (small * thumbnail(Picture(2 * array + 5))).sum() == pytest.approx(1, abs=1e-4)
