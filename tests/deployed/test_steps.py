"""Proves: every step of an exported model's inference computes what nnU-Net computes."""

import numpy as np
import pytest
import torch
from support.deployed import CUBIC, INTENSITIES, LABELS, LINEAR, REGIONS, described, trained_model

from nnunet_plugins.deployed import sliding_window
from nnunet_plugins.deployed.images import Image
from nnunet_plugins.deployed.normalization import SCHEMES
from nnunet_plugins.deployed.postprocessing import keep_largest
from nnunet_plugins.deployed.preprocessing import prepare, segment
from nnunet_plugins.deployed.resampling import resample
from nnunet_plugins.deployed.sliding_window import number_of_tiles, predict_logits
from nnunet_plugins.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def volume(rng, shape=(11, 14, 13)):
    """Two channels with a border of zeros and a hole."""
    data = rng.normal(90, 60, (2, *shape)).astype(np.float32)
    data[:, :2], data[:, :, -3:], data[:, 5, 5, 5] = 0, 0, 0
    return data


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_normalization_is_that_of_nnunet(scheme, use_mask, rng):
    from nnunetv2.preprocessing.normalization import default_normalization_schemes

    image = rng.uniform(0, 255, (4, 9, 8)).astype(np.float32)
    mask = image > 60
    theirs = getattr(default_normalization_schemes, scheme)(use_mask, INTENSITIES).run(
        image.copy(), np.where(mask, 0, -1)
    )
    ours = SCHEMES[scheme](image.copy(), mask if use_mask else None, INTENSITIES)
    assert np.array_equal(ours, theirs) and (scheme == "NoNormalization" or not np.array_equal(ours, image))


def test_colours_that_are_none_are_refused():
    with pytest.raises(UserError, match="values from -3 to 300: expected colours of 0 to 255"):
        SCHEMES["RGBTo01Normalization"](np.array([-3.0, 300.0]), None, {})


SPACINGS = [
    ((1, 1, 1), (1.5, 0.7, 1.2)),
    ((5, 1, 1), (3, 1.2, 0.8)),
    ((5, 1, 1), (5, 1.2, 0.8)),
    ((1, 1, 1), (6, 1, 1)),
    ((1, 8, 1), (1.3, 2, 1.3)),
    ((1, 1, 8), (1, 1, 4)),
    ((0.2, 1.2, 1.2), (0.2, 0.9, 0.9)),
    ((1, 1, 1), (1, 1, 1)),
]


@pytest.mark.parametrize("kwargs", [{}, CUBIC, LINEAR, CUBIC | {"order_z": 1}, LINEAR | {"force_separate_z": True}])
@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_resampling_is_that_of_nnunet(spacing, new_spacing, kwargs, dtype, rng):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

    data = rng.normal(0, 10, (1, 7, 12, 9)).astype(dtype)
    shape = compute_new_shape(data.shape[1:], spacing, new_spacing)
    theirs = resample_data_or_seg_to_shape(data, shape, spacing, new_spacing, **kwargs)[0]
    ours = resample(data[0], shape, spacing, new_spacing, **kwargs)
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("spacing", [[2.0, 1.0, 1.0], [1.3, 0.8]])
def test_preprocessing_and_its_way_back_are_those_of_nnunet(spacing, use_mask, rng):
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    for labels in (LABELS, REGIONS):
        trained = trained_model(
            labels, spacing=spacing, patch_size=[8] * len(spacing), use_mask_for_norm=[use_mask] * 2
        )
        properties, image = {"spacing": (1.0, 4.0, 1.1)}, volume(rng)
        preprocessor = DefaultPreprocessor(verbose=False)
        theirs, _, properties = preprocessor.run_case_npy(
            image, None, properties, trained.plans, trained.configuration, trained.dataset_json
        )
        model = described(trained)
        ours = prepare(Image(image, properties["spacing"], {}), model)
        np.testing.assert_allclose(ours.data, theirs, rtol=0, atol=1e-5)

        logits = rng.normal(0, 1, (model.num_segmentation_heads, *theirs.shape[1:])).astype(np.float16)
        expected = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, trained.plans, trained.configuration, trained.labels, properties
        )
        segmentation = segment(logits, ours, model)
        assert set(np.unique(expected)) == {0, 1, 2} and segmentation.dtype == expected.dtype
        assert np.array_equal(segmentation, expected)


