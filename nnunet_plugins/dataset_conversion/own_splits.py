"""Folds and test set of the user's own: nnU-Net's ``splits_final.json``, or a table of images and their parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.tables import Names, look_up, read_table
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json
from nnunet_plugins.nnunet_folders import Split
from nnunet_plugins.wording import counted, enumeration

PARTS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test", "testing": "test"}


class OwnSplits(NamedTuple):
    """The user's division of the cases, by their names."""

    folds: list[Split]
    """Empty: the training set is to be divided into folds as always."""
    test: set[str]


def read_own_splits(path: Path, cases: Sequence[Case], source: Source) -> OwnSplits:
    """Read the user's folds, and note a problem of the source for images that they do not mention.

    Raises:
        UserError: the file is neither form, or an image is on both sides.
    """
    splits = read_folds(path, cases, source) if path.suffix.lower() == ".json" else read_parts(path, cases, source)
    test = {case.name for case in cases if case.test} - splits.test
    for index, fold in enumerate(splits.folds):
        if wrong := test & {*fold["train"], *fold["val"]}:
            raise UserError(
                f"{path} has {min(wrong)!r} in fold {index}, but --test-images finds it: a test image is in no fold"
            )
        if both := set(fold["train"]) & set(fold["val"]):
            raise UserError(f"{path} has {min(both)!r} in training and validation of fold {index}: leave it in one")
        if not (fold["train"] and fold["val"]) and not source.problems:
            raise UserError(f"{path} has an empty training or validation set in fold {index}: name images for both")
    return splits


def read_parts(path: Path, cases: Sequence[Case], source: Source) -> OwnSplits:
    """Read a table of images and their parts, which are one fold and a test set."""
    parts = look_up(read_table(path, "part"), cases, source, path, "part")
    if strange := sorted({part for part in parts.values() if part.lower() not in PARTS}):
        raise UserError(f"{path} has the part {strange[0]!r}: write train, val or test")
    names = {part: [name for name, own in parts.items() if PARTS[own.lower()] == part] for part in PARTS.values()}
    folds = [{"train": sorted(names["train"]), "val": sorted(names["val"])}] if names["val"] else []
    return OwnSplits(folds, set(names["test"]))


def read_folds(path: Path, cases: Sequence[Case], source: Source) -> OwnSplits:
    """Read folds in nnU-Net's form; images that are in none of them are left out of training and validation."""
    form = 'give nnU-Net\'s form, [{"train": ["a", "b"], "val": ["c"]}, ...], or a table with train, val or test'
    content = read_json(path, form)
    if not isinstance(content, list) or not all(is_fold(fold) for fold in content) or not content:
        raise UserError(f"{path} has no folds: {form}")
    names = Names(cases, source.path)
    unknown = sorted({name for fold in content for part in fold.values() for name in part if not names.find(name)})
    if unknown:
        source.problem(f"{path} names {counted(len(unknown), 'image')} that are not there: {enumeration(unknown[:3])}")
    folds = [
        {part: sorted(case for name in fold[part] if (case := names.find(name))) for part in ("train", "val")}
        for fold in content
    ]
    used = {name for fold in folds for part in fold.values() for name in part}
    if unused := [case.name for case in cases if not case.test and case.name not in used]:
        source.note(f"{counted(len(unused), 'case')} in no fold of {path}: {enumeration(unused[:3])}")
    return OwnSplits(folds, set())


def is_fold(fold: object) -> bool:
    return (
        isinstance(fold, dict)
        and fold.keys() == {"train", "val"}
        and all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in fold.values())
    )
