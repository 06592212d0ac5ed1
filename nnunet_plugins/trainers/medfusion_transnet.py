"""MedFusion-TransNet as nnU-Net trainers: CASNet and DRGO together, and each alone."""

import math

from torch import nn

from nnunet_plugins.architectures import CASNet
from nnunet_plugins.trainers.base import BaseTrainer, PluginTrainer
from nnunet_plugins.trainers.drgo import DRGO
from nnunet_plugins.trainers.plan import NetworkPlan

METHOD = "MedFusion-TransNet"
PAPER = "Frontiers in Medicine, 2025, doi:10.3389/fmed.2025.1557449"


class CASNetTrainer(PluginTrainer):
    """CASNet with Dice and cross-entropy, Adam, cosine annealing (section 4.2), and nnU-Net's sampling and batches.

    The paper's 100 epochs are ``_100epochs``.
    """

    method = METHOD
    paper = PAPER
    reference_channels = (3, 2)
    fewest_stages = 2
    initial_lr = 1e-4
    weight_decay = 0.0
    enable_deep_supervision = False
    outputs_at_every_stage = True

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        """Build CASNet with the plan's stages, strides, kernels and features."""
        return CASNet(
            in_channels,
            num_classes,
            conv_op=plan.conv_op,
            deep_supervision=deep_supervision,
            auxiliary_heads=cls.enable_deep_supervision,
            **{"modality_groups": plan.modality_groups, **cls.network_options()},
            **{name: plan.architecture[name] for name in ("strides", "kernel_sizes", "features_per_stage")},
        )

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Cosine annealing to 0."""
        return (1 + math.cos(math.pi * progress)) / 2


class MedFusionTransNetTrainer(DRGO, CASNetTrainer):
    """CASNet trained with DRGO: the paper's method."""


class DRGOTrainer(DRGO, BaseTrainer):
    """nnU-Net's planned network, optimiser, schedule and deep supervision, with DRGO: the effect of DRGO alone."""

    method = METHOD
    paper = PAPER
    reference_channels = (3, 2)
    fewest_stages = 2