def test_an_empty_image_is_not_cropped():
    model = described(trained_model(spacing=[1.0, 1.0, 1.0]))
    prepared = prepare(Image(np.zeros((2, 5, 6, 7), np.float32), (1.0, 1.0, 1.0), {}), model)
    assert prepared.data.shape == (2, 6, 5, 7)  # transposed


WINDOWS = [((8, 12, 10), (0, 1, 2)), ((8, 12, 10), ()), ((12, 10), (0, 1)), ((5, 14), (1,))]


@pytest.mark.parametrize(("patch_size", "mirror_axes"), WINDOWS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_sliding_window_is_that_of_nnunet(patch_size, mirror_axes, in_memory, monkeypatch, rng):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if not in_memory:
        monkeypatch.setattr(sliding_window, "MOST_IN_MEMORY", 100)
    trained = trained_model(mirror_axes=mirror_axes, patch_size=list(patch_size))
    convolution = (torch.nn.Conv2d, torch.nn.Conv3d)[len(patch_size) - 2]
    networks = [convolution(2, 3, 3, padding="same").eval() for _ in range(3)]
    data = rng.normal(0, 3, (2, 9, 21, 7)).astype(np.float32)

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    weights = [network.state_dict() for network in networks]
    trainer_name, axes = trained.trainer_name, mirror_axes or None
    predictor.manual_initialization(
        networks[0],
        trained.plans,
        trained.configuration,
        [{**w} for w in weights],
        trained.dataset_json,
        trainer_name,
        axes,
    )
    functions, tiles = [as_function(convolution, w) for w in weights], []
    ours = predict_logits(functions, data, described(trained), lambda: tiles.append(1))
    theirs = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).numpy()
    assert isinstance(ours, np.memmap) is not in_memory
    assert ours.dtype == theirs.dtype == np.float16
    assert np.array_equal(ours, theirs)
    assert len(tiles) == 3 * number_of_tiles(data.shape[1:], described(trained))


def as_function(convolution, weights):
    network = convolution(2, 3, 3, padding="same")
    network.load_state_dict({name: tensor.clone() for name, tensor in weights.items()})

    def function(image):
        with torch.inference_mode():
            return network(torch.from_numpy(image)).numpy()

    return function


def test_logits_that_overflow_are_refused(rng):
    model = described(trained_model(patch_size=[12, 10]))
    with pytest.raises(UserError, match="logits exceed half precision"):
        predict_logits([lambda image: np.full((1, 3, 12, 10), 1e5, np.float32)], volume(rng), model, lambda: None)


@pytest.mark.parametrize("steps", [[], [[1, 2]], [[1]], [[1, 2], [2], [1]]])
def test_postprocessing_is_that_of_nnunet(steps, rng):
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    segmentation = np.kron(rng.integers(0, 3, (3, 12, 14)), np.ones((1, 2, 3))).astype(np.uint8)
    segmentation[:, ::5], segmentation[:, :, ::4] = 0, 0
    expected = segmentation
    for labels in steps:
        expected = remove_all_but_largest_component_from_segmentation(expected, labels)
    assert np.array_equal(keep_largest(segmentation, steps), expected)
    assert not steps or (expected != segmentation).sum() > 50


def test_image_of_which_nothing_is_left_at_the_models_spacing_is_refused():
    model = described(trained_model())
    thin = Image(np.ones((2, 1, 20, 20), np.float32), (0.3, 1.0, 1.0), {})
    with pytest.raises(UserError, match=r"not one voxel along an axis: correct the spacing in its file"):
        prepare(thin, model)


def test_logits_for_which_a_disk_has_no_room_are_refused(monkeypatch):
    def full(file, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sliding_window, "MOST_IN_MEMORY", 10)
    monkeypatch.setattr(sliding_window.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"has no room for .* GiB of logits \(No space left on device\): set TMPDIR"):
        sliding_window.zeros((2, 100, 100))
