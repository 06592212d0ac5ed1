"""MedFusion-TransNet as nnU-Net trainers: CASNet and DRGO together, and each alone."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import CASNet
from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.drgo import DRGO

REFERENCE_PLAN: dict[str, Any] = {
    "strides": [(1, 1), *[(2, 2)] * 6],
    "kernel_sizes": [(3, 3)] * 7,
    "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
}
"""nnU-Net's for the paper's images of 256 x 256 pixels."""


class PlannedDeepSupervision(PluginTrainer):
    """For networks with an output at every stage of the plans: deep supervision as nnU-Net has it."""

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return nnUNetTrainer._get_deep_supervision_scales(self)

    def _build_loss(self) -> nn.Module:
        """Dice and cross-entropy; each output counts half of the next finer one, and the coarsest as good as nothing.

        nnU-Net's weights; but 1e-6 is not 0, so that every parameter has a gradient, as DDP wants it.
        """
        loss = DiceCrossEntropyLoss(
            self.label_format, schedule="ordinary", batch_dice=self.configuration_manager.batch_dice
        )
        scales = self._get_deep_supervision_scales()
        if scales is None:
            return loss
        weights = np.array([0.5**index for index in range(len(scales))])
        if len(weights) > 1:
            weights[-1] = 1e-6
        return DeepSupervisionWrapper(loss, tuple(weights / weights.sum()))


class CASNetTrainer(PlannedDeepSupervision):
    """CASNet with Dice and cross-entropy, Adam, cosine annealing (section 4.2), and nnU-Net's sampling and batches.

    The paper's 100 epochs are ``_100epochs``.
    """

    method = "MedFusion-TransNet"
    paper = "Frontiers in Medicine, 2025, doi:10.3389/fmed.2025.1557449"
    initial_lr = 1e-4
    weight_decay = 0.0
    enable_deep_supervision = False

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Stages, strides, kernels and features are the plans'."""
        plan = configuration_manager.network_arch_init_kwargs
        groups = modality_groups(plans_manager, configuration_manager, num_input_channels)
        return CASNet(
            num_input_channels,
            num_output_channels,
            conv_op=convert_dim_to_conv_op(len(configuration_manager.patch_size)),
            deep_supervision=cls.enable_deep_supervision and enable_deep_supervision,
            auxiliary_heads=cls.enable_deep_supervision,
            **{"modality_groups": groups, **cls.network_kwargs},
            **{name: plan[name] for name in ("strides", "kernel_sizes", "features_per_stage")},
        )

    @classmethod
    def reference_network(cls) -> nn.Module:
        options = {"modality_groups": (3,), "auxiliary_heads": cls.enable_deep_supervision, **cls.network_kwargs}
        return CASNet(3, 2, conv_op=nn.Conv2d, **REFERENCE_PLAN, **options)

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        return torch.optim.Adam(groups, weight_decay=self.weight_decay)

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Cosine annealing to 0."""
        return (1 + math.cos(math.pi * progress)) / 2


class MedFusionTransNetTrainer(DRGO, CASNetTrainer):
    """The paper's method: CASNet, trained with DRGO."""


class DRGOTrainer(DRGO, PlannedDeepSupervision):
    """nnU-Net's planned network, optimiser, schedule and deep supervision, with DRGO: what DRGO alone brings."""

    method = "MedFusion-TransNet"
    paper = CASNetTrainer.paper

    @classmethod
    def reference_network(cls) -> nn.Module:
        return PlainConvUNet(
            3,
            len(REFERENCE_PLAN["strides"]),
            conv_op=nn.Conv2d,
            n_conv_per_stage=2,
            num_classes=2,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            deep_supervision=True,
            **REFERENCE_PLAN,
        )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        nnUNetTrainer.set_deep_supervision_enabled(self, enabled and self.enable_deep_supervision)

    def configure_optimizers(self):  # type: ignore[no-untyped-def]
        return nnUNetTrainer.configure_optimizers(self)


def modality_groups(
    plans_manager: PlansManager, configuration_manager: ConfigurationManager, num_input_channels: int
) -> tuple[int, ...]:
    """Number of channels of each modality, from the plans alone, which is all that inference has.

    Every channel of a medical image is one; the colours of a natural image are one; and so are the segmentations that a
    cascade adds to the image.
    """
    num_image_channels = min(len(configuration_manager.normalization_schemes), num_input_channels)
    natural = plans_manager.plans["image_reader_writer"] == "NaturalImage2DIO"
    groups = (num_image_channels,) if natural else (1,) * num_image_channels
    added = num_input_channels - num_image_channels
    return (*groups, added) if added else groups
