"""Proves: tokens, positions and attention are the published formulas, and CASNet's transformer fusion uses them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.tokens import (
    AttentionBlock,
    SelfAttention,
    pool_to_grid,
    sinusoidal_positions,
    token_grid,
)
from nnunet_plugins.architectures.layers.transformer_fusion import TransformerFusion


@pytest.mark.parametrize("context_length", [None, 3])
def test_attention_is_softmax_of_scaled_products(context_length):
    torch.manual_seed(0)
    attention, tokens = SelfAttention(32), torch.randn(2, 5, 32)
    context = None if context_length is None else torch.randn(2, context_length, 32)
    keys, values = attention.key_value(tokens if context is None else context).chunk(2, -1)
    heads = []
    for q, k, v in zip(*(x.split(4, -1) for x in (attention.query(tokens), keys, values)), strict=True):
        heads.append((q @ k.transpose(1, 2) / math.sqrt(4)).softmax(-1) @ v)
    torch.testing.assert_close(attention(tokens, context), attention.projection(torch.cat(heads, -1)))


def test_a_block_adds_its_mixer_and_its_perceptron_to_the_tokens():
    torch.manual_seed(0)
    block, tokens, context = AttentionBlock(16, SelfAttention(16)), torch.randn(2, 5, 16), 3 * torch.randn(2, 7, 16)
    for module in (block.norm, block.perceptron[0]):
        nn.init.normal_(module.weight)
    for given_context in (None, context):
        arguments = [block.norm(x) for x in (tokens, given_context) if x is not None]
        expected = tokens + block.mixer(*arguments)
        expected = expected + block.perceptron(expected)
        torch.testing.assert_close(block(tokens, given_context), expected)


def test_positions_by_hand():
    codes = sinusoidal_positions((2, 2), (1.0, 2.0), torch.empty(4, 8))
    rates = (1.0, 10000**-0.5)
    expected = []
    for row in (0.5, 1.5):
        for column in (1.0, 3.0):
            code = []
            for position in (row, column):
                code += [math.sin(position * r) for r in rates] + [math.cos(position * r) for r in rates]
            expected.append(code)
    torch.testing.assert_close(codes, torch.tensor(expected))


@given(st.lists(st.integers(1, 700), min_size=2, max_size=3), st.integers(8, 600))
def test_a_token_grid_is_within_its_bound_and_no_coarser_than_needed(size, bound):
    grid = token_grid(size, bound)
    assert math.prod(grid) <= bound
    assert all(1 <= cells <= length for cells, length in zip(grid, size, strict=True))
    assert grid == tuple(size) if math.prod(size) <= bound else math.prod(grid) > bound / 2


def test_pooling_to_a_grid_takes_the_mean_of_each_cell():
    x = torch.arange(24.0).view(1, 1, 4, 6)
    expected = torch.tensor([[x[0, 0, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean() for j in (0, 1)] for i in (0, 1)])
    assert torch.equal(pool_to_grid(x, (2, 2))[0, 0], expected)
    assert pool_to_grid(x, (4, 6)) is x


def test_transformer_fusion_step_by_step():
    """Two modalities, a bottleneck of 2 x 2, and a finer level of 4 x 4 that is pooled to four tokens too."""
    torch.manual_seed(0)
    fusion = TransformerFusion(nn.Conv2d, 2, (8, 16), [(1, 1), (2, 2)], 24, max_tokens=4)
    fine, deep = [torch.randn(1, 8, 4, 4) for _ in range(2)], [torch.randn(1, 16, 2, 2) for _ in range(2)]
    positions = sinusoidal_positions((2, 2), (1.0, 1.0), torch.empty(4, 16))  # of both: the fine cells are as long
    tokens = [m.flatten(2).mT + positions + fusion.modality[i] for i, m in enumerate(deep)]
    tokens = fusion.fusion(torch.cat(tokens, 1))
    context = [fusion.to_context[0](F.avg_pool2d(m, 2).flatten(2).mT) + positions for m in fine]
    tokens = fusion.hierarchy[0](tokens, torch.cat(context, 1))
    maps = [tokens[:, 4 * i : 4 * i + 4].mT.reshape(1, 16, 2, 2) + deep[i] for i in range(2)]
    expected = fusion.merge(torch.cat(maps, 1))
    torch.testing.assert_close(fusion([fine, deep]), expected, rtol=1e-4, atol=1e-5)


def test_unpooled_scales_have_positions_in_voxels_of_the_deepest():
    fusion = TransformerFusion(nn.Conv2d, 1, (8, 16), [(1, 1), (2, 4)], 24)
    fine, deep = torch.zeros(1, 16, 4, 8), torch.zeros(1, 16, 2, 2)
    tokens, grid = fusion.tokens([fine], -2)
    assert grid == (4, 8)
    torch.testing.assert_close(tokens[0], sinusoidal_positions((4, 8), (0.5, 0.25), tokens))
    tokens, _ = fusion.tokens([deep], -1)
    torch.testing.assert_close(tokens[0], sinusoidal_positions((2, 2), (1.0, 1.0), tokens))
