"""Proves: DCFFSNet's shifts, connectivity maps and votes equal plain loops and numbers written by hand.

The laws hold in images and volumes, for neighbours that share a face or a corner, and across thick slices for none.
"""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.architectures.layers.directions import (
    DIRECTIONS,
    Directions,
    directional_vote,
    every_direction,
    move,
    neighbours,
    opposite,
    pair_masks,
    pair_votes,
    shift_groups,
    vote_of_pairs,
)

MASK = torch.tensor(
    [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
)
# For every foreground pixel (row, column): the directions in which its neighbour is foreground too.
AGREEMENT_BY_HAND = {
    (1, 1): {(0, 1), (1, 0)},
    (1, 2): {(0, -1), (1, -1)},
    (2, 1): {(-1, 0), (-1, 1)},
    (2, 4): {(1, -1)},
    (3, 3): {(-1, 1)},
}


FACES = neighbours((True, True, True), diagonal=False)
CORNERS = neighbours((True, True, True), diagonal=True)
IN_SLICES = neighbours((False, True, True), diagonal=False)
NEIGHBOURHOODS = {"image": DIRECTIONS, "faces": FACES, "corners": CORNERS, "thick slices": IN_SLICES}
every_neighbourhood = pytest.mark.parametrize("directions", NEIGHBOURHOODS.values(), ids=list(NEIGHBOURHOODS))


def connectivity_map(masks: torch.Tensor, directions: Directions = DIRECTIONS) -> torch.Tensor:
    """Compute ``conn(Y)`` for all directions."""
    return every_direction(pair_masks(masks, directions), 0.0, directions)


def certain(connectivity: torch.Tensor) -> torch.Tensor:
    """Turn 0 and 1 into logits of certain probabilities."""
    return torch.where(connectivity > 0.5, 40.0, -40.0)


def masks(directions: Directions = DIRECTIONS, max_size: int = 9) -> st.SearchStrategy[torch.Tensor]:
    """Draw random binary masks ``(1, 2, *S)``."""
    dimensions = len(directions[0])
    sizes = st.lists(st.integers(2, max_size), min_size=dimensions, max_size=dimensions)
    return st.builds(
        lambda size, seed: (torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(seed)) > 0.5).float(),
        sizes,
        st.integers(0, 10**6),
    )


def small_masks(directions: Directions) -> st.SearchStrategy[torch.Tensor]:
    return masks(directions, 9 if len(directions[0]) == 2 else 4)


def positions(size: torch.Size) -> Iterator[tuple[int, ...]]:
    return product(*map(range, size))


def is_inside(position: tuple[int, ...], size: torch.Size) -> bool:
    return all(0 <= index < length for index, length in zip(position, size, strict=True))


