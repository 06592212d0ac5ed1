"""Proves for every trainer: its network is what nnU-Net's training, inference, compilation and checkpoints expect."""

import inspect

import cell_datasets
import pytest
import torch
from torch import Tensor, nn

from nnunet_plugins.trainers import find_trainer

MAX_LOGIT = 6.5e3  # nnU-Net accumulates logits, weighted by up to 10, in fp16


def build(trainer_name: str, patch_size=(64, 64), channels: int = 3, heads: int = 2, *, training: bool) -> nn.Module:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(cell_datasets.plans_for_patch(cell_datasets.LABELS, patch_size))
    torch.manual_seed(0)
    trainer = find_trainer(trainer_name)
    return trainer.build_network_architecture(plans, plans.get_configuration("2d"), channels, heads, training)


pytestmark = pytest.mark.usefixtures("planned")


def test_nnunet_finds_the_trainer_and_can_construct_it(trainer_name):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    trainer = recursive_find_trainer_class_by_name(trainer_name)
    assert trainer is find_trainer(trainer_name)
    assert trainer.__name__ == trainer_name and "__" not in trainer_name
    assert (
        inspect.signature(trainer.__init__).parameters.keys()
        == inspect.signature(nnUNetTrainer.__init__).parameters.keys()
    )
    assert list(inspect.signature(trainer.build_network_architecture).parameters) == list(
        inspect.signature(nnUNetTrainer.build_network_architecture).parameters
    )


def test_state_dict_is_the_same_for_training_and_inference(trainer_name):
    training, inference = build(trainer_name, training=True), build(trainer_name, training=False)
    inference.load_state_dict(training.state_dict(), strict=True)
    assert list(training.state_dict()) == list(inference.state_dict())


@pytest.mark.parametrize(
    ("patch_size", "channels", "heads"), [((40, 56), 1, 2), ((112, 144), 3, 5), ((32, 32), 4, 1), ((96, 48), 3, 2)]
)
def test_any_patch_number_of_channels_and_of_heads(trainer_name, patch_size, channels, heads):
    network = build(trainer_name, patch_size, channels, heads, training=True)
    x = torch.randn(2, channels, *patch_size)
    for training in (True, False):
        network.train(training)
        outputs = network(x)
        assert isinstance(outputs, tuple)
        assert outputs[0].shape == (2, heads, *patch_size)
    network.deep_supervision = False
    with torch.inference_mode():
        for training in (True, False):
            logits = network.train(training)(x)
            assert isinstance(logits, Tensor)
            assert logits.shape == (2, heads, *patch_size)


def test_inference_returns_logits_that_own_their_memory(trainer_name):
    network = build(trainer_name, (40, 56), training=False).eval()
    x = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        first = network(x)
        kept = first.clone()
        first += 1  # as nnU-Net does with mirrored predictions
        assert first.is_contiguous()
        assert torch.equal(network(x), kept)
    network.deep_supervision = True
    network.train()(torch.randn(2, 3, 40, 56))[0].sum().backward()  # nothing cached under inference_mode


def test_logits_stay_far_from_the_limits_of_half_precision(trainer_name):
    network = build(trainer_name, training=False).eval()
    for scale in (0.0, 1.0, 1e4):
        with torch.no_grad():
            logits = network(scale * torch.randn(1, 3, 64, 64))
        assert logits.isfinite().all() and logits.abs().max() < MAX_LOGIT


@pytest.mark.parametrize("training", [True, False])
def test_compiled_network_computes_the_same(trainer_name, training):
    torch.compiler.reset()  # or the networks of all trainers share one limit of recompilations
    network = build(trainer_name, training=training).train(training)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, outputs = network(x), compiled(x)
    for theirs, ours in zip(expected if training else [expected], outputs if training else [outputs], strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    if training:
        sum(o.float().mean() for o in compiled(x) if o is not None).backward()
        assert any(p.grad is not None for p in network.parameters())
