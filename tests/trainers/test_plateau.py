"""Proves: rates fall on a plateau of the validation loss, and not while a noisy loss is still falling."""

import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nnunet_plugins.trainers.schedules import PlateauSchedule

INITIAL_RATE = 2e-4
EPOCHS = 1000


def an_optimizer(rate=INITIAL_RATE):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(losses, num_epochs=EPOCHS):
    """Learning rates of all epochs, including the one after the last loss, in parts of the first."""
    optimizer = an_optimizer()
    schedule = PlateauSchedule(optimizer, lambda: losses, factor=0.5, patience=5, num_epochs=num_epochs)
    found = []
    for epoch in range(len(losses) + 1):
        schedule.step(epoch)
        found.append(optimizer.param_groups[0]["lr"] / INITIAL_RATE)
    return found


# ---- a loss without noise --------------------------------------------------------------------------------------------


def test_rate_is_halved_after_five_epochs_that_are_no_better_than_the_five_before():
    expected = [1.0] * 10 + [0.5] * 10 + [0.25]
    assert rates([1.0] * 20) == expected
    assert rates([0.1] * 20) == expected


def test_rate_stays_while_the_loss_falls_however_little():
    assert rates([1 - 1e-6 * epoch for epoch in range(100)]) == [1.0] * 101


def test_losses_that_are_not_finite_count_for_nothing():
    losses = [1.0, math.nan, math.inf] * 10
    assert rates(losses) == [1.0] * 28 + [0.5] * 3
    assert rates([math.nan] * 30) == [1.0] * 31


def test_no_rate_falls_below_its_floor():
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1e-3, 2e-4, 1e-8)], lr=1.0
    )
    PlateauSchedule(optimizer, lambda: [1.0] * 500, factor=0.5, patience=5, num_epochs=EPOCHS).step(500)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-7, 1e-7, 1e-8]


def test_rates_are_a_function_of_the_log_whatever_came_before():
    rng = np.random.default_rng(0)
    losses = list(1 + 0.01 * rng.standard_normal(300))
    optimizer = an_optimizer()
    schedule = PlateauSchedule(optimizer, lambda: losses, factor=0.5, patience=5, num_epochs=EPOCHS)
    expected = rates(losses)
    assert len(set(expected)) > 2
    for epoch in (200, 13, 7, 300, 300):
        schedule.step(epoch)
        assert optimizer.param_groups[0]["lr"] / INITIAL_RATE == expected[epoch]


def test_rates_go_to_their_end_over_the_last_fifth_of_the_training():
    falling = rates([1 - 1e-3 * epoch for epoch in range(100)], num_epochs=100)
    assert falling[:81] == pytest.approx([1.0] * 81)
    assert falling[90] == pytest.approx(0.5) and falling[99] == pytest.approx(0.05)
    assert falling[100] * INITIAL_RATE == pytest.approx(1e-7)


# ---- a loss with noise -----------------------------------------------------------------------------------------------


def left_of_the_descent(schedule_of, floor, noise, num_epochs, seed):
    """Share of a descent that a training still has before it, if its speed is proportional to the rate.

    At the first rate the descent falls to 1/e in a fifth of the training; at the end of it 0.7 % are left.

    Args:
        schedule_of: ``schedule_of(optimizer, losses)``: a function of the epoch that sets the rate.
        floor: loss at the end of the descent, in parts of the descent.
        noise: standard deviation of a loss, as a share of it.
        num_epochs: of the training.
        seed: of the noise.
    """
    rng, optimizer, losses, way = np.random.default_rng(seed), an_optimizer(), [], 0.0
    set_rate = schedule_of(optimizer, losses)
    for epoch in range(num_epochs):
        set_rate(epoch)
        way += optimizer.param_groups[0]["lr"] / INITIAL_RATE / (num_epochs / 5)
        losses.append((floor + math.exp(-way)) * (1 + noise * rng.standard_normal()))
    return math.exp(-way)


def torchs(optimizer, losses):
    """ReduceLROnPlateau, as section 4.2 says."""
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    return lambda epoch: plateau.step(losses[-1]) if losses else None


def ours(num_epochs):
    def schedule_of(optimizer, losses):
        return PlateauSchedule(optimizer, lambda: losses, factor=0.5, patience=5, num_epochs=num_epochs).step

    return schedule_of


@pytest.mark.parametrize("floor", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_noise_costs_less_than_a_fifth_of_a_slow_descent(floor, noise):
    for seed in range(3):
        assert left_of_the_descent(torchs, floor, noise, EPOCHS, seed) > 0.5
        assert left_of_the_descent(ours(EPOCHS), floor, noise, EPOCHS, seed) < 0.2


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_noise_costs_as_little_in_the_papers_hundred_epochs(noise):
    for seed in range(10):
        assert left_of_the_descent(ours(100), 1.0, noise, 100, seed) < 0.2


@pytest.mark.parametrize(("noise", "within"), [(0.0, 25), (0.01, 40), (0.05, 100), (0.1, 150)])
def test_a_plateau_is_found_however_noisy(noise, within):
    """A loss that falls for 100 epochs and then stays: the rate falls within so many epochs, and not before."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        epochs = np.arange(100 + within)
        losses = (1 + np.clip(1 - epochs / 100, 0, None)) * (1 + noise * rng.standard_normal(len(epochs)))
        found = rates(list(losses))
        assert found[100] == 1.0
        assert found[-1] < 1.0
