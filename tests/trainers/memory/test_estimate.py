"""Proves: the estimate is what a real step allocates, of any trainer, and computing it leaves no trace."""

import os

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support import cell_datasets
from support.default_plans import Planned, default_plans, peak_of_a_real_step

from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.memory.estimate import estimate_training

TRAINERS = ("nnUNetTrainer", "DLKUNetTrainer", "MedFusionTransNetTrainer", "DCFFSNetTrainer", "TimmUNetTrainer")
CONFIGURATIONS = {"2d": (64, 96), "3d_fullres": (32, 40, 32)}


def trainer_class(name: str) -> type:
    return nnUNetTrainer if name == "nnUNetTrainer" else find_trainer(name)


@pytest.fixture(scope="module")
def plans_of(tmp_path_factory) -> dict[str, Planned]:
    return {
        name: default_plans(tmp_path_factory.mktemp(name), shape, 2, 3).batch_of(name, 2)
        for name, shape in CONFIGURATIONS.items()
    }


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", TRAINERS)
def test_estimate_is_what_a_real_step_allocates(name, configuration, plans_of, narrow):
    kind, planned = trainer_class(name), plans_of[configuration]
    if len(CONFIGURATIONS[configuration]) not in getattr(kind, "supported_dimensions", (2, 3)):
        return
    estimate = estimate_training(kind, planned.plans, configuration, planned.dataset_json, half_precision=False)
    assert estimate.peak == pytest.approx(peak_of_a_real_step(kind, planned, configuration), rel=0.15)


@pytest.fixture(scope="module")
def large_plans(tmp_path_factory) -> Planned:
    """Plans in which activations need more than parameters."""
    return default_plans(tmp_path_factory.mktemp("large"), (256, 256), 1, 2)


def test_memory_is_linear_in_the_batch(large_plans):
    planned = large_plans
    peaks = [
        estimate_training(nnUNetTrainer, planned.plans, "2d", planned.dataset_json, batch_size=size).peak
        for size in (4, 6, 16)
    ]
    assert peaks[2] == pytest.approx(peaks[0] + 6 * (peaks[1] - peaks[0]), rel=0.01)


@pytest.mark.parametrize(
    ("name", "dataset_id"),
    [
        *[
            (name, cell_datasets.REGIONS_IGNORE)
            for name in ("DCFFSNetTrainer", "ConDSegTrainer", "DCSNetTrainer", "TimmUNetTrainer")
        ],
        *[(name, cell_datasets.THICK_VOLUMES) for name in ("DLKUNetTrainer", "MedFusionTransNetTrainer")],
        ("DRGOTrainer", cell_datasets.REGIONS_IGNORE),
        ("nnUNetTrainerDiceCELoss_noSmooth", cell_datasets.LABELS),
        ("nnUNetTrainerNoDeepSupervision", cell_datasets.LABELS),
        ("nnUNetTrainer", cell_datasets.IGNORE),
        ("nnUNetTrainerAdam", cell_datasets.LABELS),
    ],
)
def test_any_trainer_labels_and_dimensions_can_be_estimated(name, dataset_id, planned, narrow):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    kind = recursive_find_trainer_class_by_name(name)
    plans, description = cell_datasets.load_plans(dataset_id), cell_datasets.load_dataset_json(dataset_id)
    configuration = cell_datasets.configuration_of(dataset_id)
    keeping, recomputing = (
        estimate_training(kind, plans, configuration, description, recompute=recompute) for recompute in (False, True)
    )
    assert keeping.peak > 4 * keeping.parameters > 0
    assert not keeping.recomputes
    assert recomputing.recomputes == hasattr(kind, "build_network")


def test_estimating_needs_no_data_and_leaves_no_trace(tmp_path, monkeypatch, narrow):
    planned = default_plans(tmp_path, (64, 64), 1, 2)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")  # without wandb, every trainer would be an error
    before, threads, state = dict(os.environ), torch.get_num_threads(), torch.get_rng_state()
    files = sorted(tmp_path.rglob("*"))
    kind = find_trainer("DCFFSNetTrainer_pretrained")  # whose weights would have to be downloaded
    assert estimate_training(kind, planned.plans, "2d", planned.dataset_json).peak > 0
    assert dict(os.environ) == before and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(tmp_path.rglob("*")) == files
    assert "continue_training" not in planned.plans
    assert torch.nn.Linear(1, 1).to("meta").weight.is_meta  # modules move again


def test_half_precision_needs_half(large_plans):
    planned = large_plans
    half, single = (
        estimate_training(nnUNetTrainer, planned.plans, "2d", planned.dataset_json, half_precision=half).peak
        for half in (True, False)
    )
    assert 0.5 * single < half < 0.6 * single
