"""Proves: DLKUNet is trained as section 4.3 of its paper says: rates, optimiser, weights in the log, augmentation."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from support import cell_datasets
from torch import nn

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.dlkunet import further_strides

PLANS = {
    "dataset_name": "Dataset901_Cells",
    "plans_name": "nnUNetPlans",
    "label_manager": "LabelManager",
    "configurations": {
        name: {
            "batch_size": 2,
            "batch_dice": name == "2d",
            "spacing": spacing,
            "data_identifier": f"nnUNetPlans_{name}",
            "patch_size": patch_size,
            "architecture": {
                "arch_kwargs": {"strides": strides, "kernel_sizes": kernel_sizes},
                "_kw_requires_import": [],
            },
        }
        for name, patch_size, spacing, strides, kernel_sizes in (
            ("2d", [32, 48], [1, 1], [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3),
            ("2d_long", [64, 512], [1, 1], [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3),
            ("3d_fullres", [16, 24, 20], [1, 1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2),
            ("3d_thick", [8, 32, 48], [4, 1, 1], [[1, 1, 1], [1, 2, 2]], [[1, 3, 3]] * 2),
            ("3d_coarse", [24, 24, 24], [2.5, 1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2),
        )
    },
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer without data."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)

    def trainer(name="DLKUNetTrainer", configuration="2d"):
        dataset_json = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}}
        plans = PLANS | {"continue_training": False}
        return find_trainer(name)(plans, configuration, 0, dataset_json, torch.device("cpu"))

    return trainer


# lr = 1e-3 * 0.9 ** (epoch // 20), and from epoch 200 on 1e-5 * 0.9 ** ((epoch - 200) // 20)
@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 1e-3), (19, 1e-3), (20, 9e-4), (39, 9e-4), (40, 8.1e-4), (199, 1e-3 * 0.9**9),
        (200, 1e-5), (219, 1e-5), (220, 9e-6), (240, 8.1e-6), (399, 1e-5 * 0.9**9),
    ],
)  # fmt: skip
def test_learning_rates_of_the_papers_400_epochs(make, epoch, rate):
    trainer = make("DLKUNetTrainer_400epochs")
    trainer.network = nn.Conv2d(1, 1, 1)
    optimizer, schedule = trainer.configure_optimizers()
    schedule.step(epoch)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 1e-5


@pytest.mark.parametrize("num_epochs", [20, 60, 140, 400, 1000, 1_000_000])
def test_every_twentieth_of_a_training_of_any_length_begins_with_its_step(num_epochs):
    factor = find_trainer("DLKUNetTrainer").learning_rate_factor
    for twentieth in range(20):
        expected = 0.9**twentieth if twentieth < 10 else 0.01 * 0.9 ** (twentieth - 10)
        epoch = twentieth * num_epochs // 20
        assert factor(epoch / num_epochs) == pytest.approx(expected)
        assert factor((epoch + num_epochs // 20 - 1) / num_epochs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("DLKUNetTrainer_10epochs", ("0.6000", "0.4000", "0.7000", "0.3000")),
        ("DLKUNetTrainer_ordinaryLoss_10epochs", ("1.0000", "1.0000", "1.0000", "1.0000")),
        # s = 1 / (1 + exp(-4 (x - 5))) of epochs 0 and 9
        ("DLKUNetTrainer_dynamicLoss_10epochs", ("1.0000", "0.7000", "0.3000", "1.0000")),
        ("DLKUNetTrainer_dynamicLossACDC_10epochs", ("0.7000", "1.0000", "1.0000", "0.3000")),
    ],
)
def test_weights_of_every_epoch_go_into_the_log_also_after_a_resume(make, name, weights):
    trainer = make(name)
    trainer.network = nn.Conv2d(1, 1, 1)
    trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
    trainer.loss = trainer._build_loss()
    for epoch in (0, 9):  # as a training does that begins, and one that resumes
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
    with open(trainer.log_file) as file:
        lines = [line.split(": ", 1)[1].strip() for line in file if "loss weights" in line]
    alphas, betas = weights[::2], weights[1::2]
    assert lines == [
        f"loss weights: alpha (Dice) {alpha}, beta (cross-entropy) {beta}"
        for alpha, beta in zip(alphas, betas, strict=True)
    ]


def test_batch_dice_is_the_plans_choice(make):
    for configuration, batch_dice in (("2d", True), ("3d_fullres", False)):
        assert make(configuration=configuration)._build_loss().batch_dice is batch_dice


def training_transform(trainer, **kwargs):
    """Training transforms of the trainer, and the size of the region that it loads for them."""
    rotation, dummy_2d, loaded, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes == tuple(range(len(loaded))) == trainer.inference_allowed_mirroring_axes
    patch_size = trainer.configuration_manager.patch_size
    return trainer.get_training_transforms(patch_size, rotation, None, mirror_axes, dummy_2d, **kwargs), tuple(loaded)


@pytest.mark.parametrize(
    ("configuration", "loaded"),
    [
        ("2d", (48, 48)),
        ("2d_long", (64, 512)),
        ("3d_fullres", (24, 24, 24)),
        ("3d_thick", (8, 48, 48)),
        ("3d_coarse", (24, 24, 24)),
    ],
)
def test_loaded_region_holds_the_rotated_patch(make, configuration, loaded):
    transform, size = training_transform(make(configuration=configuration))
    assert size == loaded
    types = [type(t) for t in transform.transforms]
    if configuration == "2d_long":
        assert types == [MirrorTransform, RemoveLabelTansform]
    else:
        assert types == [RandomTransform, SpatialTransform, MirrorTransform, RemoveLabelTansform]
        assert isinstance(transform.transforms[0].transform, Rot90Transform)
        assert transform.transforms[0].apply_probability == 0.5


AXIS_ORDERS = {
    "2d": {(0, 1), (1, 0)},
    "2d_long": {(0, 1)},
    "3d_fullres": {(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)},
    "3d_thick": {(0, 1, 2), (0, 2, 1)},
    "3d_coarse": {(0, 1, 2), (0, 2, 1)},
}


@pytest.mark.parametrize("configuration", AXIS_ORDERS)
def test_augmented_patches_are_flips_and_rotations_of_image_and_labels(make, configuration):
    """Every patch is the centre of the loaded region, with axes exchanged or reversed and no value changed."""
    trainer = make(configuration=configuration)
    transform, loaded = training_transform(trainer)
    patch_size = tuple(trainer.configuration_manager.patch_size)
    positions = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in loaded), indexing="ij"))
    np.random.seed(0)  # noqa: NPY002 (batchgenerators' generator)
    torch.manual_seed(0)
    axis_orders, steps = set(), set()
    for _ in range(60):
        augmented = transform(image=positions.clone(), segmentation=positions[-1:].clone().to(torch.int16))
        image, labels = augmented["image"], augmented["segmentation"]
        assert image.shape[1:] == patch_size
        assert torch.equal(labels[0].float(), image[-1])
        order = []
        for axis in range(len(patch_size)):  # along each axis of the patch one coordinate changes, by one a pixel
            step = image.diff(dim=axis + 1).flatten(1).unique(dim=1)
            assert step.shape[1] == 1 and step.abs().sum() == 1
            order.append(int(step.abs().argmax()))
            steps.add((axis, float(step.sum())))
        axis_orders.add(tuple(order))
    assert axis_orders == AXIS_ORDERS[configuration]
    assert steps == {(axis, step) for axis in range(len(patch_size)) for step in (-1.0, 1.0)}


def test_cascade_and_regions_are_handled_as_nnunet_does(make):
    transform, loaded = training_transform(
        make(configuration="3d_fullres"), is_cascaded=True, foreground_labels=[1, 2], regions=[[1, 2], [2]]
    )
    labels = torch.randint(0, 3, (2, *loaded), dtype=torch.int16)
    augmented = transform(image=torch.zeros(1, *loaded), segmentation=labels)
    assert augmented["image"].shape == (3, 16, 24, 20)  # the image, and the lower resolution's two classes
    assert augmented["segmentation"].shape == (2, 16, 24, 20)


@pytest.mark.parametrize(
    ("plan", "patch_size", "num_blocks", "strides"),
    [
        ([[1, 1], [2, 2]], (16, 16), 4, [[1, 1], [2, 2], [2, 2], [2, 2]]),
        ([[1, 1], [2, 2]], (16, 6), 4, [[1, 1], [2, 2], [2, 1], [2, 1]]),
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], (8, 32, 32), 2, [[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
    ],
)
def test_blocks_beyond_the_plan_pool_while_four_pixels_are_left(plan, patch_size, num_blocks, strides):
    assert further_strides(plan, patch_size, num_blocks) == strides


def test_network_follows_plans_and_name(make):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(PLANS)
    for name, blocks in (("DLKUNetSTrainer", 3), ("DLKUNetMTrainer_C64", 4), ("DLKUNetTrainer", 5)):
        network = find_trainer(name).build_network_architecture(plans, plans.get_configuration("3d_thick"), 2, 3, False)
        assert isinstance(network, DLKUNet) and len(network.encoder) == blocks
        # The plan has strides (1, 1, 1) and (1, 2, 2), and the patch 8, 16 and 24 pixels after it.
        assert network.total_stride == {3: (2, 4, 4), 4: (4, 8, 8), 5: (4, 16, 16)}[blocks]
        assert network.encoder[0].attention.spatial.kernel_size == (1, 7, 7)
