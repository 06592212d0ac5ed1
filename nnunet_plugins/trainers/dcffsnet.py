"""DCFFSNet as an nnU-Net trainer."""

from typing import ClassVar

from torch import nn

from nnunet_plugins.architectures import DCFFSNet
from nnunet_plugins.losses import DCFFSNetLoss
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.plan import NetworkPlan

FEWEST_STAGES = 2  # a bottleneck below the full resolution


class DCFFSNetTrainer(PluginTrainer):
    """DCFFSNet with its connectivity losses; Adam with polynomial decay, nnU-Net's augmentation.

    Volumes are our extension to the paper's images.
    """

    method = "DCFFSNet"
    paper = "Zhang et al., DCFFSNet: Deep Connectivity Feature Fusion Separation Network for Medical Image Segmentation"
    not_pretrained_because = ""
    published_initialisation = "not said (its reference [4] starts from ImageNet)"
    initial_lr = 1e-4
    weight_decay = 0.0
    voting: ClassVar[str] = "max"

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        return DCFFSNet(
            in_channels,
            num_classes,
            deep_supervision=deep_supervision,
            voting=cls.voting,
            plan=plan.encoder_plan(FEWEST_STAGES),
            **cls.network_options(),
        )

    def _build_loss(self) -> nn.Module:
        assert isinstance(self.bare_network, DCFFSNet), "the network is built before its loss"
        return DCFFSNetLoss(
            self.label_format,
            batch_dice=self.configuration_manager.batch_dice,
            voting=self.voting,
            directions=self.bare_network.directions,
        )
