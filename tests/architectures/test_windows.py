"""Proves: aggregation of windows equals the literal unfold, two products and fold, in values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.references import literal_aggregation, literal_aggregation_of_volumes
from torch.nn import functional as F

from nnunet_plugins.architectures.layers.windows import aggregate_windows, opaque_aggregation, unfold_and_fold


def value_and_gradients(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, inputs, weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("window", "size"), [(3, (9, 12)), (3, (1, 1)), (3, (2, 7)), (5, (8, 6)), (5, (1, 2)), (7, (3, 4)), (1, (4, 4))]
)
def test_values_and_gradients_equal_those_of_unfold_and_fold(window, size, dtype):
    torch.manual_seed(0)
    members = window**2
    values = torch.randn(2, 4, 3, *size, dtype=dtype)
    outer, inner = torch.randn(2, 2, 4, members, members, *size, dtype=dtype).softmax(4).unbind()
    ours, literal = (value_and_gradients(f, values, outer, inner) for f in (aggregate_windows, literal_aggregation))
    exported = unfold_and_fold(values, outer, inner)
    for mine, theirs in zip([*ours, exported], [*literal, literal[0]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("window", "size"), [(3, (4, 5, 3)), (3, (1, 1, 1)), (3, (1, 6, 2)), (5, (2, 3, 4))])
def test_values_and_gradients_in_volumes_equal_those_of_cubes(window, size, dtype):
    torch.manual_seed(0)
    values = torch.randn(2, 2, 3, *size, dtype=dtype)
    outer, inner = torch.randn(2, 2, 2, window**3, window**3, *size, dtype=dtype).softmax(4).unbind()
    ours, exported, literal = (
        value_and_gradients(f, values, outer, inner)
        for f in (aggregate_windows, unfold_and_fold, literal_aggregation_of_volumes)
    )
    for mine, theirs in zip([*ours, *exported], [*literal, *literal], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(("positions", "size"), [(9, (3, 2)), (27, (2, 1, 2))])
def test_gradients_equal_finite_differences(positions, size):
    torch.manual_seed(0)
    values, outer, inner = (
        torch.randn(1, 1, *shape, *size, dtype=torch.float64, requires_grad=True)
        for shape in ((2,), (positions, positions), (positions, positions))
    )
    assert torch.autograd.gradcheck(aggregate_windows, (values, outer, inner), fast_mode=positions == 27)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 5]))
def test_identity_matrices_count_the_windows_around_a_position(height, width, window):
    values = torch.rand(1, 1, 2, height, width, dtype=torch.float64)
    identity = torch.eye(window**2, dtype=torch.float64)[:, :, None, None].expand(-1, -1, height, width)[None, None]
    windows = F.conv2d(
        torch.ones(1, 1, height, width, dtype=torch.float64),
        torch.ones(1, 1, window, window, dtype=torch.float64),
        padding=window // 2,
    )
    torch.testing.assert_close(aggregate_windows(values, identity, identity), values * windows)


def test_nothing_unfolded_is_kept_for_the_backward_pass():
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x
        return x

    values = torch.randn(1, 4, 32, 16, 16, requires_grad=True)
    outer, inner = (torch.rand(1, 4, 9, 9, 16, 16, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        aggregate_windows(values, outer, inner)
    assert sum(x.numel() for x in kept.values()) == values.numel() + outer.numel() + inner.numel()


def test_compiled_aggregation_is_one_operator_with_the_same_values_and_gradients():
    """Its hundreds of operations would take a compiler minutes."""
    sizes = []

    def backend(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph

    torch.manual_seed(0)
    values = torch.randn(2, 4, 3, 6, 5)
    outer, inner = torch.randn(2, 2, 4, 9, 9, 6, 5).softmax(4).unbind()
    for used in (backend, "aot_eager"):
        torch.compiler.reset()
        compiled = torch.compile(aggregate_windows, backend=used, fullgraph=True)
        pairs = zip(*(value_and_gradients(f, values, outer, inner) for f in (compiled, aggregate_windows)), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs)
    assert sizes == [5]  # three inputs, the operator, the output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_operator_for_compilers_is_what_it_says(dtype):
    values = torch.randn(2, 4, 5, 3, 2, dtype=dtype).permute(0, 4, 3, 1, 2).requires_grad_()  # channels last
    outer, inner = (torch.randn(2, 2, 9, 9, 4, 5, dtype=dtype, requires_grad=True) for _ in range(2))
    torch.library.opcheck(opaque_aggregation, (values, outer, inner))
