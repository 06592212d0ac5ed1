"""Proves: regions are as important as section 3.4.1 says, by hand, and their importance survives a file."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cases_in_memory import Cases

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.data.region_importance import (
    Case,
    RegionImportance,
    case_grid,
    class_frequency,
    class_frequency_of_cases,
    count_labels,
    find_cases,
    shares_of,
)


def one_case(shape, grid):
    return {"a": Case(shape, grid, 0)}


# ---- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch_size", "grid"),
    [
        ((1, 512, 400), (1, 512, 400), (1, 8, 8)),
        ((20, 100, 15), (64, 64, 64), (1, 6, 1)),  # none shorter than 16 voxels
        ((10, 40, 30), (20, 40, 48), (1, 2, 1)),  # the patch shows all of the case
        ((700, 512, 512), (128, 128, 128), (11, 8, 8)),  # none longer than half a patch
        ((30, 512, 512), (20, 256, 256), (3, 8, 8)),  # nor than half a patch of less than 32 voxels
        ((30, 512, 512), (1, 256, 256), (30, 8, 8)),  # of one slice, where the patch has one
    ],
)
def test_regions_of_a_case(shape, patch_size, grid):
    assert case_grid(shape, patch_size) == grid


def test_regions_of_all_cases_follow_one_another():
    dataset = Cases({"b": np.zeros((1, 64, 32), int), "a": np.zeros((1, 40, 128), int)})
    assert find_cases(dataset, (64, 64)) == {
        "a": Case((1, 40, 128), (1, 2, 8), 0),
        "b": Case((1, 64, 32), (1, 4, 2), 16),
    }


@given(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), st.integers(0, 1000))
@settings(deadline=None)
def test_labels_of_regions_are_counted_voxel_by_voxel(shape, seed):
    rng = np.random.default_rng(seed)
    segmentation = rng.choice([-1, 0, 1, 5, 9], shape)
    grid = tuple(int(rng.integers(1, length + 1)) for length in shape)
    case = Case(shape, grid, 7)
    expected = np.zeros((np.prod(grid), 3), int)
    for voxel in product(*map(range, shape)):
        label = max(segmentation[voxel], 0)
        if label in (0, 1, 5):
            expected[case.region_of(np.array(voxel)) - 7, (0, 1, 5).index(label)] += 1
    assert np.array_equal(count_labels(segmentation, grid, (0, 1, 5)), expected)


def test_a_voxel_outside_the_case_is_in_no_region():
    case = Case((1, 32, 48), (1, 2, 3), 10)
    voxels = np.array([[0, 15, 15], [0, 16, 16], [0, 31, 47], [0, -1, 3], [0, 3, 48], [1, 0, 0]]).T
    assert case.region_of(voxels).tolist() == [10, 14, 15, -1, -1, -1]


def test_every_process_counts_its_share_of_the_cases():
    rng = np.random.default_rng(0)
    dataset = Cases({name: rng.integers(0, 3, (1, 40, 50)) for name in "abcde"})
    cases = find_cases(dataset, (32, 32))
    whole = class_frequency_of_cases(dataset, cases, (0, 1, 2))
    shares = [class_frequency_of_cases(dataset, cases, (0, 1, 2), rank, 2) for rank in range(2)]
    assert list(whole) == list("abcde")
    assert sorted([*shares[0], *shares[1]]) == list("abcde")
    for share in shares:
        assert all(np.array_equal(frequency, whole[name]) for name, frequency in share.items())
        assert len(share) in (2, 3)


# ---- importance ------------------------------------------------------------------------------------------------------

# 0 0 1 1
# 0 0 1 2    two of four regions show class 1 and two show class 2: 1 / p is 2 for both
# 0 0 0 1
# 0 0 2 0
LABELS = np.array([[0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 2, 0]])
COUNTS = np.array([[4, 0, 0], [0, 3, 1], [4, 0, 0], [2, 1, 1]])
FREQUENCY = [0, 4, 0, 4]
BY_CLASS = np.array([0, 1, 0, 1]) / 2


def by_hand():
    return RegionImportance(one_case((1, 4, 4), (1, 2, 2)), class_frequency(COUNTS))


def test_class_frequency_by_hand():
    assert np.array_equal(count_labels(LABELS[None], (1, 2, 2), (0, 1, 2)), COUNTS)
    assert class_frequency(COUNTS).tolist() == FREQUENCY
    rare = [[9, 3, 0, 0], [9, 3, 0, 0], [9, 3, 8, 0], [11, 0, 0, 1]]  # 4 / 3, 4 and 4 for the three classes
    assert class_frequency(np.array(rare)).tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3 + 4, 4])


def test_without_foreground_all_annotated_regions_are_alike():
    frequency = class_frequency(np.array([[4, 0], [0, 0], [2, 0], [1, 0]]))
    assert np.array_equal(frequency, [1, np.nan, 1, 1], equal_nan=True)


def test_before_the_first_epoch_importance_is_class_frequency_and_a_few_regions_at_random():
    at_random = 0.1 * 2 / 3 / 4
    assert by_hand().probabilities() == pytest.approx((1 - 4 * at_random) * BY_CLASS + at_random)


def test_importance_after_an_epoch_by_hand():
    importance = by_hand()
    # Region 1 was seen twice, regions 0 and 3 once. Region 2 counts as their mean.
    importance.update(np.array([1, 0, 1, 3]), np.array([0.2, 0.1, 0.4, 0.5]), np.array([0.6, 0.6, 0.2, 0.2]))
    boundary, entropy = np.array([0.1, 0.3, 0.3, 0.5]) / 1.2, np.array([0.6, 0.4, 0.4, 0.2]) / 1.6
    expected = BY_CLASS / 3 + 0.9 * (boundary / 3 + entropy / 3) + 0.1 * 2 / 3 / 4
    assert importance.probabilities() == pytest.approx(expected)
    importance.update(np.array([0]), np.array([0.3]), np.array([0.0]))  # moving averages: (0.1 + 0.3) / 2, 0.6 / 2
    assert importance.boundary[[0, 1, 3]].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert importance.entropy[[0, 1, 3]].tolist() == pytest.approx([0.3, 0.4, 0.2])
    assert np.isnan(importance.boundary[2])


def test_a_factor_that_is_the_same_everywhere_leaves_its_weight_to_class_frequency():
    importance = by_hand()
    importance.update(np.arange(4), np.array([0.1, 0.2, 0.3, 0.4]), np.full(4, 0.6))
    expected = BY_CLASS / 3 + 0.9 * (np.array([0.1, 0.2, 0.3, 0.4]) / 3 + BY_CLASS / 3) + 0.1 * 2 / 3 / 4
    assert importance.probabilities() == pytest.approx(expected)


def test_cases_do_not_compete():
    """A region's probability does not depend on other cases, however uncertain those are."""
    cases = one_case((1, 4, 4), (1, 2, 2)) | {"b": Case((1, 4, 4), (1, 2, 2), 4)}
    both, alone = RegionImportance(cases, class_frequency(COUNTS).repeat(2).reshape(4, 2).T.ravel()), by_hand()
    of_first, of_second = np.array([0.1, 0.2, 0.3, 0.4]), np.array([90.0, 80, 10, 0])
    both.update(np.arange(8), np.append(of_first, of_second), np.append(of_first, of_second))
    alone.update(np.arange(4), of_first, of_first)
    assert np.array_equal(both.probabilities()[:4], alone.probabilities())


