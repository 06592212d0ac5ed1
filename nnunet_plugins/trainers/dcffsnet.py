"""DCFFSNet as an nnU-Net trainer."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import DCFFSNet
from nnunet_plugins.losses import DCFFSNetLoss
from nnunet_plugins.trainers.base import PluginTrainer


class DCFFSNetTrainer(PluginTrainer):
    """DCFFSNet with its connectivity losses; Adam with polynomial decay, nnU-Net's augmentation."""

    method = "DCFFSNet"
    paper = "Zhang et al., DCFFSNet: Deep Connectivity Feature Fusion Separation Network for Medical Image Segmentation"
    supported_dimensions = (2,)
    initial_lr = 1e-4
    weight_decay = 0.0
    voting: ClassVar[str] = "max"

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return DCFFSNet(
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            voting=cls.voting,
            **cls.network_kwargs,
        )

    @classmethod
    def reference_network(cls) -> nn.Module:
        return DCFFSNet(3, 1, voting=cls.voting, **cls.network_kwargs)

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        return torch.optim.Adam(groups, weight_decay=self.weight_decay)

    def _build_loss(self) -> nn.Module:
        return DCFFSNetLoss(self.label_format, batch_dice=self.configuration_manager.batch_dice, voting=self.voting)
