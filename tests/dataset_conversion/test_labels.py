"""Proves: values of masks become labels one by one, as in a plain loop, or are refused with their shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nnunet_plugins.dataset_conversion.dataset import Dataset
from nnunet_plugins.dataset_conversion.label_maps import parse_label_map
from nnunet_plugins.dataset_conversion.labels import Binary, LabelMap, Threshold, histogram, instances, look_up
from nnunet_plugins.dataset_conversion.masks import to_labels
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import enumeration

TYPES = [np.uint8, np.uint16, ">u2", np.int16, np.int32, np.int64, np.float32, np.float64, np.bool_]
VALUES = {
    np.uint8: st.integers(0, 255),
    np.uint16: st.integers(0, 65535),
    ">u2": st.integers(0, 65535),
    np.int16: st.integers(-32768, 32767),
    np.int32: st.integers(-(2**31) + 1, 2**31 - 1),
    np.int64: st.integers(-(2**40), 2**40),
    np.float32: st.integers(-(2**20), 2**20),
    np.float64: st.integers(-(2**20), 2**20),
    np.bool_: st.integers(0, 1),
}


@st.composite
def masks(draw) -> tuple[np.ndarray, list[int]]:
    """A mask ``(H, W)`` or ``(D, H, W)`` of a few values, and a list of the values."""
    dtype = draw(st.sampled_from(TYPES))
    values = draw(st.lists(VALUES[dtype], min_size=1, max_size=2 if dtype is np.bool_ else 12, unique=True))
    shape = draw(array_shapes(min_dims=2, max_dims=3, max_side=9))
    return draw(arrays(np.int64, shape, elements=st.sampled_from(values))).astype(dtype), values


def loop(mask: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    out = np.empty(mask.shape, np.uint8)
    for index in np.ndindex(mask.shape):
        out[index] = labels[int(mask[index])]
    return out


@given(masks(), st.randoms())
def test_label_map_is_the_same_as_a_plain_loop(drawn, random):
    mask, values = drawn
    order = list(range(len(values)))
    random.shuffle(order)
    labels = dict(zip(values, order, strict=True))
    result = LabelMap(labels)(mask)
    assert result.dtype == np.uint8
    assert np.array_equal(result, loop(mask, labels))


@given(masks())
def test_dropped_values_become_background(drawn):
    mask, values = drawn
    kept, dropped = values[: len(values) // 2 + 1], values[len(values) // 2 + 1 :]
    labels = {value: index for index, value in enumerate(kept)}
    result = LabelMap(labels, dropped=frozenset(dropped))(mask)
    assert np.array_equal(result, loop(mask, labels | dict.fromkeys(dropped, 0)))


@given(masks(), st.data())
def test_value_that_is_not_in_the_map_is_refused(drawn, data):
    mask, values = drawn
    missing = data.draw(st.sampled_from(sorted({int(value) for value in mask.ravel()})))
    known = [value for value in values if value != missing] or [missing + 1]
    with pytest.raises(UserError, match=r"has the values .* but only .*expected: mend it"):
        LabelMap({value: index for index, value in enumerate(known)}, remedy="mend it")(mask)


@given(masks())
def test_fractions_are_never_rounded_to_labels(drawn):
    mask, values = drawn
    mask = mask.astype(np.float64)
    mask.flat[-1] += 0.5
    with pytest.raises(UserError, match="expected"):
        LabelMap({value: index for index, value in enumerate(values)})(mask)


@given(masks())
def test_histogram_is_that_of_unique(drawn):
    mask, _ = drawn
    values, counts = histogram(mask)
    expected_values, expected_counts = np.unique(mask, return_counts=True)
    assert values.tolist() == expected_values.astype(values.dtype).tolist()
    assert counts.tolist() == expected_counts.tolist()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_histogram_of_nothing_is_empty(dtype, shape):
    values, counts = histogram(np.zeros(shape, dtype))
    assert len(values) == len(counts) == 0
    assert LabelMap({0: 0})(np.zeros(shape, dtype)).shape == shape


@given(masks())
def test_look_up_replaces_each_value(drawn):
    mask, _ = drawn
    values = np.unique(mask)
    labels = np.random.default_rng(0).integers(0, 256, len(values))
    expected = loop(mask, dict(zip(values.astype(np.int64).tolist(), labels.tolist(), strict=True)))
    assert np.array_equal(look_up(mask, values.astype(np.int64), labels.tolist()), expected)


@given(masks())
def test_masks_of_other_types_are_the_same_to_a_converter(drawn):
    """The shared writer narrows whole floats and wide integers."""
    mask, values = drawn
    labels = {value: index for index, value in enumerate(values)}
    dataset = dataset_with(LabelMap(labels))
    for same in (mask, mask.astype(np.float64), mask.astype(np.int64)):
        assert np.array_equal(to_labels(dataset, Picture(same), "mask.png"), loop(mask, labels))


@given(masks())
def test_instances_are_all_that_is_not_0(drawn):
    mask, _ = drawn
    assert np.array_equal(instances(mask), loop(mask, {int(v): int(v != 0) for v in np.unique(mask)}))


@pytest.mark.parametrize("labels", [{0: 0, 1: 2}, {0: 0, 1: 1, 2: 1}, {0: 1}, {0: 0, 1: -1}])
def test_label_map_that_is_no_bijection_is_refused(labels):
    with pytest.raises(ValueError, match="bijection"):
        LabelMap(labels)


def dataset_with(rule) -> Dataset:
    from dataclasses import replace

    from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

    return replace(CONVERTERS["isic2018"], to_labels=rule)


# ---- two classes -----------------------------------------------------------------------------------------------------


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.sampled_from([0, 1])))
def test_binary_masks_of_255_and_of_1_are_the_same(mask):
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        for value in (1, 255):
            result = Binary()(mask.astype(dtype) * value)
            assert result.dtype == np.uint8 and np.array_equal(result, mask)


@pytest.mark.parametrize("values", [(0, 1, 255), (1, 255), (0, 2), (0, 254), (0, 255, 256), (-1, 0), (0, 0.5)])
def test_other_values_are_no_binary_mask(values):
    with pytest.raises(UserError, match=r"0 and 255, or 0 and 1: mend it"):
        Binary("mend it")(np.array([values]))


@given(arrays(np.uint8, (8, 8)), st.integers(0, 255))
def test_threshold_is_strict(mask, threshold):
    assert np.array_equal(Threshold(threshold, max_grey=1)(mask), (mask.astype(int) > threshold).astype(np.uint8))


@pytest.mark.parametrize("value, is_grey", [(0, 0), (63, 0), (64, 1), (127, 1), (191, 1), (192, 0), (255, 0)])
def test_grey_is_what_lies_in_the_middle_half(value, is_grey):
    mask = np.zeros((10, 10), np.uint8)
    mask[0, :6] = value  # 6 %
    mask[1, :2] = 255 if value == 63 else 0
    if is_grey:
        with pytest.raises(UserError, match=r"even a JPEG, .* \(6% are not\): mend it"):
            Threshold(remedy="mend it")(mask)
    else:
        assert Threshold()(mask).sum() == 6 * (value > 127) + 2 * (value == 63)


@pytest.mark.parametrize("value", [1, 63])
def test_dark_mask_loses_its_foreground_to_a_given_threshold_alone(value):
    mask = np.zeros((10, 10), np.uint8)
    mask[:6] = value
    with pytest.raises(UserError, match=r"is black or has pixels close to 255: mend it"):
        Threshold(remedy="mend it")(mask)
    assert not Threshold(127, max_grey=1)(mask).any()
    assert not Threshold()(np.full((4, 4), 16, np.uint8)).any()  # black in a video's range
    assert not Threshold()(np.zeros((0, 4), np.uint8)).any()


def test_a_twentieth_of_grey_is_tolerated():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, :5] = 128
    assert Threshold()(mask).sum() == 5


# ---- sentences and options -------------------------------------------------------------------------------------------


def test_most_frequent_values_are_shown_in_order_and_the_others_counted():
    mask = np.repeat(np.arange(20), np.arange(20) + 1)[None]
    with pytest.raises(UserError) as error:
        LabelMap({0: 0})(mask)
    assert str(error.value) == (
        "has the values 12 (6.19%), 13 (6.67%), 14 (7.14%), 15 (7.62%), 16 (8.10%), 17 (8.57%), 18 (9.05%), "
        "19 (9.52%) and 12 rarer ones, but only 0 are expected: replace the file by the published one"
    )


def test_enumerations_read_as_sentences():
    assert [enumeration(range(n)) for n in (1, 2, 3)] == ["0", "0 and 1", "0, 1 and 2"]


@given(
    st.dictionaries(st.integers(-300, 70000), st.text("abcd", min_size=1), min_size=1, max_size=9).filter(
        lambda names: len(set(names.values())) == len(names)
    ),
    st.booleans(),
    st.randoms(),
)
def test_options_become_labels_in_their_order_with_background_first_and_ignore_last(names, ignore, random):
    entries = [f"{value}={name}" for value, name in names.items()]
    special = {70001: "background"} | ({70002: "ignore"} if ignore else {})
    for value, name in special.items():
        entries.insert(random.randint(0, len(entries)), f"{value}={name}")
    labels, rule = parse_label_map(entries)
    assert labels == {"background": 0} | {name: i for i, name in enumerate(names.values(), 1)} | (
        {"ignore": len(names) + 1} if ignore else {}
    )
    for value, name in (names | special).items():
        assert rule(np.array([[value]])) == labels[name]
