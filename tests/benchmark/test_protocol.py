"""Proves that the suites of docs/protocol.md are what the page says, on data that its script prepares."""

import re
import sys
from math import prod

import pytest
from support.repository import REPOSITORY

from nnunet_plugins.benchmark.suite import Suite, divided, read_suite
from nnunet_plugins.trainers import find_trainer

PAGE = (REPOSITORY / "docs" / "protocol.md").read_text()
SUITES = {path.stem: read_suite(path) for path in sorted((REPOSITORY / "suites" / "evidence").glob("*.toml"))}
SEVEN = SUITES["1_nuclei"].trainers
EQUAL_TIME = "2_nuclei_equal_time"


@pytest.fixture
def recipes(monkeypatch):
    """Recipes of the script, by the number of their dataset."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "speed"))
    import evidence_data

    yield {recipe.id: recipe for recipe in evidence_data.RECIPES.values()}
    sys.modules.pop("evidence_data")


@pytest.mark.parametrize("name", SUITES)
def test_suites_name_what_exists_and_train_on_a_core(name, recipes):
    suite = SUITES[name]
    assert suite.reference == ("TimmUNetTrainer" if name == "resnets" else "nnUNetTrainer")
    assert (suite.resources.device, suite.resources.cpus) == ("cpu", 1)
    for trainer in suite.trainers:
        base, plans = divided(trainer)
        assert base == "nnUNetTrainer" or find_trainer(base).__name__ == base
        assert f"`{trainer}`" in PAGE and plans in ("", "nnUNetResEncUNetMPlansCPU")
    for data in suite.datasets:
        assert data.plans == "nnUNetPlansCPU" and re.search(rf"\| {data.id} {recipes[data.id].name} \|", PAGE)
        assert set(data.configurations) <= {configuration for configuration, _ in recipes[data.id].batches}
        assert bool(data.cluster_regex) == recipes[data.id].groups_in_names


def test_names_of_suites_differ():
    names = [suite.name for suite in SUITES.values()]
    assert len(set(names)) == len(names) and all(name.startswith("evidence_") for name in names)


def num_patches(suite: Suite, trainer: str, recipes) -> int:
    (batch,) = {dict(recipes[data.id].batches)[data.configurations[0]] for data in suite.datasets}
    return suite.epochs_for(trainer) * suite.iterations * batch


@pytest.mark.parametrize("name", [name for name in SUITES if name not in (EQUAL_TIME, "9_hippocampus_3d")])
def test_equal_steps_are_those_of_the_page(name, recipes):
    suite = SUITES[name]
    assert {num_patches(suite, trainer, recipes) for trainer in suite.trainers} == {20_000}
    assert "50 epochs of 50 steps of 8 patches, 20,000 patches for each trainer" in PAGE


def test_volumes_are_as_many_voxels(recipes):
    suite = SUITES["9_hippocampus_3d"]
    assert num_patches(suite, "nnUNetTrainer", recipes) == 1000
    assert 1000 * prod((40, 56, 40)) == pytest.approx(20_000 * 64 * 64, rel=0.1)


def test_epochs_are_those_of_the_table():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert tuple(trainer for trainer, *_ in rows) == SEVEN == SUITES[EQUAL_TIME].trainers
    for trainer, step, steps, time in rows:
        assert SUITES["1_nuclei"].epochs_for(trainer) == int(steps)
        assert SUITES[EQUAL_TIME].epochs_for(trainer) == int(time)
        assert int(time) * float(step) == pytest.approx(100, rel=0.05)


def test_the_combined_report_is_of_the_trainings_of_the_others(recipes):
    single = [SUITES[name] for name in ("1_nuclei", "4_polyps", "5_stones", "6_hippocampus")]
    combined = SUITES["all_datasets"]
    assert combined.datasets == tuple(data for suite in single for data in suite.datasets)
    assert all((suite.trainers, suite.epochs, suite.folds) == (SEVEN, combined.epochs, (0,)) for suite in single)
    assert combined.trainers == SEVEN


def test_the_methods_on_a_resnet_are_compared_with_a_plain_one_by_the_same_trainings():
    suite, resnets = SUITES["1_nuclei"], SUITES["resnets"]
    assert resnets.reference == "TimmUNetTrainer" and set(resnets.trainers) < set(SEVEN)
    assert (resnets.datasets, resnets.epochs, resnets.folds) == (suite.datasets, suite.epochs, suite.folds)
    assert "`suites/evidence/resnets.toml`" in PAGE


def test_patches_and_sizes_are_those_of_the_page(recipes):
    for recipe in recipes.values():
        (row,) = re.findall(rf"^\| {recipe.id} {recipe.name} \|.*$", PAGE, re.MULTILINE)
        if recipe.size:
            assert f"{recipe.size[0]} x {recipe.size[1]}" in row.split(" | ")[3]
        if recipe.patch:
            assert row.endswith(f"| {recipe.patch[0]} x {recipe.patch[1]}, {dict(recipe.batches)['2d']} |")


def test_numbers_give_the_order_of_the_suites():
    assert [name[0] for name in SUITES if name not in ("all_datasets", "resnets")] == list("123456789")
