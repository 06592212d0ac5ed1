"""Proves: DCSNet's multiscale feature aggregation is section 3.3 of the paper, and gives logits of every level."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures.layers.msfa import MSFA, LevelAttention, MeanFusion, PixelFusion

CHANNELS = 16
NARROW = {"features": CHANNELS, "widths": (8, 16, 24, 32), "fused_channels": 8}


def test_multiply_accumulates_of_a_box():
    """The numbers of docs/dcsnet.md; the paper does not say how many boxes its figures count."""
    counts = {}
    for base_size in (32, 64, 128):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            MSFA(1, base_size)([torch.empty(1, 256, base_size >> level, base_size >> level) for level in range(4)])
        counts[base_size] = counter.get_total_flops() / 2e9
    print(counts)
    assert counts[64] == pytest.approx(4 * counts[32], rel=0.1) and counts[128] == pytest.approx(
        4 * counts[64], rel=0.1
    )


def test_tokens_are_patches_of_all_levels_with_positions_and_levels(monkeypatch):
    """Tokens are those of eq. 7, and every level gets its own tokens back, at their places."""
    torch.manual_seed(0)
    attention = LevelAttention((8, 8, 16, 16), grid=3, channels=CHANNELS).eval()
    monkeypatch.setattr(attention, "transformer", nn.Identity())
    encoded = [torch.randn(2, c, 3 * p, 3 * p) for c, p in ((8, 8), (8, 4), (16, 2), (16, 1))]
    for level, (before, after) in enumerate(zip(encoded, attention(encoded), strict=True)):
        patch = before.shape[-1] // 3
        token, position = (1, 2), 1 * 3 + 2
        rows, columns = (slice(patch * i, patch * (i + 1)) for i in token)
        projection = attention.tokens[level]
        expected = projection.weight.flatten(1) @ before[0, :, rows, columns].flatten() + projection.bias
        expected = expected + attention.positions[level, position] + attention.levels[level, 0]
        given = attention.projections[level](expected[None, :, None, None])[0, :, 0, 0]
        middle = (0, slice(None), *(patch * i + patch // 2 for i in token))
        if patch == 1:  # elsewhere it is blended with its neighbours
            torch.testing.assert_close(after[middle] - before[middle], given)
        else:
            blended = F.interpolate(added_of(attention, encoded, level), scale_factor=patch, mode="bilinear")
            torch.testing.assert_close(after - before, blended, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(added_of(attention, encoded, level)[0, :, *token], given, rtol=1e-4, atol=1e-5)


def added_of(attention, encoded, level):
    """Compute what a level receives for each token if the transformer is the identity."""
    embeddings = (attention.positions[level] + attention.levels[level]).T.view(1, CHANNELS, 3, 3)
    return attention.projections[level](attention.tokens[level](encoded[level]) + embeddings)


def test_every_token_of_a_box_has_a_position_of_its_own():
    with torch.device("meta"):
        assert MSFA(1).attention.positions.shape == (4, 64, 256)  # 256 tokens


def test_positions_of_other_grids_are_interpolated(monkeypatch):
    """Whole images have more tokens than boxes, along either axis."""
    torch.manual_seed(0)
    attention = LevelAttention((8, 8, 8, 8), grid=2, channels=CHANNELS).eval()
    seen = []
    monkeypatch.setattr(attention, "transformer", nn.Identity())
    attention.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for parameter in attention.tokens.parameters():
            parameter.zero_()
        attention([torch.zeros(1, 8, 4 * p, 6 * p) for p in (8, 4, 2, 1)])
    for tokens, own, level in zip(seen[0][0].chunk(4), attention.positions, attention.levels, strict=True):
        expected = F.interpolate(own.T.reshape(1, CHANNELS, 2, 2), size=(4, 6), mode="bilinear")[0].flatten(1).T
        torch.testing.assert_close(tokens, expected + level)


def test_weights_of_the_first_versions_whose_levels_shared_positions_mean_the_same():
    torch.manual_seed(0)
    old, new = (LevelAttention((8, 8, 8, 8), grid=2, channels=CHANNELS).eval() for _ in range(2))
    shared = old.positions.detach()[0]
    state = old.state_dict() | {"positions": shared}
    old.positions.data[:] = shared
    new.load_state_dict(state)
    assert state["positions"] is shared
    encoded = [torch.randn(1, 8, 2 * p, 2 * p) for p in (8, 4, 2, 1)]
    assert all(map(torch.equal, new(encoded), old(encoded)))


def test_tokens_of_all_levels_attend_to_each_other():
    torch.manual_seed(0)
    attention = LevelAttention((8, 8, 8, 8), grid=2, channels=CHANNELS).eval()
    encoded = [torch.randn(1, 8, 2 * p, 2 * p, requires_grad=True) for p in (8, 4, 2, 1)]
    attention(encoded)[3][..., 0, 0].sum().backward()
    assert all((x.grad != 0).all() for x in encoded[:3])


def test_fusion_is_a_weighted_mean_of_the_levels_in_every_pixel():
    torch.manual_seed(0)
    fusion, decoded = PixelFusion(8, 4), [torch.randn(2, 8, 5, 5) for _ in range(4)]
    logits = fusion.gate(torch.cat(decoded, 1))
    expected = torch.zeros(2, 8, 5, 5)
    for level in range(4):
        expected += logits.exp()[:, level, None] / logits.exp().sum(1, keepdim=True) * decoded[level]
    torch.testing.assert_close(fusion(decoded), expected)
    torch.testing.assert_close(MeanFusion()(decoded), sum(decoded) / 4)


def literal_msfa(head, levels):
    """Compute section 3.3 step by step: encode, attend, decode from coarse to fine, refine, fuse, refine, predict."""
    encoded = []
    for block, x in zip(head.encoders, levels, strict=True):
        x = block.projection(x)
        encoded.append(F.relu(x + block.residual(x)))
    if head.use_msfa:
        encoded = head.attention(encoded)
    decoded = [head.bottleneck(encoded[3])]
    for level in (2, 1, 0):
        above = F.interpolate(decoded[0], scale_factor=2, mode="bilinear")
        skip = encoded[level]
        if head.use_msfa:
            skip = torch.sigmoid(head.gates[level](torch.cat((skip, above), 1))) * skip
        decoded = [head.decoders[level](torch.cat((skip, above), 1)), *decoded]
    refined = [
        F.interpolate(refine(x), size=levels[0].shape[2:], mode="bilinear")
        for refine, x in zip(head.refinements, decoded, strict=True)
    ]
    fused = head.refinement(head.fusion(refined))
    maps = [layer(x) for layer, x in zip(head.seg_layers, (fused, *refined, fused), strict=True)]
    return [x - x[:, :1] for x in maps[:5]], maps[5]


@pytest.mark.parametrize("use_msfa", [True, False])
def test_the_head_is_what_the_paper_describes(use_msfa):
    torch.manual_seed(0)
    head = MSFA(3, 32, use_msfa=use_msfa, **NARROW).eval()
    levels = [torch.randn(2, CHANNELS, 32 >> level, 32 >> level) for level in range(4)]
    segments = head(levels)
    expected, edges = literal_msfa(head, levels)
    for ours, theirs in zip((segments.logits, *segments.levels, segments.edges), (*expected, edges), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_transformer_has_four_layers_of_eight_heads():
    with torch.device("meta"):
        *layers, _ = MSFA(1).attention.transformer
    sizes = [(layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.dropout.p) for layer in layers]
    assert sizes == [(256, 8, 0.2)] * 4


def test_a_fifth_of_the_fused_channels_is_left_out_in_training_alone():
    torch.manual_seed(0)
    head = MSFA(2, 32, use_msfa=False, features=CHANNELS, widths=(8, 8, 8, 8), fused_channels=64)
    levels, seen = [torch.randn(8, CHANNELS, 32 >> level, 32 >> level) for level in range(4)], []
    head.seg_layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    head.train()(levels)
    head.eval()(levels)
    left_out = [(x == 0).all(3).all(2).float().mean().item() for x in seen]
    assert left_out[1] < 0.02  # ReLU's
    assert left_out[0] - left_out[1] == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("use_msfa", [True, False])
def test_every_level_and_the_fusion_give_logits_in_the_finest_size(use_msfa):
    segments = MSFA(3, 32, use_msfa=use_msfa, **NARROW)(
        [torch.randn(2, CHANNELS, 32 >> level, 32 >> level) for level in range(4)]
    )
    assert [x.shape for x in (segments.logits, *segments.levels, segments.edges)] == [(2, 3, 32, 32)] * 6
