"""Proves: ConDSeg and Net0 have the published sizes, compute the paper's figure, and train in two stages."""

import pytest
import timm
import torch
from support.fake_cuda import fake_cuda_autocast
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import ConDSeg, Net0
from nnunet_plugins.architectures.condseg import ConDSegOutput, Net0Head, PreEnhancement, SADecoder
from nnunet_plugins.architectures.layers.contrast import CDFA


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def gmacs(make, size=(3, 256, 256)):
    """Count multiply-accumulates without computing anything."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        make()(torch.zeros(1, *size))
    return counter.get_total_flops() / 2e9


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """Network of the published size, on the meta device."""
    with torch.device("meta"):
        return ConDSeg(3, 1, deep_supervision=True)


def test_published_number_of_parameters(published):
    assert millions(published) == pytest.approx(45.553, rel=0.01)
    assert millions(published) - millions(published.net0.head) == pytest.approx(45.553, rel=1e-4)
    assert millions(published.net0) == pytest.approx(8.663, rel=1e-4)


def test_published_number_of_parameters_of_every_part(published):
    def parts(modules):
        return [round(millions(module), 3) for module in modules]

    assert parts([published.net0.encoder]) == [8.543]
    assert parts(published.enhance) == [0.837, 1.55, 2.5, 4.401]
    assert parts([published.sid.branches, published.sid.heads]) == [15.979, 3.876]
    assert parts(fusion.prepare_foreground for fusion in published.fusions) == [0.148, 0.295, 0.443, 0.591]
    assert parts(fusion.prepare_background for fusion in published.fusions) == [0.148, 0.295, 0.443, 0.591]
    assert parts(fusion.cdfa for fusion in published.fusions) == [0.707, 0.855, 0.855, 0.855]
    assert parts(published.decoders) == [0.347, 0.347, 0.347]
    output = millions(published.fuse_sizes) + millions(published.refine) + millions(published.output)
    assert round(output, 3) == 0.599


def literal_net0_head(head, features, size):
    """Upsample every level first, then convolve at full resolution, as published."""
    levels = []
    for f, reduce, norm in zip(features, head.reduce, head.norms, strict=True):
        f = F.interpolate(f, size=size, mode="bilinear", align_corners=False)
        levels.append(F.relu(norm(reduce(f))))
    return head.seg_layers[0](torch.cat(levels, 1))


def test_published_multiply_accumulates(monkeypatch):
    assert gmacs(lambda: ConDSeg(3, 1, deep_supervision=True)) == pytest.approx(101.1, rel=0.03)
    assert gmacs(lambda: Net0(3, 1)) < 4.5
    monkeypatch.setattr(Net0Head, "forward", literal_net0_head)
    assert gmacs(lambda: Net0(3, 1)) == pytest.approx(12.08, rel=0.03)


def test_head_of_net0_equals_the_published_order_of_its_operations():
    torch.manual_seed(0)
    head = Net0Head(nn.Conv2d, (3, 5), 2, channels=64).double()
    features = [torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.randn(2, 5, 4, 6, dtype=torch.float64)]
    torch.testing.assert_close(head(features, (16, 24)), literal_net0_head(head, features, (16, 24)))


def test_inference_leaves_out_what_only_the_loss_needs():
    assert gmacs(lambda: ConDSeg(3, 1)) < 0.85 * gmacs(lambda: ConDSeg(3, 1, deep_supervision=True))


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_sa_decoder_is_a_chain_of_residuals():
    torch.manual_seed(0)
    decoder = SADecoder(nn.Conv2d, 16).eval()
    deep, shallow = torch.randn(1, 16, 3, 4), torch.randn(1, 16, 6, 8)
    c1 = decoder.reduce(torch.cat((F.interpolate(deep, size=(6, 8), mode="bilinear"), shallow), 1))
    c2 = F.relu(decoder.residuals[0](c1) + c1)
    c3 = F.relu(decoder.residuals[1](c2) + c2 + c1)
    c4 = F.relu(decoder.residuals[2](c3) + c3 + c2 + c1)
    torch.testing.assert_close(decoder(deep, shallow), decoder.gates(c4))


def test_pre_enhancement_sees_as_far_as_its_dilations():
    torch.manual_seed(0)
    enhance = PreEnhancement(nn.Conv2d, 3, 16).eval()
    x = torch.randn(1, 3, 40, 40)
    branches = [branch(x) for branch in enhance.branches]
    for branch, output, reach in zip(enhance.branches, branches, (0, 6, 12, 18), strict=True):
        convolution = branch[0]
        expected = F.conv2d(x, convolution.weight, padding=reach, dilation=reach or 1)
        torch.testing.assert_close(output, branch[1:](expected))
    residual = F.relu(enhance.fuse(torch.cat(branches, 1)) + enhance.shortcut(x))
    torch.testing.assert_close(enhance(x), enhance.gate(residual))


# ---- network ---------------------------------------------------------------------------------------------------------


def tiny(in_channels=3, num_classes=2, **kwargs):
    torch.manual_seed(0)
    narrow = {"backbone": "resnet10t", "channels": 32, "head_channels": 8}
    return ConDSeg(in_channels, num_classes, **narrow | kwargs)


def test_stage_1_is_net0_and_computes_nothing_else():
    network = tiny(deep_supervision=True).eval()
    x = torch.randn(1, 3, 40, 56)
    network.stage = 1
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = network(x)
    assert isinstance(outputs, ConDSegOutput) and outputs.decoupled is None
    with torch.no_grad(), FlopCounterMode(display=False) as net0s:
        torch.testing.assert_close(outputs.logits, network.net0(x))
    assert counter.get_total_flops() == net0s.get_total_flops()


def test_net0_computes_views_one_after_the_other():
    net0 = tiny().net0.train()
    views = torch.randn(3, 2, 3, 32, 40)
    expected = torch.cat([net0(views[:, 0]), net0(views[:, 1])])
    torch.testing.assert_close(net0(views), expected)


def test_stage_2_is_the_figure():
    """Figure 2 from left to right, with plain interpolations and the network's own parts."""
    network = tiny(deep_supervision=True)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
    network.double().eval()
    x = torch.randn(1, 3, 40, 56, dtype=torch.float64)

    def to(y, size):
        return F.interpolate(y, size=size, mode="bilinear", align_corners=False)

    f1, f2, f3, f4 = network.net0.encoder(F.pad(x, (0, 8, 0, 8)))  # 48x64, a multiple of 16
    e1, e2, e3, e4 = (enhance(f) for enhance, f in zip(network.enhance, (f1, f2, f3, f4), strict=True))
    fg, bg, uc = (network.sid.branches[region](f4) for region in ("foreground", "background", "uncertainty"))
    s3, s2, s1, s0 = (6, 8), (12, 16), (24, 32), (48, 64)

    def fuse(number, level, sizes):
        prepared = []
        for chain, y in (
            (network.fusions[number].prepare_foreground, fg),
            (network.fusions[number].prepare_background, bg),
        ):
            y = chain[0](y)
            for convolution, size in zip(chain[1:], sizes, strict=True):
                y = convolution(to(y, size))
            prepared.append(y)
        return network.fusions[number].cdfa(level, *prepared)

    fused4 = fuse(0, e4, [])
    fused3 = fuse(1, torch.cat((e3, to(fused4, s3)), 1), [s3])
    fused2 = fuse(2, torch.cat((e2, to(fused3, s2)), 1), [s3, s2])
    fused1 = fuse(3, torch.cat((e1, to(fused2, s1)), 1), [s3, s2, s1])
    large, medium, small = network.decoders
    decoded = [to(large(fused4, fused3), s1), to(medium(fused3, fused2), s1), small(fused2, fused1)]
    logits = network.output(network.refine(to(network.fuse_sizes(torch.cat(decoded, 1)), s0)))
    heads = network.sid.heads
    masks = [heads[r](y, [s3, s2, s1, s0]) for r, y in zip(heads, (fg, bg, uc), strict=True)]

    outputs = network(x)
    torch.testing.assert_close(outputs.logits.double(), logits[..., :40, :56], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs.decoupled, torch.cat(masks, 1)[..., :40, :56])
    weight = next(network.net0.encoder.parameters())
    ours, theirs = (
        torch.autograd.grad(y.double().square().sum(), weight)[0]
        for y in (torch.cat((outputs.logits, outputs.decoupled), 1), torch.cat((logits, *masks), 1)[..., :40, :56])
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_idle_parameters_get_gradients_of_zero_in_half_precision_too():
    """The sum of the logits' gradients overflows float16 here."""
    network = tiny(deep_supervision=True)
    for network.stage in (1, 2):
        idle = network.net0.head if network.stage == 2 else network.sid
        logits = torch.randn(2, 1, 64, 64, requires_grad=True)
        network.with_idle_parameters(logits.half()).backward(torch.full((2, 1, 64, 64), 60000.0))
        assert all(not p.grad.any() for p in idle.parameters())
        assert logits.grad.isfinite().all()
        network.zero_grad()


def test_feature_maps_stay_in_half_precision_under_cudas_autocast():
    with fake_cuda_autocast():
        network = tiny(deep_supervision=True)
        dtypes = {}
        for name, module in network.named_modules():
            if isinstance(module, CDFA | PreEnhancement | SADecoder):
                module.register_forward_hook(lambda m, i, y, name=name: dtypes.update({name: y.dtype}))
        outputs = network(torch.empty(2, 3, 64, 64))
    assert len(dtypes) == 4 + 4 + 3
    assert set(dtypes.values()) == {torch.float16}
    assert outputs.logits.dtype == outputs.decoupled.dtype == torch.float32  # biases, whose gradients are large


@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_that_a_stage_does_not_use_get_gradients_of_zeros(stage):
    network = tiny(channels=128, deep_supervision=True)  # gates of few channels may be closed for all
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # away from timm's residual branches of zeros
    network.stage = stage
    outputs = network(torch.randn(2, 3, 32, 32))
    sum(output.square().mean() for output in outputs if output is not None).backward()
    used = (
        ("net0.",) if stage == 1 else ("net0.encoder.", "enhance", "sid", "fusions", "decoders", "fuse", "ref", "out")
    )
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == name.startswith(used), name


def test_checkpoint_knows_its_stage():
    network, fresh = tiny(), tiny()
    network.stage = 1
    assert fresh.stage == 2
    fresh.load_state_dict(network.state_dict())
    assert fresh.stage == 1
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fresh.eval()(x), network.eval().net0(x))


