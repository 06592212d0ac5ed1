"""Proves: DLKUNet has its published size, computes the equations, follows nnU-Net's plans, and cannot overflow."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.architectures.dlkunet import (
    EBlock,
    Kernels,
    LargeKernelAttention,
    SeparableConv,
)

PUBLISHED = {  # parameters for 1 channel and 9 classes, the same in millions, GMACs at 1x224x224
    "S": (1_131_379, 1.131, 10.28),
    "M": (4_494_451, 4.494, 14.39),
    "L": (17_708_659, 17.709, 18.40),
}


KERNELS = Kernels((3, 3), (5, 5), (7, 7))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(variant):
    exact, millions, gmacs = PUBLISHED[variant]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = DLKUNet(1, 9, variant=variant).eval()
        network(torch.empty(1, 1, 224, 224))
    macs = counter.get_total_flops() / 2
    print(f"DLKUNet-{variant}: {parameters(network)} parameters, {macs / 1e9:.3f} GMACs")
    assert parameters(network) == exact
    assert round(exact / 1e6, 3) == millions
    assert macs == pytest.approx(gmacs * 1e9, rel=0.01)


# Depthwise weights of S: the two convolutions of a block have 1 + 96, 96 + 192, 192 + 384 channels in the encoder and
# 384 + 192, 192 + 96 in the decoder, 1825 in all; each kernel of the attention 96 + 192 + 384 + 192 + 96 = 960.
@pytest.mark.parametrize(
    ("ablation", "difference"),
    [
        ({"depthwise_kernel": 5}, (25 - 9) * 1825),
        ({"depthwise_kernel": 7}, (49 - 9) * 1825),
        ({"large_kernels": (3, 7)}, (9 - 25) * 960),
        ({"large_kernels": (5, 5)}, (25 - 49) * 960),
    ],
    ids=str,
)
def test_ablations_of_the_kernels_change_the_depthwise_weights_alone(ablation, difference):
    with torch.device("meta"):
        assert parameters(DLKUNet(1, 9, variant="S", **ablation)) - 1_131_379 == difference


def test_width_and_number_of_blocks():
    with torch.device("meta"):
        network = DLKUNet(1, 2, variant="M", base_channels=64)
    assert [block.attention.pointwise.out_channels for block in network.encoder] == [64, 128, 256, 512]
    assert [dfb.block.attention.pointwise.out_channels for dfb in network.decoder] == [256, 128, 64]


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_separable_convolution_computes_equation_1(conv_op):
    torch.manual_seed(0)
    dimensions = 2 if conv_op is nn.Conv2d else 3
    layer = SeparableConv(conv_op, 3, 5, (3,) * dimensions)
    depthwise, pointwise, norm, _ = layer
    x = torch.randn(2, 3, *(7, 6, 5)[:dimensions])
    conv = F.conv3d if dimensions == 3 else F.conv2d
    channels = [
        conv(x[:, c : c + 1], depthwise.weight[c : c + 1], depthwise.bias[c : c + 1], padding=1) for c in range(3)
    ]
    mixed = torch.einsum("oc,bc...->bo...", pointwise.weight.flatten(1), torch.cat(channels, 1))
    expected = norm(mixed + pointwise.bias.view(1, -1, *[1] * dimensions)).relu()
    torch.testing.assert_close(layer(x), expected)


def test_large_kernel_attention_computes_equations_3_and_4():
    torch.manual_seed(0)
    attention = LargeKernelAttention(nn.Conv2d, 2, KERNELS).double()
    x = torch.randn(1, 2, 12, 11, dtype=torch.float64)
    near = torch.stack([depthwise_by_hand(x[0, c], attention.depthwise, c, dilation=1) for c in range(2)])
    far = torch.stack([depthwise_by_hand(near[c], attention.spatial, c, dilation=3) for c in range(2)])
    weight, bias = attention.pointwise.weight[:, :, 0, 0], attention.pointwise.bias
    large_kernel = torch.stack([sum(weight[o, c] * far[c] for c in range(2)) + bias[o] for o in range(2)])
    torch.testing.assert_close(attention(x)[0], x[0] * large_kernel)


def depthwise_by_hand(image: torch.Tensor, conv: nn.Module, channel: int, dilation: int) -> torch.Tensor:
    """Convolve by summing over the kernel tap by tap, with zeros outside the image."""
    kernel, bias = conv.weight[channel, 0], conv.bias[channel]
    reach = dilation * (len(kernel) // 2)
    padded = F.pad(image, [reach] * 4)
    height, width = image.shape
    total = torch.zeros_like(image) + bias
    for row in range(len(kernel)):
        for column in range(len(kernel)):
            y, x = dilation * row, dilation * column
            total = total + kernel[row, column] * padded[y : y + height, x : x + width]
    return total


def test_pooling_and_kernels_follow_the_plans():
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    kernel_sizes = [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    network = DLKUNet(1, 2, variant="M", base_channels=4, conv_op=nn.Conv3d, strides=strides, kernel_sizes=kernel_sizes)
    assert network.total_stride == (4, 8, 8)  # four blocks use the first four
    spatial = [block.attention.spatial.kernel_size for block in network.encoder]
    assert spatial == [(1, 7, 7), (1, 7, 7), (7, 7, 7), (7, 7, 7)]
    assert [dfb.block.convolution[0][0].kernel_size for dfb in network.decoder] == [(3, 3, 3), (1, 3, 3), (1, 3, 3)]
    shapes = []
    for block in network.encoder:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    network(torch.randn(2, 1, 8, 32, 24))
    assert shapes == [(8, 32, 24), (8, 16, 12), (4, 8, 6), (2, 4, 3)]


def test_blocks_beyond_the_plans_pool_by_two():
    network = DLKUNet(1, 2, variant="L", base_channels=4, strides=[[1, 1], [1, 2], [2, 2]], kernel_sizes=[[3, 3]] * 3)
    assert network.total_stride == (8, 16)


@pytest.mark.parametrize("size", [(16, 16), (5, 37), (1, 1), (33, 20)])
def test_patches_that_pooling_does_not_divide_keep_their_size(size):
    network = DLKUNet(1, 2, variant="M", base_channels=4).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_block_is_two_convolutions_with_relu_and_attention():
    torch.manual_seed(0)
    block = EBlock(nn.Conv2d, 3, 4, KERNELS)
    x = torch.randn(2, 3, 9, 8)
    z = x
    for depthwise, pointwise, norm, _ in block.convolution:
        z = norm(pointwise(depthwise(z))).relu()
    attention = block.attention
    torch.testing.assert_close(block(x), z * attention.pointwise(attention.spatial(attention.depthwise(z))))


def test_network_is_blocks_max_pooling_and_upsampling_to_the_skips():
    torch.manual_seed(0)
    network = DLKUNet(1, 2, variant="S", base_channels=4).eval()
    x = torch.randn(1, 1, 8, 22)  # 22 pixels, 11, and 5, from which come 10
    with torch.no_grad():
        e1 = network.encoder[0](x)
        e2 = EBlock.forward(network.encoder[1], F.max_pool2d(e1, 2))
        e3 = EBlock.forward(network.encoder[2], F.max_pool2d(e2, 2))
        assert e3.shape == (1, 16, 2, 5)
        dfb2, dfb1 = network.decoder
        d2 = dfb2.block(torch.cat((e2, F.pad(dfb2.upsample(e3), (0, 1))), 1))
        d1 = dfb1.block(torch.cat((e1, dfb1.upsample(d2)), 1))
        torch.testing.assert_close(network(x), network.reprojection(d1))


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_parts_give_what_their_concatenation_gives(conv_op):
    torch.manual_seed(0)
    dimensions = 2 if conv_op is nn.Conv2d else 3
    layer = SeparableConv(conv_op, 7, 4, (3,) * dimensions).double()
    whole = torch.randn(2, 7, *(6, 5, 4)[:dimensions], dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 4, *whole.shape[2:], dtype=torch.float64)
    inputs = (whole, *layer.parameters())
    results = [
        (y, *torch.autograd.grad(y, inputs, direction)) for y in (layer(whole), layer(*whole.split([2, 4, 1], 1)))
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_blocks_keep_no_map_that_the_backward_pass_does_not_need(mixed_precision):
    network = DLKUNet(1, 2, variant="S")
    image = torch.randn(5, 1, 12, 12)
    skips = [torch.randn(5, 96 * 2**depth, 12, 12) for depth in (0, 1)]
    below = [torch.randn(5, 192 * 2**depth, 6, 6) for depth in (0, 1)]
    kept = []
    calls = [
        *zip((partial(EBlock.forward, level) for level in network.encoder), (image, *skips), strict=True),
        *zip(network.decoder[::-1], below, skips, strict=True),
    ]
    for block, *inputs in calls:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision):
            kept.append(maps_kept(block, *(x.bfloat16() if mixed_precision else x for x in inputs)))
    # After every depthwise, pointwise and normalisation, where the first depthwise one of an encoder's block has one or
    # half the channels and that of a decoder's twice as many; after each convolution of the attention; in the decoder
    # the upsampled map. With a concatenation and torch's hardtanh, which copies its input, it would be 10, 10.5 and 14.
    assert kept == pytest.approx([8, 8.5, 8.5, 11, 11], abs=0.05)


def maps_kept(block: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> float:
    """Memory that autograd keeps of a batch of 5 besides inputs and output, in multiples of the output."""
    inputs = [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in inputs]
    kept = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] % 5 == 0:  # not a weight
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = block(*inputs)
    own = {x.untyped_storage().data_ptr() for x in (*inputs, output)}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own) / output.nbytes


def test_logits_are_clamped():
    network = DLKUNet(1, 2, variant="S", base_channels=4)
    network.reprojection.seg_layers[0].bias.data = torch.tensor([1e6, -1e6])
    with torch.no_grad():
        logits = network(torch.randn(2, 1, 16, 16))
    assert (logits[:, 0] == 1000).all() and (logits[:, 1] == -1000).all()


def test_high_contrast_gives_nan_only_without_saturation():
    torch.manual_seed(0)
    network = DLKUNet(1, 2, variant="L", base_channels=16)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(40):
        x = torch.randn(4, 1, 32, 32)
        target = (F.avg_pool2d(x, 9, 1, 4) > 0).long()[:, 0]
        optimizer.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimizer.step()
    network.eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        for contrast in (1, 4, 16, 1e4):
            logits = network(contrast * x)
            assert logits.isfinite().all() and logits.abs().max() <= network.max_logit
        for block in [*network.encoder, *(dfb.block for dfb in network.decoder)]:
            block.convolution[0][3], block.convolution[1][3] = nn.ReLU(), nn.ReLU()
        assert not network(16 * x).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "XL"}, "variant 'XL': choose one of S, M, L"),
        ({"depthwise_kernel": 4}, "no centre"),
        ({"large_kernels": (5, -7)}, "no centre"),
        ({"strides": [[2, 2], [2, 2]]}, "strides begin with"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        DLKUNet(1, 2, **wrong)
