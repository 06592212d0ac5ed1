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
    count_labels,
    count_labels_of_cases,
    find_cases,
)


def one_case(shape, grid):
    return {"a": Case(shape, grid, 0)}


# ---- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch_size", "grid"),
    [
        ((1, 512, 400), (1, 512, 400), (1, 8, 8)),
        ((20, 100, 15), (64, 64, 64), (1, 6, 1)),  # none shorter than 16 voxels
        ((700, 512, 512), (128, 128, 128), (11, 8, 8)),  # none longer than half a patch
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
    whole = count_labels_of_cases(dataset, cases, (0, 1, 2))
    shares = [count_labels_of_cases(dataset, cases, (0, 1, 2), rank, 2) for rank in range(2)]
    assert list(whole) == list("abcde")
    assert sorted([*shares[0], *shares[1]]) == list("abcde")
    for share in shares:
        assert all(np.array_equal(count, whole[name]) for name, count in share.items())
        assert len(share) in (2, 3)


# ---- importance ------------------------------------------------------------------------------------------------------

# 0 0 1 1    11 voxels are of class 0, 5 of class 1: 1 / p = 16 / 11 and 16 / 5
# 0 0 1 1
# 0 0 0 1
# 0 0 0 0
COUNTS = np.array([[4, 0], [0, 4], [4, 0], [3, 1]])
FREQUENCY = [16 / 11, 16 / 5, 16 / 11, 16 / 11 + 16 / 5]
SCALED_FREQUENCY = [0, (1 / 5 - 1 / 11) * 5, 0, 1]


def by_hand():
    return RegionImportance(one_case((1, 4, 4), (1, 2, 2)), class_frequency(COUNTS))


def test_class_frequency_by_hand():
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert np.array_equal(count_labels(labels[None], (1, 2, 2), (0, 1)), COUNTS)
    assert class_frequency(COUNTS).tolist() == pytest.approx(FREQUENCY)


def test_before_the_first_epoch_importance_is_class_frequency_alone():
    importance = by_hand()
    assert importance.importance().tolist() == pytest.approx([f / 3 for f in SCALED_FREQUENCY])
    total = sum(SCALED_FREQUENCY)
    expected = [0.9 * f / total + 0.1 / 4 for f in SCALED_FREQUENCY]
    assert importance.probabilities().tolist() == pytest.approx(expected)


def test_importance_after_an_epoch_by_hand():
    importance = by_hand()
    # Region 1 was seen twice, regions 0 and 3 once. Region 2 counts as their mean.
    importance.update(np.array([1, 0, 1, 3]), np.array([0.2, 0.1, 0.4, 0.5]), np.array([0.6, 0.6, 0.2, 0.2]))
    boundary, entropy = [0.1, 0.3, 0.3, 0.5], [0.6, 0.4, 0.4, 0.2]
    scaled_boundary, scaled_entropy = ([(v - min(x)) / (max(x) - min(x)) for v in x] for x in (boundary, entropy))
    expected = [sum(x) / 3 for x in zip(SCALED_FREQUENCY, scaled_boundary, scaled_entropy, strict=True)]
    assert importance.importance().tolist() == pytest.approx(expected)
    importance.update(np.array([0]), np.array([0.3]), np.array([0.0]))  # moving averages: (0.1 + 0.3) / 2, 0.6 / 2
    assert importance.boundary[[0, 1, 3]].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert importance.entropy[[0, 1, 3]].tolist() == pytest.approx([0.3, 0.4, 0.2])
    assert np.isnan(importance.boundary[2])


def test_regions_without_annotation_are_not_drawn():
    frequency = class_frequency(np.array([[4, 0], [0, 0], [2, 2], [0, 0]]))  # 8 / 6, 0, 8 / 6 + 8 / 2, 0
    importance = RegionImportance(one_case((1, 4, 4), (1, 2, 2)), frequency)
    assert importance.probabilities().tolist() == pytest.approx([0.05, 0, 0.95, 0])
    # what is seen of them does not count either: scaled entropies are 0 and 1
    importance.update(np.arange(4), np.full(4, 0.2), np.array([0.3, 0.0, 0.2, 9.0]))
    assert importance.importance().tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0])


def test_an_infinite_value_counts_as_unknown():
    importance = by_hand()
    importance.update(np.arange(4), np.array([0.1, np.inf, 0.3, np.nan]), np.zeros(4))
    assert importance.scaled(importance.boundary).tolist() == pytest.approx([0, 0.5, 1, 0.5])


def test_probabilities_of_every_case_sum_to_1_even_if_nothing_is_annotated():
    cases = {
        "a": Case((1, 32, 32), (1, 2, 2), 0),
        "b": Case((1, 32, 32), (1, 2, 2), 4),
        "c": Case((1, 9, 9), (1, 1, 1), 8),
    }
    counts = np.concatenate((np.zeros((4, 2), int), np.full((4, 2), 3), [[0, 7]]))
    probabilities = RegionImportance(cases, class_frequency(counts)).probabilities()
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
