"""Training set, test set and folds: no group, such as a patient, lies on both sides."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_plugins.dataset_conversion.cases import Outcome, identifier
from nnunet_plugins.dataset_conversion.dataset import Case, Dataset, Options
from nnunet_plugins.dataset_conversion.near_duplicates import near_duplicate_groups
from nnunet_plugins.dataset_conversion.own_splits import read_own_splits
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import Split

NUM_FOLDS = 5
SEED = 12345  # nnU-Net's own
PARTS = "train", "val", "test"


def assign(
    dataset: Dataset, source: Source, options: Options, cases: Sequence[Case], outcomes: Sequence[Outcome]
) -> list[Split]:
    """Give each row of the report its group and part, and return the folds.

    With the published split there is one fold. Its validation set is the published one, or the published test set if
    no validation set is published; a test set besides goes to ``imagesTs``.

    Raises:
        UserError: no case is left, or one of the sets would be empty.
    """
    kept = [outcome for outcome in outcomes if not outcome.left_out]
    refuse_without_foreground(dataset, kept)
    groups = groups_of(dataset, kept)
    parts = parts_of(dataset, options, cases, outcomes, groups)
    validation = "test" if options.paper_split and not dataset.paper_validation else "val"
    for outcome in kept:
        row = outcome.row
        row.group = groups[row.case]
        row.part = "Tr" if parts[row.case] in ("train", validation) else "Ts"
    if "train" not in parts.values():
        raise UserError(f"{dataset.name} has a test set here, but no training case: complete the download")
    if options.paper_split:
        return [published_fold(dataset, parts, validation)]
    if options.splits and (folds := read_own_splits(options.splits, cases, source).folds):
        return [kept_of_fold(options.splits, index, fold, parts) for index, fold in enumerate(folds)]
    return cross_validation({name: groups[name] for name, part in parts.items() if part == "train"})


def kept_of_fold(splits: Path, index: int, fold: Split, kept: Collection[str]) -> Split:
    """The cases of a fold of the user's that are not left out, by nnU-Net's names.

    Raises:
        UserError: none is left to train, or to validate.
    """
    found: Split = {part: [name for name in map(identifier, fold[part]) if name in kept] for part in ("train", "val")}
    if not (found["train"] and found["val"]):
        raise UserError(
            f"{splits} has a training or validation set in fold {index} of images with too much foreground alone: "
            "name others, or give a higher --max-foreground-fraction"
        )
    return found


def refuse_without_foreground(dataset: Dataset, kept: Sequence[Outcome]) -> None:
    if not kept:
        raise UserError(
            f"No case of {dataset.name} has a foreground below {dataset.max_foreground_fraction:.4%}: give a higher "
            "--max-foreground-fraction"
        )
    if not any(outcome.has_foreground for outcome in kept):
        suspects = "--threshold, --label-map or the download" if dataset.size is None else "--resize, or the masks"
        raise UserError(f"No mask of {dataset.name} has any foreground: check {suspects}")


def groups_of(dataset: Dataset, kept: Sequence[Outcome]) -> dict[str, str]:
    """Group of each case: near-duplicates, the published group, or the case alone."""
    groups = {outcome.row.case: outcome.row.group or outcome.row.case for outcome in kept}
    if dataset.near_duplicates:
        thumbnails = {outcome.row.case: outcome.thumbnail for outcome in kept if outcome.thumbnail is not None}
        alike: dict[int, list[str]] = {}
        for name, number in near_duplicate_groups(thumbnails).items():
            alike.setdefault(number, []).append(name)
        for number, names in alike.items():
            united = {groups[name] for name in names}
            declared = united.difference(names)
            new = min(declared, default=f"alike{number}")
            groups = {name: new if group in united else group for name, group in groups.items()}
    return groups


def parts_of(
    dataset: Dataset,
    options: Options,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    groups: Mapping[str, str],
) -> dict[str, str]:
    """Part of each case that is not left out: "train", "val" or "test"."""
    kept = {o.row.case: case for case, o in zip(cases, outcomes, strict=True) if not o.left_out}
    if not options.paper_split:
        return {name: "test" if case.test else "train" for name, case in kept.items()}
    if dataset.paper_ratio:
        return draw_parts(groups, dataset.paper_ratio)
    return {name: case.paper_part or "train" for name, case in kept.items()}


def published_fold(dataset: Dataset, parts: Mapping[str, str], validation: str) -> Split:
    train, val = (sorted(name for name in parts if parts[name] == part) for part in ("train", validation))
    if not train or not val:
        raise UserError(
            f"The published split of {dataset.name} needs training and validation cases; there are {len(train)} and "
            f"{len(val)}: complete the download, or leave out --paper-split"
        )
    return {"train": train, "val": val}


def cross_validation(groups: Mapping[str, str]) -> list[Split]:
    """Five folds, or as many as there are groups if those are fewer; none for a single group.

    If every case is a group of its own, these are the folds that nnU-Net itself would draw.

    Args:
        groups: the group of each identifier; identifiers of one group stay together.
    """
    from sklearn.model_selection import GroupKFold, KFold

    identifiers = sorted(groups)
    names = [groups[identifier] for identifier in identifiers]
    num_folds = min(NUM_FOLDS, len(set(names)))
    if num_folds < 2:
        return []
    if len(set(names)) == len(names):
        folds = KFold(num_folds, shuffle=True, random_state=SEED).split(identifiers)
    else:
        folds = GroupKFold(num_folds).split(identifiers, groups=names)
    splits = [
        {part: [identifiers[i] for i in indices] for part, indices in zip(("train", "val"), fold, strict=True)}
        for fold in folds
    ]
    assert_disjoint(splits, groups)
    return splits


def draw_parts(groups: Mapping[str, str], ratio: tuple[int, int, int]) -> dict[str, str]:
    """Draw the part of each identifier, "train", "val" or "test", at random by group and the same on every call.

    The largest groups are placed first, each in the part that lacks most.

    Args:
        groups: the group of each identifier; identifiers of one group stay together.
        ratio: training : validation : test.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    order = np.random.default_rng(SEED).permutation(list(members)).tolist()
    lacking = {part: len(groups) * share / sum(ratio) for part, share in zip(PARTS, ratio, strict=True)}
    parts: dict[str, str] = {}
    for cases in sorted((members[name] for name in order), key=len, reverse=True):
        part = max(PARTS, key=lambda part: lacking[part])
        lacking[part] -= len(cases)
        parts |= dict.fromkeys(cases, part)
    return parts


def assert_disjoint(splits: Sequence[Split], groups: Mapping[str, str]) -> None:
    for split in splits:
        train, val = ({groups[identifier] for identifier in split[part]} for part in ("train", "val"))
        assert train.isdisjoint(val), f"groups on both sides: {sorted(train & val)}"
