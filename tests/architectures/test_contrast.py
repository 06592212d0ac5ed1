"""Proves: SID and CDFA compute the paper's equations, and attend with weights that sum to 1."""

import pytest
import torch
from support.references import literal_aggregation, literal_aggregation_of_volumes
from torch import nn

from nnunet_plugins.architectures.layers.contrast import CDFA, SID, AuxiliaryHead


@pytest.mark.parametrize(("size", "window"), [((7, 9), 3), ((7, 9), 5), ((3, 4, 5), 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cdfa_is_that_of_equations_11_to_14(size, window, dtype):
    torch.manual_seed(0)
    positions = window ** len(size)
    conv_op, aggregate = (
        (nn.Conv2d, literal_aggregation) if len(size) == 2 else (nn.Conv3d, literal_aggregation_of_volumes)
    )
    cdfa = CDFA(conv_op, 6, 8, window, num_heads=2).to(dtype)
    x, foreground, background = (torch.randn(2, c, *size, dtype=dtype, requires_grad=True) for c in (6, 8, 8))

    def literal(x, foreground, background):
        values = cdfa.value(cdfa.before(x)).reshape(2, 2, 4, *size)
        a_fg, a_bg = (
            linear(f).reshape(2, 2, positions, positions, *size).softmax(3)  # eq. 12
            for linear, f in ((cdfa.foreground, foreground), (cdfa.background, background))
        )
        return cdfa.after(cdfa.project(aggregate(values, a_fg, a_bg).reshape(2, 8, *size)))

    results = []
    for function in (cdfa, literal):
        y = function(x, foreground, background)
        inputs = [x, foreground, background, *cdfa.parameters()]
        results.append([y, *torch.autograd.grad((y * torch.arange(size[-1], dtype=dtype)).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_attention_of_a_window_sums_to_1():
    cdfa = CDFA(nn.Conv2d, 4, 4, 3, num_heads=2)
    attention = cdfa.attention(torch.randn(1, 2 * 81, 5, 6))
    assert attention.shape == (1, 2, 9, 9, 5, 6)
    torch.testing.assert_close(attention.sum(3), torch.ones(1, 2, 9, 5, 6))


def test_each_head_of_sid_reads_its_own_branch():
    torch.manual_seed(0)
    sid = SID(nn.Conv2d, 16, 8).eval()
    f4, sizes = torch.randn(1, 16, 4, 4), [(8, 8), (16, 16), (32, 32), (64, 64)]
    contrast = sid(f4)
    masks = sid.masks(f4, *contrast, sizes)
    assert masks.shape == (1, 3, 64, 64)
    for index, region in enumerate(("foreground", "background", "uncertainty")):
        expected = sid.heads[region](sid.branches[region](f4), sizes)
        torch.testing.assert_close(masks[:, index : index + 1], expected)
    torch.testing.assert_close(contrast[0], sid.branches["foreground"](f4))
    torch.testing.assert_close(contrast[1], sid.branches["background"](f4))


def test_auxiliary_head_grows_to_the_size_of_the_image():
    head = AuxiliaryHead(nn.Conv2d, 8)
    assert head(torch.randn(2, 8, 2, 3), [(4, 6), (8, 12), (16, 24), (32, 48)]).shape == (2, 1, 32, 48)