def test_regions_without_annotation_are_not_drawn():
    frequency = class_frequency(np.array([[4, 0], [0, 0], [2, 2], [0, 0]]))
    importance = RegionImportance(one_case((1, 4, 4), (1, 2, 2)), frequency)
    assert importance.probabilities().tolist() == pytest.approx([0.1 / 3, 0, 1 - 0.1 / 3, 0])
    # what is seen of them does not count either
    importance.update(np.arange(4), np.full(4, 0.2), np.array([0.3, 0.0, 0.1, 9.0]))
    expected = [0.9 * 0.75 / 3 + 0.1 / 3, 0, 1 / 3 + 0.9 * (1 + 0.25) / 3 + 0.1 / 3, 0]
    assert importance.probabilities().tolist() == pytest.approx(expected)


def test_an_infinite_value_counts_as_unknown():
    factor, everywhere = np.array([0.1, np.inf, 0.3, np.nan]), np.full(4, True)
    shares = np.array([0.1, 0.2, 0.3, 0.2]) / 0.8
    assert shares_of(factor, everywhere, BY_CLASS) == pytest.approx(shares)


def test_a_negative_entropy_of_rounding_counts_as_0():
    everywhere = np.full(4, True)
    assert shares_of(np.array([0.1, -1e-8, 0.3, 0.0]), everywhere, BY_CLASS) == pytest.approx([0.25, 0, 0.75, 0])
    assert shares_of(np.array([-1e-8, 0, -1e-9, 0.0]), everywhere, BY_CLASS) is BY_CLASS


def test_probabilities_of_every_case_sum_to_1_even_if_nothing_is_annotated():
    cases = {
        "a": Case((1, 32, 32), (1, 2, 2), 0),
        "b": Case((1, 32, 32), (1, 2, 2), 4),
        "c": Case((1, 9, 9), (1, 1, 1), 8),
    }
    counts = (np.zeros((4, 2), int), np.full((4, 2), 3), np.array([[0, 7]]))
    probabilities = RegionImportance(cases, np.concatenate([class_frequency(x) for x in counts])).probabilities()
    assert [probabilities[case.regions].sum() for case in cases.values()] == pytest.approx([1, 1, 1])
    assert probabilities[:8].tolist() == pytest.approx([0.25] * 8)


def test_importance_survives_a_file(tmp_path):
    importance, path = by_hand(), tmp_path / "checkpoint_latest_regions.npz"
    importance.update(np.array([1, 3]), np.array([0.2, 0.1]), np.array([0.6, 0.7]))
    importance.save(path, epoch=12)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded, epoch = RegionImportance.load(path, importance.cases)
    assert epoch == 12
    assert np.array_equal(loaded.probabilities(), importance.probabilities())
    with pytest.raises(UserError, match=r"checkpoint_latest_regions.npz is of other training cases"):
        RegionImportance.load(path, {"b": Case((1, 4, 4), (1, 2, 2), 0)})
    with pytest.raises(UserError, match="another preprocessing"):
        RegionImportance.load(path, one_case((1, 4, 4), (1, 2, 1)))


@pytest.mark.parametrize(("version", "named"), [(None, "nnunet_plugins 0.2.0"), (3, "a later version")])
def test_a_file_of_another_version_is_refused_with_the_version_named(tmp_path, version, named):
    importance, path = by_hand(), tmp_path / "checkpoint_latest_regions.npz"
    importance.save(path, epoch=12)
    with np.load(path) as saved:
        content = {name: value for name, value in saved.items() if name != "format"}
    np.savez_compressed(path, **content, **({} if version is None else {"format": version}))
    with pytest.raises(UserError, match=rf"checkpoint_latest_regions.npz was written by .*{named}.*move the file away"):
        RegionImportance.load(path, importance.cases)
