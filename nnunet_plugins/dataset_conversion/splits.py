"""Folds for nnU-Net's ``splits_final.json``: nobody's images on both sides."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.nnunet_folders import Split

Key = TypeVar("Key")
NUM_FOLDS = 5
SEED = 12345  # nnU-Net's own
PARTS = "train", "val", "test"


def cross_validation(groups: Mapping[str, str]) -> list[Split]:
    """Five folds, or as many as there are groups if those are fewer; none for a single group.

    Without groups of several cases they are the folds that nnU-Net itself would draw.

    Args:
        groups: of each identifier; those of a group stay in one fold.
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
    """Part of each identifier, "train", "val" or "test": groups drawn at random, always the same ones.

    The largest groups are placed first, each where most is lacking.
    """
    members: dict[str, list[str]] = {}
    for identifier in sorted(groups):
        members.setdefault(groups[identifier], []).append(identifier)
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


def alike(thumbnails: Mapping[Key, NDArray[np.float32]], correlation: float) -> dict[Key, int]:
    """Numbers of the groups that chains of near-duplicates form.

    Args:
        thumbnails: ``(n, n)`` of each image, with mean 0 and length 1.
        correlation: from which two of them are near-duplicates.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not thumbnails:
        return {}
    vectors = np.stack([thumbnail.ravel() for thumbnail in thumbnails.values()])
    pairs: list[NDArray[np.int64]] = []
    for start in range(0, len(vectors), 1024):
        close = np.argwhere(vectors[start : start + 1024] @ vectors.T >= correlation)
        pairs.append(close + np.array([start, 0]))
    rows, columns = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(vectors),) * 2)
    return dict(zip(thumbnails, connected_components(graph, directed=False)[1].tolist(), strict=True))
