"""DLKUNet as an nnU-Net trainer."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import DLKUNet
from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.trainers.base import PluginTrainer


class DLKUNetTrainer(PluginTrainer):
    """DLKUNet with phase-based loss weights; Adam, stepwise decay, flips and 90-degree rotations (section 4.3)."""

    method = "DLKUNet"
    paper = "manuscript whose title and authors are placeholders"
    initial_lr = 1e-3
    weight_decay = 1e-5
    enable_deep_supervision = False  # the network has one output
    loss_schedule: ClassVar[str] = "phase_based"

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Pooling and kernels follow the plans, the number of blocks is the variant's."""
        plan = configuration_manager.network_arch_init_kwargs
        return DLKUNet(
            num_input_channels,
            num_output_channels,
            conv_op=convert_dim_to_conv_op(len(configuration_manager.patch_size)),
            strides=plan["strides"],
            kernel_sizes=plan["kernel_sizes"],
            **cls.network_kwargs,
        )

    @classmethod
    def reference_network(cls) -> nn.Module:
        return DLKUNet(1, 9, **cls.network_kwargs)

    # ---- optimiser and loss ------------------------------------------------------------------------------------------

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        return torch.optim.Adam(groups, weight_decay=self.weight_decay)

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Times 0.9 every 20 of 400 epochs; at half time the same again from a hundredth (1e-5)."""
        twentieths = math.floor(20 * progress)
        return 0.9**twentieths if twentieths < 10 else 0.01 * 0.9 ** (twentieths - 10)

    def _build_loss(self) -> nn.Module:
        return DiceCrossEntropyLoss(
            self.label_format, schedule=self.loss_schedule, batch_dice=self.configuration_manager.batch_dice
        )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        assert isinstance(self.loss, DiceCrossEntropyLoss)
        alpha, beta = self.loss.weights
        self.print_to_log_file(f"loss weights: alpha (Dice) {alpha:.4f}, beta (cross-entropy) {beta:.4f}")

    # ---- augmentation ------------------------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # type: ignore[no-untyped-def]
        """Load as much as a patch turned by 90 degrees needs: the longest edge along all axes that are turned."""
        rotation, in_plane_only, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch_size = np.array(self.configuration_manager.patch_size)
        axes = rotation_axes(len(patch_size), in_plane_only)
        patch_size[axes] = patch_size[axes].max()
        return rotation, in_plane_only, patch_size, mirror_axes

    @staticmethod
    def get_training_transforms(  # type: ignore[no-untyped-def]
        patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **kwargs
    ) -> BasicTransform:
        """A rotation by 90, 180 or 270 degrees with probability 1/2, a flip of every axis with probability 1/2.

        nnU-Net's own transforms follow from its flips on; its deformations and intensity transforms are left out.
        """
        nnunet = nnUNetTrainer.get_training_transforms(
            patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **kwargs
        ).transforms
        flip = next(i for i, transform in enumerate(nnunet) if isinstance(transform, MirrorTransform))
        axes = rotation_axes(len(patch_size), do_dummy_2d_data_aug)
        rotate = RandomTransform(Rot90Transform(1, allowed_axes=set(axes)), apply_probability=0.5)
        crop = SpatialTransform(patch_size, patch_center_dist_from_border=0, random_crop=False)
        return ComposeTransforms([rotate, crop, *nnunet[flip:]])


def rotation_axes(dimensions: int, in_plane_only: bool) -> list[int]:
    """The axes that rotations may exchange: all, or the last two where nnU-Net calls a 3D patch anisotropic."""
    return list(range(dimensions))[-2 if in_plane_only else 0 :]
