"""Proves: the reference is trained as nnU-Net trains its own network, on outputs at the strides of its patch."""

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.cell_datasets import LABELS, REGIONS, initialized_trainer

from nnunet_plugins.trainers.timm_unet import output_strides

pytestmark = pytest.mark.usefixtures("results", "narrow")


@pytest.mark.parametrize("dataset_id", [LABELS, REGIONS])
def test_loss_is_nnunets(dataset_id):
    trainer = initialized_trainer("TimmUNetTrainer", dataset_id)
    torch.manual_seed(0)
    heads = trainer.label_manager.num_segmentation_heads
    sizes = [(2, round(64 * height), round(64 * width)) for height, width in trainer._get_deep_supervision_scales()]
    outputs = [torch.randn(batch, heads, *size) for batch, *size in sizes]
    if trainer.label_manager.has_regions:
        targets = [torch.rand(batch, heads, *size) > 0.7 for batch, *size in sizes]
    else:
        targets = [torch.randint(0, 3, (batch, 1, *size)) for batch, *size in sizes]
    assert len(outputs) > 2
    stock = nnUNetTrainer._build_loss(trainer)(outputs, targets)
    torch.testing.assert_close(trainer.loss(outputs, targets), 1 + stock, rtol=1e-4, atol=1e-5)  # 1 - Dice, not -Dice


def test_optimiser_and_rates_are_nnunets():
    ours, stock = (initialized_trainer(f"{name}_5epochs", LABELS) for name in ("TimmUNetTrainer", "nnUNetTrainer"))
    assert type(ours.optimizer) is type(stock.optimizer)
    numbers = {key: value for key, value in stock.optimizer.defaults.items() if key != "foreach"}
    assert {key: ours.optimizer.param_groups[0][key] for key in numbers} == numbers
    rates = []
    for trainer in (ours, stock):
        rates.append([])
        for epoch in range(5):
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            rates[-1].append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(rates[1], rel=1e-9)


@pytest.mark.parametrize(
    ("patch", "strides"), [((512, 512), [1, 2, 4, 8, 16]), ((40, 56), [1, 2, 4, 8]), ((45, 64), [1])]
)
def test_outputs_are_at_the_strides_that_divide_the_patch(patch, strides):
    assert output_strides(patch) == strides


def test_outputs_have_the_sizes_of_their_targets():
    trainer = initialized_trainer("TimmUNetTrainer", LABELS)
    height, width = trainer.configuration_manager.patch_size
    outputs = trainer.network(torch.randn(2, 3, height, width))
    targets = [(round(height * h), round(width * w)) for h, w in trainer._get_deep_supervision_scales()]
    assert [tuple(output.shape[2:]) for output in outputs] == targets
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network(torch.randn(2, 3, height, width)).shape[2:] == (height, width)
