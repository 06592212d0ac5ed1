"""Proves: a fitted plan fits and the next larger one does not, by nnU-Net's rules, checked with its own planner."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from support.described_datasets import IMAGES, LARGE_VOLUMES, VOLUMES

from nnunet_plugins.planning.fitting import DoesNotFit, Search, largest_batch
from nnunet_plugins.planning.patches import largest_allowed_batch, planner_of, smaller_patches
from nnunet_plugins.planning.source import Source, find_trainer_class, read_source
from nnunet_plugins.trainers.memory.estimate import estimate_training
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

STOCK = "nnUNetTrainer"
CASNET = "CASNetTrainer"


def search(source: Source, trainer: str, gib: float) -> Search:
    return Search(source, find_trainer_class(trainer), gib)


def needed(source: Source, trainer: str, name: str, configuration: dict, batch: int, recompute: bool = False) -> float:
    """GiB that a GPU must have, from an estimate that the search has no part in."""
    plans = source.plans | {"configurations": source.plans["configurations"] | {name: configuration}}
    trainer_class = find_trainer_class(trainer)
    options = {"batch_size": batch, "recompute": recompute}
    return with_margin(estimate_training(trainer_class, plans, name, source.dataset_json, **options).peak) / GIB


def test_the_batch_gives_way_first_and_no_further_than_it_must(root):
    source = read_source(IMAGES.id)
    before, _, after, needs = search(source, STOCK, 4).fit("2d")
    assert before["batch_size"] > after["batch_size"] > 2
    assert after == before | {"batch_size": after["batch_size"]}
    assert needed(source, STOCK, "2d", after, after["batch_size"]) <= 4
    assert needed(source, STOCK, "2d", after, after["batch_size"] + 1) > 4
    assert with_margin(needs.keeping) / GIB == needed(source, STOCK, "2d", after, after["batch_size"])


@pytest.mark.parametrize(("dataset", "name", "gib"), [(IMAGES, "2d", 1.85), (VOLUMES, "3d_fullres", 3)])
def test_then_the_patch_gives_way_to_the_next_that_nnunet_would_try(root, dataset, name, gib):
    source = read_source(dataset.id)
    found = search(source, STOCK, gib)
    patches = smaller_patches(source, found.planner, name)
    before, _, after, _ = found.fit(name)
    index = [patch.size for patch in patches].index(after["patch_size"])
    assert needed(source, STOCK, name, after, 2) <= gib
    assert needed(source, STOCK, name, before, 2) > gib
    if index:
        larger = found.candidates(name, before)
        assert needed(source, STOCK, name, list(larger)[index - 1], 2) > gib


@pytest.mark.parametrize("planner", ["ExperimentPlanner", "nnUNetPlannerResEncM"])
def test_smaller_patches_are_those_of_nnunets_planner_for_smaller_gpus(root, planner):
    name = {"ExperimentPlanner": "nnUNetPlans", "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans"}[planner]
    source = read_source(VOLUMES.id, name)
    patches = smaller_patches(source, planner_of(source), "3d_fullres")
    sizes = [patch.size for patch in patches]
    assert all(later < earlier for earlier, later in pairwise(sizes))
    for target in (4, 2):
        plan_experiments([VOLUMES.id], planner, target, overwrite_plans_name="smaller")
        path = root / "nnUNet_preprocessed" / source.dataset / "smaller.json"
        theirs = json.loads(path.read_text())["configurations"]["3d_fullres"]
        ours = patches[sizes.index(theirs["patch_size"])]
        assert ours.strides == theirs["architecture"]["arch_kwargs"]["strides"]
        assert ours.kernel_sizes == theirs["architecture"]["arch_kwargs"]["kernel_sizes"]


def test_a_smaller_patch_has_the_network_that_nnunet_plans_for_it(root):
    source = read_source(VOLUMES.id)
    plan_experiments([VOLUMES.id], "ExperimentPlanner", 1, overwrite_plans_name="smaller")
    path = root / "nnUNet_preprocessed" / source.dataset / "smaller.json"
    theirs = json.loads(path.read_text())["configurations"]["3d_fullres"]
    before = source.configuration("3d_fullres")
    candidates = search(source, STOCK, 8).candidates("3d_fullres", before)
    ours = next(candidate for candidate in candidates if candidate["patch_size"] == theirs["patch_size"])
    assert len(theirs["architecture"]["arch_kwargs"]["strides"]) < len(before["architecture"]["arch_kwargs"]["strides"])
    assert ours["architecture"] == theirs["architecture"]


@pytest.mark.parametrize("dataset", [IMAGES, VOLUMES, LARGE_VOLUMES], ids=lambda dataset: str(dataset.shape))
def test_the_batch_has_nnunets_limit(root, dataset):
    source = read_source(dataset.id)
    plan_experiments([dataset.id], "ExperimentPlanner", 10_000, overwrite_plans_name="unlimited")
    plans = json.loads((root / "nnUNet_preprocessed" / source.dataset / "unlimited.json").read_text())
    for theirs in plans["configurations"].values():
        if "batch_size" in theirs:
            assert largest_allowed_batch(source, planner_of(source), theirs) == theirs["batch_size"]


def test_more_memory_gives_larger_batches_and_no_larger_patch(root):
    source = read_source(IMAGES.id)
    before, _, after, _ = search(source, STOCK, 1000).fit("2d")
    assert after["patch_size"] == before["patch_size"]
    assert after["batch_size"] == largest_allowed_batch(source, planner_of(source), after) == 20


def test_recomputation_is_for_the_planned_batch_and_not_for_a_larger_one(root):
    source = read_source(IMAGES.id)
    planned = source.configuration("2d")
    gib = needed(source, CASNET, "2d", planned, planned["batch_size"]) - 0.1
    fitted = search(source, CASNET, gib).fit("2d")
    assert fitted.after["batch_size"] == planned["batch_size"]
    assert fitted.needs_after.verdict(round(gib * GIB)) == "fits with recomputation"
    assert needed(source, CASNET, "2d", planned, planned["batch_size"] + 1, recompute=True) < gib


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_the_user_has_chosen_is_never_made_larger(root, batch):
    path = root / "nnUNet_preprocessed" / "Dataset921_Described" / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["2d_mine"] = {"inherits_from": "2d", "batch_size": batch}
    path.write_text(json.dumps(plans))
    assert search(read_source(IMAGES.id), STOCK, 100).fit("2d_mine").after["batch_size"] == batch


def test_the_patch_stays_where_the_chosen_batch_of_one_fits(root):
    path = root / "nnUNet_preprocessed" / "Dataset921_Described" / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["2d_b1"] = {"inherits_from": "2d", "batch_size": 1}
    path.write_text(json.dumps(plans))
    source = read_source(IMAGES.id)
    planned = source.configuration("2d")
    one, two = (needed(source, CASNET, "2d", planned, batch, recompute=True) for batch in (1, 2))
    found = search(source, CASNET, (one + two) / 2)
    assert found.fit("2d").after["patch_size"] != planned["patch_size"] == found.fit("2d_b1").after["patch_size"]


@pytest.mark.slow
def test_what_cannot_fit_is_told_with_what_would(root):
    with pytest.raises(DoesNotFit) as refused:
        search(read_source(IMAGES.id), "ConDSegTrainer", 1.5).fit("2d")
    sentence = str(refused.value)
    assert sentence.startswith(
        "ConDSegTrainer does not fit 1.5 GiB on 2d of Dataset921_Described: a batch of 2 of its "
    )
    assert re.search(r"patch, (\d+) x \1, needs 1\.\d GiB: use a larger GPU, .* or train nnUNetT", sentence)


def test_planning_reads_no_image_and_writes_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    search(read_source(IMAGES.id), STOCK, 4).fit("2d")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not [path for path in root.rglob("*") if path.suffix not in ("", ".json")]


@given(st.integers(2, 400), st.integers(0, 500), st.lists(st.integers(1, 9), min_size=400, max_size=400))
def test_the_largest_batch_is_found_whatever_the_growth(limit, memory, growth):
    needed = [sum(growth[:batch]) for batch in range(limit + 1)]
    fitting = [batch for batch in range(2, limit + 1) if needed[batch] <= memory]
    assert largest_batch(needed.__getitem__, memory, limit) == max(fitting, default=2)


def test_the_planner_is_the_one_that_made_the_plans(root):
    for name in ("nnUNetPlans", "nnUNetResEncUNetMPlans"):
        source = read_source(VOLUMES.id, name)
        planner = planner_of(source)
        assert type(planner).__name__ == source.plans["experiment_planner_used"]
        assert isinstance(planner, ExperimentPlanner)
        assert Path(planner.raw_dataset_folder).name == source.dataset
