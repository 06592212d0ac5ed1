"""DLKUNet as an nnU-Net trainer."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from torch import nn

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.architectures.dlkunet import NUM_BLOCKS
from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.plan import NetworkPlan

FLIPS_AND_WHAT_FOLLOWS = (MirrorTransform, MaskImageTransform, RemoveLabelTansform)
"""Kinds of transform one of which begins the part of nnU-Net's training transforms that every training needs."""

MAX_PATCH_RATIO = 1.5  # beyond it nnU-Net too stops turning a patch freely
MAX_SPACING_RATIO = 1.25


class DLKUNetTrainer(PluginTrainer):
    """DLKUNet with phase-based loss weights; Adam, stepwise decay, flips and 90-degree rotations (section 4.3)."""

    method = "DLKUNet"
    paper = "manuscript whose title and authors are placeholders"
    initial_lr = 1e-3
    weight_decay = 1e-5
    enable_deep_supervision = False  # the network has one output
    loss_schedule: ClassVar[str] = "phase_based"
    reference_channels = (1, 9)

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        """Build DLKUNet with the plan's pooling and kernels, and as many blocks as the variant has."""
        options = cls.network_options()
        num_blocks = NUM_BLOCKS[options.get("variant", "L")]
        return DLKUNet(
            in_channels,
            num_classes,
            conv_op=plan.conv_op,
            strides=further_strides(plan.architecture["strides"], plan.patch_size, num_blocks),
            kernel_sizes=plan.architecture.get("kernel_sizes"),
            **options,
        )

    # ---- schedules and loss ------------------------------------------------------------------------------------------

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Factor that falls by a tenth every 20 of 400 epochs, and at half time starts again from 0.01."""
        twentieths = math.floor(20 * progress)
        return 0.9**twentieths if twentieths < 10 else 0.01 * 0.9 ** (twentieths - 10)

    def _build_loss(self) -> nn.Module:
        return DiceCrossEntropyLoss(
            self.label_format, schedule=self.loss_schedule, batch_dice=self.configuration_manager.batch_dice
        )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.loss, DiceCrossEntropyLoss):
            alpha, beta = self.loss.weights
            self.print_to_log_file(f"loss weights: alpha (Dice) {alpha:.4f}, beta (cross-entropy) {beta:.4f}")

    # ---- augmentation ------------------------------------------------------------------------------------------------

    def rotation_axes(self) -> list[int]:
        """Axes that a rotation by 90 degrees may exchange: all, or in 3D the last two, or none.

        Neither patch nor voxels may be much longer along one of them than along another: a rotation would stretch the
        anatomy, or leave most of the patch outside the image.
        """
        patch_size, spacing = (
            np.array(x) for x in (self.configuration_manager.patch_size, self.configuration_manager.spacing)
        )
        for axes in (slice(None), slice(-2, None)):
            if ratio(patch_size[axes]) <= MAX_PATCH_RATIO and ratio(spacing[axes]) <= MAX_SPACING_RATIO:
                return list(range(len(patch_size)))[axes]
        return []

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # type: ignore[no-untyped-def]
        """Load as much as a rotated patch needs, which is its longest edge along all axes that are exchanged."""
        rotation, dummy_2d, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        loaded, axes = np.array(self.configuration_manager.patch_size), self.rotation_axes()
        loaded[axes] = loaded[axes].max(initial=0)
        return rotation, dummy_2d, loaded, mirror_axes

    def get_training_transforms(self, patch_size, *args, **kwargs) -> BasicTransform:  # type: ignore[no-untyped-def]
        """Rotate by 90, 180 or 270 degrees with probability 1/2, and flip every axis with probability 1/2.

        nnU-Net's own transforms follow from its flips on; its deformations and intensity transforms are left out.
        """
        nnunet = super().get_training_transforms(patch_size, *args, **kwargs).transforms
        first = next(i for i, t in enumerate(nnunet) if isinstance(t, FLIPS_AND_WHAT_FOLLOWS))
        own: list[BasicTransform] = []
        if axes := self.rotation_axes():
            rotation = Rot90Transform(1, allowed_axes=set(axes))
            own = [
                RandomTransform(rotation, apply_probability=0.5),
                SpatialTransform(patch_size, patch_center_dist_from_border=0, random_crop=False),  # the centre
            ]
        return ComposeTransforms([*own, *nnunet[first:]])


def further_strides(plan: Sequence[Sequence[int]], patch_size: Sequence[int], num_blocks: int) -> list[list[int]]:
    """The plan's strides, and for further blocks strides of 2 along every axis that still has four pixels."""
    strides = [list(stride) for stride in plan]
    while len(strides) < num_blocks:
        left = np.array(patch_size) // np.prod(strides, axis=0)
        strides.append([2 if size >= 4 else 1 for size in left])
    return strides


def ratio(lengths: np.ndarray) -> float:
    return lengths.max() / lengths.min()
