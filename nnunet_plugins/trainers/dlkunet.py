"""DLKUNet as an nnU-Net trainer."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import combinations, permutations
from typing import ClassVar

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from torch import Tensor, nn

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.architectures.dlkunet import NUM_BLOCKS
from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.plan import NetworkPlan, further_strides

WHAT_FOLLOWS_FLIPS = (MaskImageTransform, RemoveLabelTansform)
"""Kinds of transform one of which begins the part of nnU-Net's training transforms that every training needs."""

MAX_TURN = math.radians(20)
MAX_PATCH_RATIO = 1.5  # beyond it nnU-Net too stops turning a patch freely
MAX_SPACING_RATIO = 1.25


class DLKUNetTrainer(PluginTrainer):
    """DLKUNet with phase-based loss weights; Adam, stepwise decay, flips and rotations (section 4.3)."""

    method = "DLKUNet"
    paper = (
        "Zhu et al., DLKUNet: A Lightweight and Efficient Network With Depthwise Large Kernel for Medical Image "
        "Segmentation"
    )
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
        """Axes in whose planes a patch may be rotated: all, or in 3D the last two, or none.

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
        """Load as much as a rotated patch needs, so that no corner of it comes from beyond what was loaded."""
        rotation, dummy_2d, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        loaded = rotated_extent(self.configuration_manager.patch_size, self.rotation_axes())
        return rotation, dummy_2d, loaded, mirror_axes

    def get_training_transforms(self, patch_size, *args, **kwargs) -> BasicTransform:  # type: ignore[no-untyped-def]
        """Flip and rotate half of the patches by multiples of 90 degrees, and turn a quarter by up to 20 degrees.

        In the first half every axis is flipped with probability 1/2, and the rotation is by 0, 90, 180 or 270 degrees:
        section 4.3. The quarter is the authors' code's. nnU-Net's own transforms follow from its flips on; its
        deformations and intensity transforms are left out.
        """
        nnunet = super().get_training_transforms(patch_size, *args, **kwargs).transforms
        flips = [transform for transform in nnunet if isinstance(transform, MirrorTransform)]
        first = next(i for i, t in enumerate(nnunet) if isinstance(t, WHAT_FOLLOWS_FLIPS))
        axes = self.rotation_axes()
        centre = SpatialTransform(patch_size, patch_center_dist_from_border=0, random_crop=False)
        if axes:
            flips.insert(0, Rot90Transform(1, num_rot_per_combination=(0, 1, 2, 3), allowed_axes=set(axes)))
        flipped = ComposeTransforms([*flips, centre])
        turned = OneOfTransform([turn(patch_size, *plane) for plane in combinations(axes, 2)]) if axes else centre
        return ComposeTransforms([OneOfTransform([flipped, flipped, turned, centre]), *nnunet[first:]])


def rotated_extent(patch_size: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Return the size of the region that holds a patch, however it is rotated in any plane of two of the axes."""
    size = np.array(patch_size)
    extent = size.copy()
    for first, second in permutations(axes, 2):
        turned = size[first] * math.cos(MAX_TURN) + size[second] * math.sin(MAX_TURN)
        extent[first] = max(extent[first], math.ceil(turned), size[second])
    return extent


def turn(patch_size: Sequence[int], first: int, second: int) -> SpatialTransform:
    """Rotate the centre of a region by up to 20 degrees in the plane of two axes."""
    dimensions = len(patch_size)
    around = 1 if dimensions == 2 else next(axis for axis in range(3) if axis not in (first, second))
    return SpatialTransform(
        patch_size,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=partial(angle, around),
        border_mode_seg="constant",
        padding_value_seg=-1,
    )


def angle(around: int, image: Tensor, dim: int) -> float:
    """Draw an angle in radians for one axis of rotation, 0 for the others."""
    return np.random.uniform(-MAX_TURN, MAX_TURN) if dim == around else 0.0  # noqa: NPY002 (batchgenerators' generator)


def ratio(lengths: np.ndarray) -> float:
    return lengths.max() / lengths.min()
