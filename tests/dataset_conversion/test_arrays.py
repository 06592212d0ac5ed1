"""Proves: arrays of numpy and HDF5 arrive, as they are shared for Synapse, and unclear ones are refused."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image
from support.files import save
from support.property_inputs import noise
from support.refusals import (
    PNGS,
    SIZE,
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
from nnunet_plugins.files import read_json

CASES = range(3)
ENDINGS = [".npy", ".npz", ".h5"]


def save_array(path: Path, array: np.ndarray, key: str = "data") -> Path:
    return save_arrays(path, **{key: array})


def save_arrays(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".npy":
            (array,) = arrays.values()
            np.save(path, array)
        case ".npz":
            np.savez_compressed(path, **arrays)
        case _:
            with h5py.File(path, "w") as file:
                for key, array in arrays.items():
                    file[key] = array
    return path


def labels(seed: int, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    return (noise(seed, shape) % 3).astype(np.float32)


def written(part: str, case: str) -> np.ndarray:
    return np.asarray(nibabel.load(raw_dataset() / part / f"{case}.nii.gz").dataobj).T


LABEL_MAP = ("--label-map", "0=background", "1=aorta", "2=liver")


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_slices_with_image_and_label_in_one_file_become_two_axis_nifti(tmp_path, ending, capsys):
    images = [np.random.default_rng(index).random(SIZE, np.float32) for index in CASES]
    for index, image in enumerate(images):
        path = tmp_path / f"download/train_npz/case000{index}_slice001{ending}"
        save_arrays(path, image=image, label=labels(index))
    pattern = f"train_npz/*{ending}"
    options = ("--images", pattern, "--masks", pattern, "--dataset-name", "Cells", "-d", "7", "--channels", "CT")
    convert("folder", tmp_path / "download", *options, *LABEL_MAP)
    for index, image in enumerate(images):
        assert np.array_equal(written("imagesTr", f"case000{index}_slice001_0000"), image)
        assert np.array_equal(written("labelsTr", f"case000{index}_slice001"), labels(index))
    assert "-c 2d" in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("reading", ["volume", "images"])
def test_volumes_with_image_and_label_in_one_file_become_what_the_user_says(tmp_path, reading, capsys):
    shape = (4, *SIZE)
    for index in CASES:
        path = tmp_path / f"download/test_vol_h5/case000{index}.npy.h5"
        save_arrays(path, image=np.random.default_rng(index).random(shape, np.float32), label=labels(index, shape))
    options = ("--images", "test_vol_h5/*.npy.h5", "--masks", "test_vol_h5/*.npy.h5", *PNGS[5:], *LABEL_MAP)
    text = refusal_in_one_sentence("folder", tmp_path / "download", *options)
    assert_says(text, "case0000.npy.h5 has 4 pages", "--pages volume or --pages images")
    convert("folder", tmp_path / "download", *options, "--pages", reading)
    for index in CASES:
        image, label = np.random.default_rng(index).random(shape, np.float32), labels(index, shape)
        if reading == "volume":
            assert np.array_equal(written("imagesTr", f"case000{index}_0000"), image)
            assert np.array_equal(written("labelsTr", f"case000{index}"), label)
        else:
            for page in range(4):
                assert np.array_equal(written("imagesTr", f"case000{index}_{page + 1}_0000"), image[page])
                assert np.array_equal(written("labelsTr", f"case000{index}_{page + 1}"), label[page])
    folds = read_json(raw_dataset() / "splits_final.json")
    assert all(not {name[:8] for name in fold["train"]} & {name[:8] for name in fold["val"]} for fold in folds)
    assert f"-c {'3d_fullres' if reading == 'volume' else '2d'}" in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("ending", ENDINGS)
def test_colours_and_boolean_masks_become_png(tmp_path, ending):
    for index in CASES:
        save_array(tmp_path / f"download/images/{index}{ending}", picture(index))
        save_array(tmp_path / f"download/masks/{index}{ending}", mask() > 0)
    convert(*with_source([option.replace(".png", ending) for option in PNGS], tmp_path / "download"))
    for index in CASES:
        assert np.array_equal(np.asarray(Image.open(raw_dataset() / f"imagesTr/{index}_0000.png")), picture(index))
        assert np.array_equal(np.asarray(Image.open(raw_dataset() / f"labelsTr/{index}.png")), mask(1))


@pytest.mark.usefixtures("nnunet_folders")
def test_array_as_mask_of_a_picture_is_taken(tmp_path):
    for index in CASES:
        save(tmp_path / f"download/images/{index}.png", picture(index))
        save_array(tmp_path / f"download/masks/{index}.npy", mask(1).astype(np.int64))
    convert(*with_source([option.replace("masks/*.png", "masks/*.npy") for option in PNGS], tmp_path / "download"))
    assert np.array_equal(np.asarray(Image.open(raw_dataset() / "labelsTr/2.png")), mask(1))


@pytest.mark.parametrize(
    "dtype", [np.uint8, ">u2", np.int16, np.int64, np.float16, ">f4", np.float64], ids=lambda dtype: np.dtype(dtype).str
)
@pytest.mark.parametrize("shape", [SIZE, (1, *SIZE), (*SIZE, 1)])
def test_values_of_any_type_arrive(tmp_path, dtype, shape):
    array = (noise(0, SIZE, np.uint8).astype(int) - (100 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    read = read_picture(save_array(tmp_path / "x.npy", array.reshape(shape)))
    assert np.array_equal(read.array.reshape(SIZE), array) and read.array.dtype.isnative
    assert (read.geometry is None) == (np.dtype(dtype).kind == "u")
    seen = read_mask((tmp_path / "x.npy",), SIZE).array
    assert seen.shape == SIZE and np.array_equal(seen, array)


@pytest.mark.parametrize("ending", ENDINGS)
def test_values_that_are_no_number_are_counted_and_refused(tmp_path, ending):
    array = np.full(SIZE, np.nan)
    with pytest.raises(UserError, match="has 480 of 480 values that are not a number"):
        read_picture(save_array(tmp_path / f"x{ending}", array))


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_file_of_several_arrays_without_the_known_names_is_refused(tmp_path, ending):
    path = save_arrays(tmp_path / f"x{ending}", a=mask(), label=mask())
    with pytest.raises(UserError, match="has the arrays 'a', 'label', but one array, or one that is named 'image', is"):
        read_picture(path)
    assert np.array_equal(read_mask((path,), SIZE).array, mask())


@pytest.mark.parametrize("shape", [(5,), (7, 8, 9, 10), (2, 7, 8, 9)])
def test_other_shapes_are_refused(tmp_path, shape):
    path = save_array(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(UserError) as refused:
        read_picture(path, "volume")
    assert_says(str(refused.value), f"{path} has the shape {shape}", "are expected")


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_and_pickled_arrays_are_refused(tmp_path, ending):
    path = save_array(tmp_path / f"x{ending}", noise(0, (40, 40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(path)
    if ending != ".h5":
        save_array(path, np.array([{}, None], object))
        with pytest.raises(UserError, match="cannot be read"):
            read_picture(path)
