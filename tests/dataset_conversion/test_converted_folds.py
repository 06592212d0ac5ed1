"""Proves: folds divide no group, and the published splits are those of the papers."""

import importlib
from collections import Counter

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split
from support.conversions import (
    NAMES,
    group_of,
    read,
)
from support.miniatures import PNG

GROUPED = ["monuseg", "glas", "acdc", "chase_db1", "brain_tumor", "kidney_stone"]
UNGROUPED = [name for name in NAMES if name not in GROUPED]
LISTED_SPLIT = ["isic2016", "isic2017", "monuseg", "glas", "synapse", "acdc", "chase_db1", "lits17"]
DRAWN_SPLIT = ["kvasir_small", "brain_tumor", "kidney_stone"]
NO_SPLIT = [name for name in NAMES if name not in LISTED_SPLIT + DRAWN_SPLIT]

for_all = pytest.mark.parametrize("name", NAMES)


# ---- folds -----------------------------------------------------------------------------------------------------------


@for_all
def test_every_training_case_is_validated_once(name, converted):
    conversion = converted(name)
    assert len(conversion.folds) == 5
    assert sorted(case for fold in conversion.folds for case in fold["val"]) == conversion.miniature.identifiers()
    for fold in conversion.folds:
        assert fold["val"]
        assert sorted(fold["train"] + fold["val"]) == conversion.miniature.identifiers()
    assert conversion.splits.read_bytes() == (conversion.dataset / "splits_final.json").read_bytes()


@pytest.mark.parametrize("name", GROUPED)
def test_folds_never_divide_a_group(name, converted):
    miniature = converted(name).miniature
    sizes = Counter(group_of(miniature, case) for case in miniature.identifiers())
    assert max(sizes.values()) > 1
    for fold in converted(name).folds:
        train, val = ({group_of(miniature, case) for case in fold[part]} for part in ("train", "val"))
        assert train.isdisjoint(val)


@for_all
def test_groups_on_both_sides_of_a_published_split_are_told(name, miniature, convert, capsys):
    """In GlaS's miniature, the patients 2 and 5 are in training and test set."""
    convert(miniature(name), "--dry-run")
    told = "2 groups, such as patient2, are on both sides of the published split" in capsys.readouterr().out
    assert told == (name == "glas")


@pytest.mark.parametrize("name", UNGROUPED)
def test_without_groups_the_folds_are_nnunets_own(name, converted):
    expected = generate_crossval_split(converted(name).miniature.identifiers(), seed=12345, n_splits=5)
    assert converted(name).folds == [{part: list(map(str, cases)) for part, cases in fold.items()} for fold in expected]


def test_table_of_groups_replaces_the_published_groups(miniature, convert, tmp_path):
    cases = sorted(miniature("isic2018").samples)
    groups = {case: f"clinic{index % 4}" for index, case in enumerate(cases)}
    table = tmp_path / "groups.csv"
    table.write_text("image,clinic\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    conversion = convert(miniature("isic2018"), "--groups", table)
    assert len(conversion.folds) == 4
    for fold in conversion.folds:
        assert len({groups[case] for case in fold["val"]}) == 1
        assert {groups[case] for case in fold["val"]}.isdisjoint(groups[case] for case in fold["train"])
    assert {row["case"]: row["group"] for row in conversion.report} == groups


# ---- published splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTED_SPLIT)
def test_paper_split_is_the_listed_one(name, miniature, convert):
    conversion = convert(miniature(name), "--paper-split")
    train, val, test = (miniature(name).of_paper(part) for part in ("train", "val", "test"))
    if not val:
        val, test = test, []
    assert train and val
    assert conversion.folds == [{"train": train, "val": val}]
    assert {path.name for path in conversion.dataset.glob("labelsTr/*")} == {
        conversion.label(case).name for case in train + val
    }
    assert {path.name for path in conversion.dataset.glob("labelsTs/*")} == {
        conversion.label(case).name for case in test
    }
    assert conversion.description["numTraining"] == len(train + val)
    for case in train + val:
        np.testing.assert_array_equal(read(conversion.label(case)), miniature(name).samples[case].label)


@pytest.mark.parametrize(
    ("name", "numbers", "expected"),
    [
        ("synapse", [f"{n:04}" for n in (*range(1, 11), *range(21, 41))], {"train": 18, "test": 12}),
        ("acdc", [f"{n:03}/{n:03}/01" for n in range(1, 101)], {"train": 70, "val": 10, "test": 20}),
        ("chase_db1", [f"{n:02}" for n in range(1, 15)], {"train": 10, "test": 4}),
        ("lits17", [str(n) for n in range(131)], {"train": 101, "test": 30}),
    ],
)
def test_published_split_of_all_cases_has_the_published_sizes(name, numbers, expected):
    module = importlib.import_module(f"nnunet_plugins.dataset_conversion.datasets.{name}")
    assert Counter(map(module.part, numbers)) == expected


@pytest.mark.parametrize("name", DRAWN_SPLIT)
def test_paper_split_is_drawn_by_group(name, miniature, convert):
    conversion = convert(miniature(name), "--paper-split")
    cases = miniature(name).identifiers()
    sizes = Counter(group_of(miniature(name), case) for case in cases)
    (fold,) = conversion.folds
    parts = {**fold, "test": sorted(path.name.removesuffix(PNG) for path in conversion.dataset.glob("labelsTs/*"))}
    assert sorted(case for part in parts.values() for case in part) == cases
    groups = [{group_of(miniature(name), case) for case in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(sizes)
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert parts[part]
        assert abs(len(parts[part]) - share * len(cases)) <= max(sizes.values()) / 2
    if max(sizes.values()) == 1:
        assert [len(parts[part]) for part in ("train", "val", "test")] == [7, 1, 2]


@pytest.mark.parametrize("name", NO_SPLIT)
def test_paper_split_is_refused_where_none_is_published(name, miniature, refusal, tmp_path):
    assert refusal(miniature(name), "--paper-split").startswith(f"{name} has no published split")
    assert not list(tmp_path.glob("nnUNet_*/*"))
