"""Proves: with recomputation every main trainer fits where nnU-Net's own network fits, on nnU-Net's default plans.

The bounds are 1.5 times nnU-Net's own peak in 2D and 2 times in 3D, in half precision. Without recomputation no trainer
may need more than it did before there was any.
"""

from typing import NamedTuple

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.default_plans import Planned, default_plans

from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.memory.estimate import estimate_training

GIB = 2**30


class Case(NamedTuple):
    """Plans of one image size, in one configuration."""

    configuration: str
    shape: tuple[int, ...]
    channels: int
    classes: int
    batch: int
    bound: float


CASES = [
    *[Case("2d", (512, 512), channels, classes, 12, 1.5) for channels, classes in ((1, 2), (4, 5))],
    *[Case("2d", (256, 256), channels, classes, 49, 1.5) for channels, classes in ((1, 2), (4, 5))],
    *[Case("3d_fullres", (128, 128, 128), channels, classes, 2, 2.0) for channels, classes in ((1, 2), (4, 5))],
]
FAST = CASES[1], CASES[5]
"""The cases of the first tier."""

BEFORE = {  # GiB without recomputation, of one and of four channels, on 12 x 512 x 512 or 2 x 128 x 128 x 128
    ("DCFFSNetTrainer", "2d"): (8.21, 13.04),
    ("ConDSegTrainer", "2d"): (26.34, 26.43),
    ("DLKUNetTrainer", "2d"): (30.80, 30.89),
    ("MedFusionTransNetTrainer", "2d"): (7.30, 11.45),
    ("DCFFSNetTrainer", "3d_fullres"): (9.35, 14.49),
    ("ConDSegTrainer", "3d_fullres"): (12.27, 13.50),
    ("DLKUNetTrainer", "3d_fullres"): (29.81, 29.90),
    ("MedFusionTransNetTrainer", "3d_fullres"): (7.72, 12.94),
}
TRAINERS = ("DCFFSNetTrainer", "ConDSegTrainer", "DLKUNetTrainer", "MedFusionTransNetTrainer", "DCSNetTrainer")


def cases_of_trainers() -> list:
    return [
        pytest.param(name, case, id=f"{name}-{case.shape[0]}-{case.channels}", marks=() if case in FAST else slow)
        for case in CASES
        for name in TRAINERS
        if len(case.shape) in find_trainer(name).supported_dimensions
        for slow in [[pytest.mark.slow]]
    ]


@pytest.fixture(scope="module")
def planned_of(tmp_path_factory):
    """``planned_of(case)``: nnU-Net's plans and the peak of its own trainer on them; made once."""
    made: dict[Case, tuple[Planned, int]] = {}

    def plan(case: Case) -> tuple[Planned, int]:
        if case not in made:
            planned = default_plans(tmp_path_factory.mktemp("case"), case.shape, case.channels, case.classes)
            found = planned.plans["configurations"][case.configuration]
            assert (list(found["patch_size"]), found["batch_size"]) == (list(case.shape), case.batch)
            own = estimate_training(nnUNetTrainer, planned.plans, case.configuration, planned.dataset_json)
            made[case] = planned, own.peak
        return made[case]

    return plan


@pytest.mark.parametrize(("name", "case"), cases_of_trainers())
def test_recomputing_trainer_needs_little_more_than_nnunets_own(name, case, planned_of):
    planned, own = planned_of(case)
    kind = find_trainer(name)
    peaks = [
        estimate_training(kind, planned.plans, case.configuration, planned.dataset_json, recompute=recompute).peak
        for recompute in (True, False)
    ]
    assert peaks[0] <= case.bound * own
    before = BEFORE.get((name, case.configuration))
    if before is not None and case.batch != 49:
        assert peaks[1] <= before[case.channels > 1] * GIB


@pytest.mark.slow
def test_first_stage_of_condseg_fits_too(planned_of, monkeypatch):
    """Stage 1 trains on two views of every image."""
    case = CASES[1]
    planned, own = planned_of(case)
    kind = find_trainer("ConDSegTrainer")
    monkeypatch.setattr(kind, "stage", 1)
    peak = estimate_training(kind, planned.plans, "2d", planned.dataset_json, recompute=True).peak
    assert peak <= case.bound * own


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[1:4:2])
def test_whole_images_fit_dcsnets_head_too(planned_of, case):
    """Without boxes its head segments 16,384 positions of an image of 512 x 512, with 1024 tokens."""
    planned, own = planned_of(case)
    kind = find_trainer("DCSNetTrainer_woDGHC")
    assert estimate_training(kind, planned.plans, "2d", planned.dataset_json, recompute=True).peak <= case.bound * own
