"""Proves: DLKUNet is trained as section 4.3 of its paper says: rates, optimiser, weights in the log, augmentation."""

import math
import pickle

import numpy as np
import pytest
import torch
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
    [  # the patch's longest edge, and n cos 20 + m sin 20 of the plane's edges n and m
        ("2d", (48, 57)),
        ("2d_long", (64, 512)),
        ("3d_fullres", (24, 30, 28)),
        ("3d_thick", (8, 48, 57)),
        ("3d_coarse", (24, 31, 31)),
    ],
)
def test_loaded_region_holds_the_rotated_patch(make, configuration, loaded):
    assert training_transform(make(configuration=configuration))[1] == loaded


PLANES = {"2d": {(0, 1)}, "2d_long": set(), "3d_thick": {(1, 2)}, "3d_coarse": {(1, 2)}}
PLANES["3d_fullres"] = {(0, 1), (0, 2), (1, 2)}


def augmented_positions(trainer, number):
    """Steps ``(axes of the patch, coordinates)`` of augmented patches of an image of its own pixels' coordinates."""
    transform, loaded = training_transform(trainer)
    patch_size = tuple(trainer.configuration_manager.patch_size)
    coordinates = torch.meshgrid(*(torch.arange(1.0, n + 1) for n in loaded), indexing="ij")  # no 0, which padding has
    positions, labels = torch.stack(coordinates), (coordinates[-1] > loaded[-1] / 2)[None].to(torch.int16)
    for _ in range(number):
        augmented = transform(image=positions.clone(), segmentation=labels + 1)  # no 0 here either
        image = augmented["image"]
        assert image.shape[1:] == augmented["segmentation"].shape[1:] == patch_size
        assert augmented["segmentation"].min() > 0 and image.min() > 0.99  # all corners come from the image
        expected = (image[-1] > loaded[-1] / 2) + 1
        away = (image[-1] - loaded[-1] / 2 - 0.5).abs() > 0.51
        assert torch.equal(augmented["segmentation"][0][away], expected[away])
        steps = [image.diff(dim=axis + 1).flatten(1) for axis in range(len(patch_size))]
        assert all(torch.allclose(step, step[:, :1].expand_as(step), atol=1e-3) for step in steps)
        yield torch.stack([step[:, 0] for step in steps])


@pytest.mark.parametrize("configuration", PLANES)
def test_half_of_the_patches_are_flipped_and_rotated_and_a_quarter_is_turned(make, configuration):
    """The former with axes exchanged or reversed and no value changed, the latter by up to 20 degrees in a plane."""
    planes, number = PLANES[configuration], 240
    np.random.seed(0)  # noqa: NPY002 (batchgenerators' generator)
    torch.manual_seed(0)
    flipped, angles = [], {plane: [] for plane in planes}
    for steps in augmented_positions(make(configuration=configuration), number):
        if torch.equal(steps, steps.round()):
            flipped.append(steps)
            continue
        cosine, sine = float(steps.diagonal().min()), float(steps.abs().triu(1).max())
        assert cosine**2 + sine**2 == pytest.approx(1, abs=1e-3)
        plane = divmod(int(steps.abs().triu(1).argmax()), len(steps))
        angles[plane].append(math.degrees(math.asin(sine)))
    assert all(max(found) <= 20.1 and max(found) > 15 for found in angles.values())
    turned = number - len(flipped)
    assert not planes or turned == pytest.approx(number / 4, abs=25)
    orders = {tuple(steps.abs().argmax(1).tolist()) for steps in flipped}
    signs = {(axis, float(steps[axis].sum())) for steps in flipped for axis in range(len(steps))}
    assert signs == {(axis, sign) for axis in range(len(flipped[0])) for sign in (-1.0, 1.0)}
    assert orders == {exchanged(len(flipped[0]), plane) for plane in planes} | {tuple(range(len(flipped[0])))}


def exchanged(dimensions, plane):
    order = list(range(dimensions))
    order[plane[0]], order[plane[1]] = plane[1], plane[0]
    return tuple(order)


def test_the_transforms_reach_workers_that_are_spawned(make):
    transform, loaded = training_transform(make(configuration="3d_fullres"))
    copy = pickle.loads(pickle.dumps(transform))
    assert copy(image=torch.zeros(1, *loaded), segmentation=torch.zeros(1, *loaded))["image"].shape == (1, 16, 24, 20)


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
