"""Proves for every trainer: its network is what nnU-Net's training, inference, compilation and checkpoints expect."""

import inspect
from typing import Any

import pytest
import torch
from support import cell_datasets
from torch import Tensor, nn

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import Annotated
from nnunet_plugins.architectures.layers.detector import Objects
from nnunet_plugins.trainers import find_trainer

MAX_LOGIT = 6.5e3  # nnU-Net accumulates logits, weighted by up to 10, in fp16


SIZES = {2: (64, 64), 3: (16, 20, 16)}
THICK_SLICES = (4.0, 1.0, 1.0)
ODD_CASES = {
    2: [((40, 56), None, 1, 2), ((112, 144), None, 3, 5), ((32, 32), None, 4, 1), ((96, 48), None, 3, 2)],
    3: [((16, 20, 16), None, 1, 2), ((8, 40, 32), THICK_SLICES, 4, 1), ((28, 16, 20), None, 2, 5)],
}
"""Patch size, spacing, channels, heads."""


def build(
    trainer_name: str,
    patch_size: tuple[int, ...],
    spacing: tuple[float, ...] | None = None,
    channels: int = 3,
    heads: int = 2,
    *,
    training: bool,
) -> nn.Module:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(cell_datasets.plans_for_patch(patch_size, spacing))
    configuration = plans.get_configuration("2d" if len(patch_size) == 2 else "3d_fullres")
    torch.manual_seed(0)
    return find_trainer(trainer_name).build_network_architecture(plans, configuration, channels, heads, training)


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors of a network's outputs, the logits first."""
    match outputs:
        case None:
            return []
        case Tensor():
            return [outputs]
        case dict():
            return tensors(tuple(outputs.values()))
    return [tensor for output in outputs for tensor in tensors(output)]


def training_input(network: nn.Module, images: Tensor) -> Tensor | Annotated:
    """Input of the network in training: images, and for a network that detects objects their boxes."""
    if not isinstance(network, DCSNet):
        return images
    return Annotated(images, Objects(torch.tensor([[0.0, 3, 4, 12, 10], [1, 20, 20, 23, 24], [1, 2, 2, 30, 30]])))


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


def test_state_dict_is_the_same_for_training_and_inference(trainer_and_dimensions):
    name, dimensions = trainer_and_dimensions
    with torch.device("meta"):  # names and shapes without numbers
        states = [build(name, SIZES[dimensions], training=training).state_dict() for training in (True, False)]
    training, inference = ([(key, value.shape) for key, value in state.items()] for state in states)
    assert training == inference


def test_any_patch_number_of_channels_and_of_heads(trainer_and_dimensions):
    name, dimensions = trainer_and_dimensions
    one_output = not getattr(find_trainer(name), "enable_deep_supervision", True)
    for patch_size, spacing, channels, heads in ODD_CASES[dimensions]:
        network = build(name, patch_size, spacing, channels, heads, training=True)
        x = torch.randn(2, channels, *patch_size)
        outputs = network(training_input(network, x))
        assert isinstance(outputs, Tensor if one_output else tuple)
        assert tensors(outputs)[0].shape == (2, heads, *patch_size)
        network.deep_supervision = False
        with torch.inference_mode():
            for training in (True, False):
                logits = network.train(training)(x)
                assert isinstance(logits, Tensor)
                assert logits.shape == (2, heads, *patch_size)


def test_output_does_not_change_form_for_online_validation(trainer_and_dimensions):
    name, dimensions = trainer_and_dimensions
    network = build(name, SIZES[dimensions], training=True)
    x = training_input(network, torch.randn(2, 3, *SIZES[dimensions]))
    with torch.no_grad():
        training, validation = network(x), network.eval()(x)
    assert type(training) is type(validation)
    assert [o.shape for o in tensors(training)] == [o.shape for o in tensors(validation)]


def test_inference_returns_logits_that_own_their_memory(trainer_and_dimensions):
    name, dimensions = trainer_and_dimensions
    network = build(name, SIZES[dimensions], training=False).eval()
    x = torch.randn(1, 3, *(size - 4 for size in SIZES[dimensions]))
    with torch.inference_mode():
        first = network(x)
        kept = first.clone()
        first += 1  # as nnU-Net does with mirrored predictions
        assert first.is_contiguous()
        assert torch.equal(network(x), kept)
    network.deep_supervision = True
    outputs = network.train()(training_input(network, torch.randn(2, 3, *SIZES[dimensions])))
    sum(
        output.sum() for output in tensors(outputs) if output.requires_grad
    ).backward()  # nothing cached under inference_mode


def test_logits_stay_far_from_the_limits_of_half_precision(trainer_and_dimensions):
    name, dimensions = trainer_and_dimensions
    network = build(name, SIZES[dimensions], training=False).eval()
    for scale in (0.0, 1.0, 1e4):
        with torch.no_grad():
            logits = network(scale * torch.randn(1, 3, *SIZES[dimensions]))
        assert logits.isfinite().all() and logits.abs().max() < MAX_LOGIT


@pytest.mark.parametrize("training", [True, False])
def test_compiled_network_computes_the_same(outputs_and_dimensions, training):
    name, dimensions = outputs_and_dimensions
    torch.compiler.reset()  # or the networks of all trainers share one limit of recompilations
    network = build(name, SIZES[dimensions], training=training).train(training)
    detects = isinstance(network, DCSNet)  # whose shapes depend on values: the detector stays out of the graphs
    compiled = torch.compile(network, backend="aot_eager", fullgraph=not detects)
    x = torch.randn(2, 3, *SIZES[dimensions])
    outputs = []
    for run in (network, compiled):
        torch.manual_seed(0)
        with torch.set_grad_enabled(training):
            outputs.append(tensors(run(training_input(network, x) if training else x)))
    for theirs, ours in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    if training:
        sum(output.float().mean() for output in outputs[1] if output.requires_grad).backward()
        assert any(p.grad is not None for p in network.parameters())
