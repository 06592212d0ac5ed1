"""The reference trainer: a plain U-Net on a timm encoder, trained as nnU-Net trains its own network."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import TimmUNet
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.plan import NetworkPlan

NUM_LEVELS = 5
"""Levels of the decoder of a ResNet."""


class TimmUNetTrainer(PluginTrainer):
    """TimmUNet with nnU-Net's loss, deep supervision, optimiser (SGD, 1e-2, momentum 0.99), schedule and augmentation.

    What a method gains over this trainer is not its encoder's, and what ``_pretrained`` gains here are the weights.
    """

    method = "TimmUNet"
    paper = "no paper but those of U-Net (Ronneberger et al., 2015) and ResNet (He et al., 2016): a reference"
    supported_dimensions = (2,)
    not_pretrained_because = ""
    published_initialisation = "there are none, it is a reference"

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        options = {"num_outputs": len(output_strides(plan.patch_size)), **cls.network_options()}
        return TimmUNet(in_channels, num_classes, deep_supervision=deep_supervision, **options)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if not self.enable_deep_supervision:
            return super()._get_deep_supervision_scales()
        return [[1 / stride] * 2 for stride in output_strides(self.configuration_manager.patch_size)]

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        return torch.optim.SGD(groups, weight_decay=self.weight_decay, momentum=0.99, nesterov=True)


def output_strides(patch_size: Sequence[int]) -> list[int]:
    """Strides 1, 2, 4, ... of the decoder's levels that divide the patch, as the strides of nnU-Net's plans do."""
    return [stride for stride in (2**level for level in range(NUM_LEVELS)) if all(n % stride == 0 for n in patch_size)]
