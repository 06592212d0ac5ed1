"""Proves: synthetic images are repeatable, look like microscopy, and their nuclei touch."""

import numpy as np
import pytest
from scipy.ndimage import label
from skimage.io import imread

from nnunet_plugins import synthetic


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("stain", synthetic.STAINS)
def test_images_are_deterministic_and_their_nuclei_visible(stain):
    image, mask = synthetic.synthetic_nuclei(generator(), 96, stain=stain)
    again = synthetic.synthetic_nuclei(generator(), 96, stain=stain)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    assert mask.shape == (96, 96) and set(np.unique(mask)) == {0, 1}
    assert np.array_equal(image, again[0]) and np.array_equal(mask, again[1])
    inside, outside = image[mask == 1].mean(), image[mask == 0].mean()
    assert inside > outside + 30 if stain == "fluorescence" else inside < outside - 30


def test_other_seeds_give_other_images():
    assert not np.array_equal(synthetic.synthetic_nuclei(generator(0))[0], synthetic.synthetic_nuclei(generator(1))[0])


def test_nuclei_touch():
    for seed in range(10):
        nuclei = synthetic.place_nuclei(generator(seed), 128, 40)
        components = label(nuclei > 0, structure=np.ones((3, 3)))[1]
        assert components < 0.8 * (len(np.unique(nuclei)) - 1)


def test_dataset_is_complete_and_has_both_stains(tmp_path):
    synthetic.write_dataset(tmp_path, num_train=4, num_test=2)
    cases = {part: sorted(path.stem for path in (tmp_path / f"labels{part}").iterdir()) for part in ("Tr", "Ts")}
    assert cases == {"Tr": [f"nuclei_{i:03}" for i in range(4)], "Ts": ["nuclei_004", "nuclei_005"]}
    images = [imread(tmp_path / f"images{part}" / f"{case}_0000.png") for part in cases for case in cases[part]]
    assert {bool(np.median(image) > 100) for image in images[:4]} == {True, False}
    assert {bool(np.median(image) > 100) for image in images[4:]} == {True, False}
