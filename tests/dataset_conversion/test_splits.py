"""Proves: folds and drawn parts never divide a group, are always the same, and have the sizes that they should."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_plugins.dataset_conversion.splits import assert_disjoint, cross_validation, draw_parts

sizes_of_groups = st.lists(st.integers(1, 9), min_size=1, max_size=25)
ratios = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))


def groups_of(sizes: list[int]) -> dict[str, str]:
    """Groups of these sizes, whose members are not neighbours in the alphabet."""
    return {f"case{(7919 * i) % 1009:04}_{i}_{j}": f"group{i}" for i, size in enumerate(sizes) for j in range(size)}


def shuffled(groups: dict[str, str], random) -> dict[str, str]:
    items = list(groups.items())
    random.shuffle(items)
    return dict(items)


# ---- cross-validation ------------------------------------------------------------------------------------------------


@given(sizes_of_groups, st.randoms())
def test_folds_are_a_partition_that_divides_no_group(sizes, random):
    groups = groups_of(sizes)
    folds = cross_validation(shuffled(groups, random))
    assert len(folds) == (min(5, len(sizes)) if len(sizes) > 1 else 0)
    for fold in folds:
        assert fold.keys() == {"train", "val"}
        assert sorted(fold["train"] + fold["val"]) == sorted(groups)
        assert fold["train"] == sorted(fold["train"]) and fold["val"] == sorted(fold["val"])
        assert fold["train"] and fold["val"]
        assert not {groups[case] for case in fold["train"]} & {groups[case] for case in fold["val"]}
    validated = [case for fold in folds for case in fold["val"]]
    assert sorted(validated) == (sorted(groups) if folds else [])


@given(sizes_of_groups, st.randoms())
def test_folds_do_not_depend_on_order_or_chance(sizes, random):
    groups = groups_of(sizes)
    assert cross_validation(groups) == cross_validation(shuffled(groups, random)) == cross_validation(groups)


@given(st.integers(2, 60), st.randoms())
def test_folds_without_groups_are_those_that_nnunet_draws(number, random):
    names = [f"case{i}" for i in range(number)]
    folds = cross_validation(shuffled({name: f"group of {name}" for name in names}, random))
    expected = generate_crossval_split(sorted(names), 12345, min(5, number))
    assert [{part: sorted(fold[part]) for part in fold} for fold in expected] == folds


@given(st.lists(st.integers(1, 9), min_size=5, max_size=25))
def test_folds_differ_by_no_more_than_the_largest_group(sizes):
    if max(sizes) == 1:
        sizes = [2, *sizes]
    lengths = [len(fold["val"]) for fold in cross_validation(groups_of(sizes))]
    assert max(lengths) - min(lengths) <= max(sizes)


def test_one_group_has_no_folds():
    assert cross_validation({"a": "x", "b": "x"}) == cross_validation({"a": "a"}) == cross_validation({}) == []


def test_folds_that_divide_a_group_are_an_error():
    with pytest.raises(AssertionError, match=r"both sides: \['x'\]"):
        assert_disjoint([{"train": ["a"], "val": ["b"]}], {"a": "x", "b": "x"})


# ---- drawn parts -----------------------------------------------------------------------------------------------------


@given(sizes_of_groups, ratios, st.randoms())
def test_drawn_parts_divide_no_group_and_do_not_depend_on_order(sizes, ratio, random):
    groups = groups_of(sizes)
    parts = draw_parts(groups, ratio)
    assert parts.keys() == groups.keys()
    assert set(parts.values()) <= {"train", "val", "test"}
    assert all(len({parts[case] for case in groups if groups[case] == name}) == 1 for name in groups.values())
    assert draw_parts(shuffled(groups, random), ratio) == parts


@given(sizes_of_groups, ratios)
def test_drawn_parts_are_within_one_group_of_the_ratio(sizes, ratio):
    groups = groups_of(sizes)
    counts = collections.Counter(draw_parts(groups, ratio).values())
    for part, share in zip(("train", "val", "test"), ratio, strict=True):
        assert abs(counts[part] - share / sum(ratio) * len(groups)) <= max(sizes) + 1


@given(st.integers(1, 60), ratios)
def test_drawn_parts_of_single_cases_are_the_ratio_rounded(number, ratio):
    counts = collections.Counter(draw_parts({f"case{i:03}": f"case{i:03}" for i in range(number)}, ratio).values())
    for part, share in zip(("train", "val", "test"), ratio, strict=True):
        assert abs(counts[part] - share / sum(ratio) * number) < 1


def test_drawn_parts_are_always_the_same_ones_and_not_the_first_ones():
    parts = draw_parts({f"{i:02}": f"{i:02}" for i in range(20)}, (7, 1, 2))
    assert {part: sorted(case for case in parts if parts[case] == part) for part in ("test", "val")} == {
        "test": ["01", "03", "13", "14"],
        "val": ["02", "19"],
    }
