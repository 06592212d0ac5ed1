"""Proves: whatever a network predicts, the classes of a case have alpha of its patches, in equal shares.

Patches are cut by the real loader from cases of background with a few voxels of each class.
"""

from copy import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.cases_in_memory import Cases, make_loader

from nnunet_plugins.trainers.base import seed_everything
from nnunet_plugins.trainers.data.region_importance import (
    Case,
    RegionImportance,
    case_grid,
    class_frequency,
    class_frequency_of_cases,
    find_cases,
)

ALPHA = 1 / 3
CONFIGURATIONS = {
    "images": ((1, 512, 512), (128, 128), 6),
    "slices of volumes": ((24, 512, 512), (128, 128), 8),
    "volumes": ((80, 160, 160), (40, 64, 64), 6),
}
"""Shape of a case, patch size, and length of its objects."""


def sparse_case(shape, num_classes, length, rng):
    """Background and one cube of each class, of which the last is a third as long as the others."""
    labels = np.zeros(shape, int)
    for label in range(1, num_classes + 1):
        size = np.minimum(shape, length // 3 if label == num_classes > 1 else length)
        corner = rng.integers(0, shape - size + 1)
        labels[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = label
    return labels


@pytest.fixture(
    scope="module",
    params=[(name, num_classes) for name in CONFIGURATIONS for num_classes in (1, 8)],
    ids=lambda p: f"{p[0]}, {p[1]}",
)
def sparse(request):
    """Cases with a foreground of 0.016 % of the voxels or less for each class, and the importance of their regions."""
    name, num_classes = request.param
    (shape, patch_size, length), rng = CONFIGURATIONS[name], np.random.default_rng(0)
    maps = {f"case{n}": sparse_case(shape, num_classes, length, rng) for n in range(3)}
    assert max((labels > 0).mean() for labels in maps.values()) < 1.6e-4 * num_classes
    dataset = Cases(maps)
    cases = find_cases(dataset, patch_size)
    frequencies = class_frequency_of_cases(dataset, cases, range(num_classes + 1))
    importance = RegionImportance(cases, np.concatenate([frequencies[name] for name in cases]))
    return dataset, patch_size, num_classes, importance


def unsure_everywhere(foreground, rng):
    return 0.01 * (1 + 1e-3 * rng.random(len(foreground))), np.log(2) * (1 - 1e-3 * rng.random(len(foreground)))


def background_only(foreground, rng):
    """A network that is surer where the foreground is than elsewhere: the hardest of all."""
    return 1e-4 * rng.random(len(foreground)) * ~foreground, 1e-3 * rng.random(len(foreground)) * ~foreground


def good_network(foreground, rng):
    background = 1e-5 * rng.random(len(foreground))
    return np.where(foreground, 0.05, background), np.where(foreground, 0.1, 2 * background)


STATES = {
    "first epoch": None,
    "unsure everywhere alike": unsure_everywhere,
    "background only": background_only,
    "good network": good_network,
}


def labels_of_patches(dataset, patch_size, probabilities, folder, number):
    """Draw patches, and find which labels each shows: booleans ``(number, labels)``."""
    loader = make_loader(dataset, patch_size, folder, probabilities=probabilities, batch_size=1)
    seed_everything(0)
    shown = np.zeros((number, 9), bool)
    for row in shown:
        (name,) = loader.get_indices()
        labels = dataset.label_maps[name]
        lower, upper = loader.get_bbox(np.array(labels.shape), False, None)
        patch = labels[tuple(map(slice, np.maximum(lower, 0), upper))]
        row[:] = np.bincount(patch.ravel(), minlength=9) > 0
    return shown


@pytest.mark.parametrize("state", STATES)
def test_the_share_of_patches_with_a_class_is_never_below_what_is_guaranteed(sparse, state, tmp_path):
    dataset, patch_size, num_classes, importance = sparse
    importance = copy(importance)
    if STATES[state] is not None:
        importance.boundary, importance.entropy = STATES[state](importance.frequency > 0, np.random.default_rng(1))
    shown = labels_of_patches(dataset, patch_size, importance.probabilities(), tmp_path, 1000)[:, 1:]
    of_classes = shown.sum(0)[:num_classes]
    for number, guaranteed in ((shown.any(1).sum(), ALPHA), *((n, ALPHA / num_classes) for n in of_classes)):
        assert binomtest(int(number), len(shown), guaranteed, alternative="less").pvalue > 0.01
    if state in ("first epoch", "good network"):
        assert shown.any(1).mean() > 0.85
    if state == "first epoch":
        assert of_classes.min() / len(shown) > 0.8 / num_classes


def test_the_loader_shows_the_region_that_it_has_drawn(sparse, tmp_path):
    """No patch lacks the classes when regions are drawn by their frequency alone."""
    dataset, patch_size, _, importance = sparse
    importance = copy(importance)
    importance.weights = (1, 0, 0)
    shown = labels_of_patches(dataset, patch_size, importance.probabilities(), tmp_path, 300)
    assert shown[:, 1:].any(1).all()


# ---- the law ---------------------------------------------------------------------------------------------------------

FACTORS = st.floats(0, 1e6) | st.just(np.nan) | st.just(np.inf)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_classes_share_alpha_equally_in_every_state_of_the_network(data):
    num_classes = data.draw(st.integers(1, 8))
    cases, counts, first = {}, [], 0
    for number in range(data.draw(st.integers(1, 3))):
        grid = tuple(data.draw(st.lists(st.integers(1, 3), min_size=3, max_size=3)))
        case = Case(grid, grid, first)
        cases[str(number)], first = case, case.regions.stop
        rows = st.lists(st.sampled_from((0, 0, 0, 1, 7, 900)), min_size=num_classes + 1, max_size=num_classes + 1)
        counts.append(np.array([data.draw(rows) for _ in range(np.prod(grid))]))
    importance = RegionImportance(cases, np.concatenate([class_frequency(of_case) for of_case in counts]))
    beta = data.draw(st.floats(0, 1))
    alpha = data.draw(st.floats(0, 1))
    importance.weights = (alpha, (1 - alpha) * beta, (1 - alpha) * (1 - beta))
    importance.uniform_share = data.draw(st.floats(0, 1))
    factors = st.lists(FACTORS, min_size=first, max_size=first)
    importance.boundary, importance.entropy = np.array(data.draw(factors)), np.array(data.draw(factors))
    probabilities = importance.probabilities()
    for case, of_case in zip(cases.values(), counts, strict=True):
        p, annotated = probabilities[case.regions], of_case.any(1)
        assert (p >= 0).all() and p.sum() == pytest.approx(1)
        if annotated.any():
            assert not p[~annotated].any()
        shows = of_case[:, 1:] > 0
        classes = np.flatnonzero(shows.any(0))
        for label in classes:
            assert p[shows[:, label]].sum() >= alpha / len(classes) - 1e-9
        if len(classes):
            assert p[shows.any(1)].sum() >= alpha - 1e-9


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 130)), min_size=3, max_size=3), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_patch_around_any_point_of_a_region_shows_all_of_it(axes, seed):
    shape, patch_size = zip(*axes, strict=True)
    case = Case(shape, case_grid(shape, patch_size), 0)
    rng = np.random.default_rng(seed)
    center = [int(rng.integers(length)) for length in shape]
    region = case.region_of(np.array(center))
    for axis, (length, patch) in enumerate(axes):
        line = np.repeat(np.array(center)[:, None], length, 1)
        line[axis] = np.arange(length)
        of_region = np.flatnonzero(case.region_of(line) == region)
        lower = np.clip(center[axis] - patch // 2, 0, max(length - patch, 0))  # moved into the case
        assert lower <= of_region[0] and of_region[-1] < lower + patch
