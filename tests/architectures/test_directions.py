"""Proves: DCFFSNet's shifts, connectivity maps and votes equal plain loops and numbers written by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.architectures.layers.directions import (
    DIRECTIONS,
    directional_vote,
    every_direction,
    move,
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


def connectivity_map(masks: torch.Tensor) -> torch.Tensor:
    """Compute ``conn(Y)`` for all eight directions."""
    return every_direction(pair_masks(masks), 0.0)


def certain(connectivity: torch.Tensor) -> torch.Tensor:
    """Turn 0 and 1 into logits of certain probabilities."""
    return torch.where(connectivity > 0.5, 40.0, -40.0)


def masks(min_size: int = 2, max_size: int = 9) -> st.SearchStrategy[torch.Tensor]:
    """Draw random binary masks ``(1, 2, H, W)``."""
    size = st.integers(min_size, max_size)
    return st.builds(
        lambda h, w, seed: (torch.rand(1, 2, h, w, generator=torch.Generator().manual_seed(seed)) > 0.5).float(),
        size,
        size,
        st.integers(0, 10**6),
    )


def test_opposite_direction_is_the_negative_step():
    assert all(DIRECTIONS[7 - d] == (-dy, -dx) for d, (dy, dx) in enumerate(DIRECTIONS))


def test_connectivity_map_equals_the_table_written_by_hand():
    expected = torch.zeros(8, 5, 5)
    for (row, column), agreeing in AGREEMENT_BY_HAND.items():
        for step in agreeing:
            expected[DIRECTIONS.index(step), row, column] = 1
    assert torch.equal(connectivity_map(MASK.float()[None, None])[0, 0], expected)


@given(masks())
def test_shift_moves_every_group_of_channels_one_pixel_in_its_direction(mask):
    x = torch.rand(2, 24, *mask.shape[2:])
    shifted = shift_groups(x)
    height, width = mask.shape[2:]
    for d, (dy, dx) in enumerate(DIRECTIONS):
        group = slice(3 * d, 3 * d + 3)
        for row in range(height):
            for column in range(width):
                r, c = row - dy, column - dx
                outside = not (0 <= r < height and 0 <= c < width)
                expected = torch.zeros(2, 3) if outside else x[:, group, r, c]
                assert torch.equal(shifted[:, group, row, column], expected)


@pytest.mark.parametrize("step", DIRECTIONS)
def test_shift_there_and_back_restores_the_interior(step):
    x = torch.rand(2, 3, 5, 6)
    back = move(move(x, step), (-step[0], -step[1]))
    assert torch.equal(back[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])


@given(masks())
def test_rotating_the_mask_permutes_the_connectivity_channels(mask):
    # rot90 (counter-clockwise) sends the step (dy, dx) to (-dx, dy)
    permutation = [DIRECTIONS.index((dx, -dy)) for dy, dx in DIRECTIONS]
    rotated_map = connectivity_map(mask).rot90(1, (-2, -1))[:, :, permutation]
    assert torch.equal(connectivity_map(mask.rot90(1, (-2, -1))), rotated_map)


@given(masks())
def test_voting_restores_mask_without_isolated_pixels(mask):
    mask = connectivity_map(mask).amax(2)  # isolated pixels have no connectivity to vote with
    votes = directional_vote(certain(connectivity_map(mask)), "max")
    assert torch.equal((votes > 0).float(), mask)


@given(masks())
def test_votes_equal_products_of_probabilities(mask):
    connectivity = torch.randn(*mask.shape[:2], 8, *mask.shape[2:], dtype=torch.float64)
    p = connectivity.sigmoid()
    expected = torch.zeros_like(p)
    height, width = mask.shape[2:]
    for d, (dy, dx) in enumerate(DIRECTIONS):
        for row in range(max(0, -dy), min(height, height - dy)):
            for column in range(max(0, -dx), min(width, width - dx)):
                expected[..., d, row, column] = p[..., d, row, column] * p[..., 7 - d, row + dy, column + dx]
    votes = pair_votes(connectivity)
    torch.testing.assert_close(every_direction(votes.log_vote, -torch.inf).exp(), expected)
    inside = connectivity_map(torch.ones_like(mask))
    torch.testing.assert_close(every_direction(votes.log_no_vote, -torch.inf).exp(), (1 - expected) * inside)

    for vote in (directional_vote(connectivity, "max"), vote_of_pairs(votes, "max")):
        torch.testing.assert_close(vote.sigmoid(), expected.amax(2))
    torch.testing.assert_close(directional_vote(connectivity, "mean").sigmoid(), expected.sum(2) / inside.sum(2))


@pytest.mark.parametrize("voting", ["max", "mean"])
def test_a_full_mask_is_voted_full_up_to_the_border(voting):
    full = connectivity_map(torch.ones(1, 1, 4, 5))
    votes = directional_vote(certain(full), voting).sigmoid()
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
