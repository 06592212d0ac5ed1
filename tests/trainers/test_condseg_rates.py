"""Proves: the stage of ConDSeg that predicts ends at a low rate in a training of any length, or at the printed one."""

from itertools import pairwise

import pytest

from nnunet_plugins.trainers import find_trainer


def factors(name, num_epochs):
    """Number of epochs before the stage that predicts, and the factor of the printed rates in every epoch."""
    trainer_class = find_trainer(f"{name}_{num_epochs}epoch{'s' if num_epochs > 1 else ''}")
    trainer = object.__new__(trainer_class)  # what is asked for follows from the class
    return trainer.num_stage_1_epochs, [trainer.factor_in_stage(epoch / num_epochs) for epoch in range(num_epochs)]


@pytest.mark.parametrize("num_epochs", [1, 2, 5, 33, 1000])
@pytest.mark.parametrize("name", ["ConDSegTrainer", "ConDSegTrainer_oneStage", "ConDSegNet0Trainer"])
def test_the_stage_that_predicts_begins_at_the_printed_rate_and_falls_to_a_low_one(name, num_epochs):
    before, rates = factors(name, num_epochs)
    assert before == (min(-(-num_epochs // 5), num_epochs - 1) if name == "ConDSegTrainer" else 0)
    assert rates[: before + 1] == [1] * (before + 1)
    falling = rates[before:]
    assert all(later < earlier for earlier, later in pairwise(falling))
    assert falling[-1] == pytest.approx(len(falling) ** -0.9)


@pytest.mark.parametrize("num_epochs", [1, 5, 1000])
def test_the_printed_rates_hold_to_the_end_by_name(num_epochs):
    assert factors("ConDSegTrainer_constantRate", num_epochs)[1] == [1] * num_epochs