def moved(position: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(index + length for index, length in zip(position, step, strict=True))


def test_the_papers_directions_are_the_eight_of_reading_order():
    assert DIRECTIONS == ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def test_volumes_have_6_neighbours_or_26_and_thick_slices_none_across():
    assert (len(FACES), len(CORNERS), len(IN_SLICES)) == (6, 26, 4)
    assert all(step[0] == 0 for step in IN_SLICES)


@every_neighbourhood
def test_opposite_direction_is_the_negative_step(directions):
    assert all(opposite(step) == other for step, other in zip(directions, reversed(directions), strict=True))


def test_connectivity_map_equals_the_table_written_by_hand():
    expected = torch.zeros(8, 5, 5)
    for (row, column), agreeing in AGREEMENT_BY_HAND.items():
        for step in agreeing:
            expected[DIRECTIONS.index(step), row, column] = 1
    assert torch.equal(connectivity_map(MASK.float()[None, None])[0, 0], expected)


@every_neighbourhood
@given(st.data())
def test_shift_moves_every_group_of_channels_one_pixel_in_its_direction(directions, data):
    size = data.draw(small_masks(directions)).shape[2:]
    x = torch.rand(2, 3 * len(directions), *size)
    shifted = shift_groups(x, directions)
    for d, step in enumerate(directions):
        group = slice(3 * d, 3 * d + 3)
        for position in positions(size):
            source = moved(position, opposite(step))
            expected = x[:, group, *source] if is_inside(source, size) else torch.zeros(2, 3)
            assert torch.equal(shifted[:, group, *position], expected)


@every_neighbourhood
def test_shift_there_and_back_restores_the_interior(directions):
    dimensions = len(directions[0])
    x, interior = torch.rand(2, 3, *(5, 6, 4)[:dimensions]), (..., *[slice(1, -1)] * dimensions)
    for step in directions:
        assert torch.equal(move(move(x, step), opposite(step))[interior], x[interior])


@given(masks())
def test_rotating_the_mask_permutes_the_connectivity_channels(mask):
    # rot90 (counter-clockwise) sends the step (dy, dx) to (-dx, dy)
    permutation = [DIRECTIONS.index((dx, -dy)) for dy, dx in DIRECTIONS]
    rotated_map = connectivity_map(mask).rot90(1, (-2, -1))[:, :, permutation]
    assert torch.equal(connectivity_map(mask.rot90(1, (-2, -1))), rotated_map)


@given(masks(FACES, 4))
def test_exchanging_two_axes_of_a_volume_permutes_the_connectivity_channels(mask):
    permutation = [FACES.index((y, z, x)) for z, y, x in FACES]
    exchanged = connectivity_map(mask, FACES).transpose(-3, -2)[:, :, permutation]
    assert torch.equal(connectivity_map(mask.transpose(-3, -2), FACES), exchanged)


@every_neighbourhood
@given(st.data())
def test_voting_restores_mask_without_isolated_pixels(directions, data):
    connected = connectivity_map(data.draw(small_masks(directions)), directions)
    mask = connected.amax(2)  # isolated pixels have no connectivity to vote with
    votes = directional_vote(certain(connectivity_map(mask, directions)), "max", directions)
    assert torch.equal((votes > 0).float(), mask)


@every_neighbourhood
@given(st.data())
def test_votes_equal_products_of_probabilities(directions, data):
    mask = data.draw(small_masks(directions))
    size = mask.shape[2:]
    connectivity = torch.randn(*mask.shape[:2], len(directions), *size, dtype=torch.float64)
    p = connectivity.sigmoid()
    expected = torch.zeros_like(p)
    for d, step in enumerate(directions):
        for position in positions(size):
            neighbour = moved(position, step)
            if is_inside(neighbour, size):
                expected[:, :, d, *position] = p[:, :, d, *position] * p[:, :, -1 - d, *neighbour]
    votes = pair_votes(connectivity, directions)
    torch.testing.assert_close(every_direction(votes.log_vote, -torch.inf, directions).exp(), expected)
    inside = connectivity_map(torch.ones_like(mask), directions)
    torch.testing.assert_close(
        every_direction(votes.log_no_vote, -torch.inf, directions).exp(), (1 - expected) * inside
    )

    for vote in (directional_vote(connectivity, "max", directions), vote_of_pairs(votes, "max", directions)):
        torch.testing.assert_close(vote.sigmoid(), expected.amax(2))
    mean = directional_vote(connectivity, "mean", directions)
    torch.testing.assert_close(mean.sigmoid(), expected.sum(2) / inside.sum(2))


@every_neighbourhood
@pytest.mark.parametrize("voting", ["max", "mean"])
def test_a_full_mask_is_voted_full_up_to_the_border(voting, directions):
    full = connectivity_map(torch.ones(1, 1, *(4, 5, 3)[: len(directions[0])]), directions)
    votes = directional_vote(certain(full), voting, directions).sigmoid()
    torch.testing.assert_close(votes, torch.ones_like(votes))


@pytest.mark.parametrize("voting", ["max", "mean"])
@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_votes_and_gradients_are_finite_for_extreme_logits(voting, value):
    connectivity = torch.full((1, 1, 8, 4, 4), value, requires_grad=True)
    votes = directional_vote(connectivity, voting)
    votes.sum().backward()
    assert votes.isfinite().all()
    assert connectivity.grad.isfinite().all()


def test_unknown_voting_is_refused():
    with pytest.raises(ValueError, match=r"'median'.*'max' or 'mean'"):
        directional_vote(torch.zeros(1, 1, 8, 2, 2), "median")


@pytest.mark.slow
def test_compiled_voting_has_the_same_values_and_gradients():
    connectivity = torch.randn(2, 2, 8, 9, 11, requires_grad=True)
    expected = directional_vote(connectivity)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), connectivity)
    votes = torch.compile(directional_vote, fullgraph=True)(connectivity)  # inductor
    (gradient,) = torch.autograd.grad(votes.square().sum(), connectivity)
    torch.testing.assert_close(votes, expected)
    torch.testing.assert_close(gradient, expected_gradient)
