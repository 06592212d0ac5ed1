"""DCSNet as an nnU-Net trainer."""

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import Annotated
from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import full_resolution
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.data.object_boxes import objects_in
from nnunet_plugins.trainers.plan import NetworkPlan
from nnunet_plugins.trainers.schedules import PlateauSchedule


def forget_moments_of_other_shapes(optimizer: Optimizer) -> None:
    """Start anew for parameters that had another shape when a training began: the positions of version 0.2.0."""
    for parameter, moments in optimizer.state.items():
        if any(moment.ndim and moment.shape != parameter.shape for moment in moments.values()):
            optimizer.state[parameter] = {}


class DCSNetTrainer(PluginTrainer):
    """DCSNet, trained with the boxes of the segmentation's components; AdamW, rates halved on a plateau.

    The plateau is that of nnU-Net's validation loss. The paper's 100 epochs are ``_100epochs``, its early stopping is
    ``_earlyStop``; its batches of 4 are the plan's.
    """

    method = "DCSNet"
    paper = (
        "Zhang et al., DCSNet: Multiscale Feature Aggregation for Small Medical Object Segmentation with "
        "Detection-guided Hierarchical Cropping"
    )
    supported_dimensions = (2,)
    not_pretrained_because = ""
    published_initialisation = "ImageNet weights (Tables 2 to 4)"
    initial_lr = 2e-4  # section 4.2, as all numbers below
    weight_decay = 1e-4
    box_margin: ClassVar[float] = 5.0
    """Pixels of the patch by which a true box exceeds its object on every side; the authors' code, too."""
    box_margin_share: ClassVar[float] = 0.1
    """Least margin as a share of the object's width or height, so that large objects have one."""
    plateau_factor: ClassVar[float] = 0.5
    plateau_patience: ClassVar[int] = 5
    max_gradient_norm: ClassVar[float] = 1.0

    # ---- network -----------------------------------------------------------------------------------------------------

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        return DCSNet(in_channels, num_classes, deep_supervision=deep_supervision, **cls.network_options())

    def initialize(self) -> None:
        super().initialize()
        assert isinstance(self.bare_network, DCSNet)
        self.bare_network.set_regions(self.label_manager.has_regions)

    # ---- training ----------------------------------------------------------------------------------------------------

    def _build_loss(self) -> nn.Module:
        return DCSNetLoss(self.label_format, batch_dice=self.configuration_manager.batch_dice)

    def network_input(self, batch: dict) -> Annotated:
        target = full_resolution(batch["target"])
        return Annotated(batch["data"], objects_in(target, self.label_format, self.box_margin, self.box_margin_share))

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        optimizer.register_load_state_dict_post_hook(forget_moments_of_other_shapes)
        optimizer.register_step_pre_hook(partial(clip_gradients, max_norm=self.max_gradient_norm))
        return optimizer

    def build_schedule(self, optimizer: Optimizer) -> PlateauSchedule:
        losses = partial(self.logger.get_value, "val_losses", step=None)  # of a resumed training, too
        return PlateauSchedule(optimizer, losses, self.plateau_factor, self.plateau_patience, self.num_epochs)


def clip_gradients(optimizer: Optimizer, *_: Any, max_norm: float) -> None:
    """Clip once more before a step: after nnU-Net's clipping to 12, without mixed precision's scale."""
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