def test_stage_1_compiles_to_a_whole_graph():
    """Stage 2 is compiled by the contract suite."""
    torch.compiler.reset()
    network = tiny(deep_supervision=True)
    network.stage = 1
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled.logits, network(x).logits, rtol=1e-3, atol=1e-3)
    compiled.logits.mean().backward()
    assert all(p.grad is not None for p in network.net0.parameters())


def test_ablations_of_table_4():
    x = torch.randn(2, 3, 32, 32)
    baseline = tiny(use_contrast=False, use_sa_decoder=False, deep_supervision=True)
    assert baseline.sid is None and len(baseline.decoders) == 1
    assert not any(isinstance(module, CDFA) for module in baseline.modules())
    assert baseline(x).decoupled is None
    wo_decoder = tiny(use_sa_decoder=False, deep_supervision=True)
    assert len(wo_decoder.decoders) == 1
    assert wo_decoder(x).decoupled.shape == (2, 3, 32, 32)


def test_the_single_decoder_reads_the_two_finest_levels():
    network = tiny(use_sa_decoder=False).eval()
    shapes = []
    network.decoders[0].register_forward_hook(
        lambda module, inputs, output: shapes.append([x.shape[2:] for x in inputs])
    )
    network(torch.randn(1, 3, 64, 64))
    assert shapes == [[(16, 16), (32, 32)]]


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "pvt_v2_b0", "mambaout_femto", "vgg11"])
def test_any_timm_backbone_can_be_used(backbone):
    """The backbones have strides of 8 to 32, and include transformers and maps with channels last."""
    assert backbone in timm.list_models()
    network = tiny(1, 3, backbone=backbone).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 1, 40, 72)).shape == (1, 3, 40, 72)


def test_a_backbone_that_timm_lacks_is_named():
    with pytest.raises(ValueError, match="backbone 'resnet51': timm makes no encoder"):
        ConDSeg(3, 2, backbone="resnet51")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 4}, "window 4 has no centre"),
        ({"channels": 18}, "channels=18: expected a multiple of 4"),
        ({"channels": 8}, "channels=8: expected a multiple of 4, for CDFA's heads, from 16 on"),
    ],
)
def test_impossible_sizes_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ConDSeg(3, 2, **wrong)


def test_window_of_5_works():
    network = tiny(window=5).eval()
    assert network.fusions[0].cdfa.foreground.out_channels == 4 * 5**4
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 32, 48)).shape == (1, 2, 32, 48)
