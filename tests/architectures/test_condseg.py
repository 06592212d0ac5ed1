"""Proves: ConDSeg and Net0 have the published sizes, compute the paper's equations, and train in two stages."""

import pytest
import timm
import torch
from references import literal_aggregation
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnunet_plugins.architectures import ConDSeg, Net0
from nnunet_plugins.architectures.condseg import CDFA, SID, AuxiliaryHead, ConDSegOutput, Net0Head, SADecoder
from nnunet_plugins.architectures.layers.convolutions import conv_bn


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def gmacs(make, size=(3, 256, 256)):
    """Multiply-accumulates, without computing anything."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        make()(torch.zeros(1, *size))
    return counter.get_total_flops() / 2e9


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """At the size of the published figures, on the meta device."""
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
    """As published: every level upsampled first, then convolved at full resolution."""
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
    head = Net0Head((3, 5), 2).double()
    features = [torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.randn(2, 5, 4, 6, dtype=torch.float64)]
    torch.testing.assert_close(head(features, (16, 24)), literal_net0_head(head, features, (16, 24)))


def test_inference_leaves_out_what_only_the_loss_needs():
    assert gmacs(lambda: ConDSeg(3, 1)) < 0.85 * gmacs(lambda: ConDSeg(3, 1, deep_supervision=True))


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cdfa_is_that_of_equations_11_to_14(window, dtype):
    torch.manual_seed(0)
    cdfa = CDFA(6, 8, window, num_heads=2).to(dtype)
    x, foreground, background = (torch.randn(2, c, 7, 9, dtype=dtype, requires_grad=True) for c in (6, 8, 8))

    def literal(x, foreground, background):
        values = cdfa.value(cdfa.before(x)).reshape(2, 2, 4, 7, 9)
        a_fg, a_bg = (
            linear(f).reshape(2, 2, window**2, window**2, 7, 9).softmax(3)  # eq. 12
            for linear, f in ((cdfa.foreground, foreground), (cdfa.background, background))
        )
        return cdfa.after(cdfa.project(literal_aggregation(values, a_fg, a_bg).reshape(2, 8, 7, 9)))

    results = []
    for function in (cdfa, literal):
        y = function(x, foreground, background)
        inputs = [x, foreground, background, *cdfa.parameters()]
        results.append([y, *torch.autograd.grad((y * torch.arange(9, dtype=dtype)).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_attention_of_a_window_sums_to_1():
    cdfa = CDFA(4, 4, 3, num_heads=2)
    attention = cdfa.attention(torch.randn(1, 2 * 81, 5, 6))
    assert attention.shape == (1, 2, 9, 9, 5, 6)
    torch.testing.assert_close(attention.sum(3), torch.ones(1, 2, 9, 5, 6))


def test_each_head_of_sid_reads_its_own_branch():
    torch.manual_seed(0)
    sid = SID(16, 8).eval()
    f4, sizes = torch.randn(1, 16, 4, 4), [(8, 8), (16, 16), (32, 32), (64, 64)]
    contrast = sid(f4)
    masks = sid.masks(f4, contrast, sizes)
    assert masks.shape == (1, 3, 64, 64)
    for index, region in enumerate(("foreground", "background", "uncertainty")):
        expected = sid.heads[region](sid.branches[region](f4), sizes)
        torch.testing.assert_close(masks[:, index : index + 1], expected)
    torch.testing.assert_close(contrast[0], sid.branches["foreground"](f4))
    torch.testing.assert_close(contrast[1], sid.branches["background"](f4))


def test_auxiliary_head_grows_to_the_size_of_the_image():
    head = AuxiliaryHead(8)
    assert head(torch.randn(2, 8, 2, 3), [(4, 6), (8, 12), (16, 24), (32, 48)]).shape == (2, 1, 32, 48)


def test_sa_decoder_is_a_chain_of_residuals():
    torch.manual_seed(0)
    decoder = SADecoder(16).eval()
    deep, shallow = torch.randn(1, 16, 3, 4), torch.randn(1, 16, 6, 8)
    c1 = decoder.reduce(torch.cat((F.interpolate(deep, size=(6, 8), mode="bilinear"), shallow), 1))
    c2 = F.relu(decoder.residuals[0](c1) + c1)
    c3 = F.relu(decoder.residuals[1](c2) + c2 + c1)
    c4 = F.relu(decoder.residuals[2](c3) + c3 + c2 + c1)
    torch.testing.assert_close(decoder(deep, shallow), decoder.gates(c4))


def test_dilation_keeps_the_size():
    assert conv_bn(2, 3, 3, dilation=6)(torch.randn(2, 2, 5, 9)).shape == (2, 3, 5, 9)


# ---- network ---------------------------------------------------------------------------------------------------------


def tiny(in_channels=3, num_classes=2, **kwargs):
    torch.manual_seed(0)
    return ConDSeg(in_channels, num_classes, backbone="resnet18", **kwargs)


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


@pytest.mark.parametrize("stage", [1, 2])
def test_what_a_stage_does_not_use_gets_gradients_of_zeros(stage):
    network = tiny(deep_supervision=True)
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
    """The contract suite compiles stage 2."""
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
def test_any_timm_backbone_will_do(backbone):
    """Strides of 8 to 32, transformers, and feature maps with channels last."""
    assert backbone in timm.list_models()
    network = ConDSeg(1, 3, backbone=backbone).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 1, 40, 72)).shape == (1, 3, 40, 72)


def test_what_is_no_backbone_is_named():
    with pytest.raises(ValueError, match="backbone 'resnet51': timm makes no encoder"):
        ConDSeg(3, 2, backbone="resnet51")


def test_a_window_without_a_centre_is_named():
    with pytest.raises(ValueError, match="window 4 has no centre"):
        ConDSeg(3, 2, window=4)


def test_window_of_5_gives_its_own_size_and_works():
    network = tiny(window=5).eval()
    assert network.fusions[0].cdfa.foreground.out_channels == 4 * 5**4
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 32, 48)).shape == (1, 2, 32, 48)
