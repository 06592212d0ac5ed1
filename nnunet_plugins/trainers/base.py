"""Base classes of all trainers here, with the smallest overrides of nnU-Net's own.

Steps, training loop, validation and checkpoints stay nnU-Net's. A network returns a tuple that begins with its logits;
nnU-Net hands that tuple and a list with one full-resolution target to the loss. If the trainer sets
``enable_deep_supervision = False``, the network returns logits alone, and the loss gets the target itself instead of a
list.
"""

import os
import random
from collections import ChainMap
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from packaging.version import Version
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from nnunet_plugins.architectures.layers.encoders import load_imagenet_weights
from nnunet_plugins.compatibility import require_trainer
from nnunet_plugins.errors import UserError
from nnunet_plugins.losses import DiceCrossEntropyLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.quiet_timm import timm
from nnunet_plugins.trainers.early_stopping import EarlyStopping
from nnunet_plugins.trainers.limits import Limits, refuse_unknown_configuration
from nnunet_plugins.trainers.loss_terms import LossTerms
from nnunet_plugins.trainers.memory.fitting import FittingTrainer
from nnunet_plugins.trainers.plan import REFERENCE_PLANS, NetworkPlan
from nnunet_plugins.trainers.safe_training import SafeTraining
from nnunet_plugins.trainers.schedules import EpochSchedule, Schedule

require_trainer(nnUNetTrainer)

SEED_VARIABLE = "NNUNET_PLUGINS_SEED"


class BaseTrainer(Limits, SafeTraining, EarlyStopping, FittingTrainer, LossTerms):
    """nnU-Net's trainer with numbers as class attributes, repeatable trainings, and the loss's terms in the log.

    A class attribute with the name of one of ``nnUNetTrainer``'s instance attributes (``initial_lr``, ``num_epochs``,
    ``weight_decay``, ...) replaces nnU-Net's value, so that trainers declare their paper's numbers as class attributes
    and a variant is a class with other attributes.

    ``NNUNET_PLUGINS_SEED=<int>`` makes a training repeatable (initial weights, and every epoch's random numbers) as far
    as torch's operations are; with ``nnUNet_n_proc_DA=0`` the batches too, which loader processes draw anew each time,
    so that a resumed training equals one that was never interrupted.
    """

    method: ClassVar[str]
    paper: ClassVar[str]
    reference_channels: ClassVar[tuple[int, int]] = (3, 1)
    """Input channels and classes for which the paper gives the number of parameters."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ):
        refuse_unknown_configuration(plans, configuration)
        self.refuse_unsupported_dimensions(plans, configuration)
        self.refuse_small_patches(plans, configuration)
        self.seed = seed_from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name in vars(self):
            if hasattr(type(self), name):
                setattr(self, name, getattr(type(self), name))

    @classmethod
    def reference_network(cls) -> nn.Module:
        """The network at the size for which its paper gives the number of parameters."""
        plans = PlansManager(REFERENCE_PLANS)
        return cls.build_network_architecture(plans, plans.get_configuration("2d"), *cls.reference_channels)

    def initialize(self) -> None:
        if self.seed is not None:
            seed_everything(self.seed)
        if self.is_ddp and Version(torch.__version__) < Version("2.6"):
            torch._dynamo.config.optimize_ddp = False  # which refuses graphs with autograd functions of one's own
        super().initialize()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the network's further outputs; nnU-Net switches them on after every validation, wanted or not."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    # ---- loss --------------------------------------------------------------------------------------------------------

    @property
    def label_format(self) -> LabelFormat:
        return LabelFormat(self.label_manager.has_regions, self.label_manager.ignore_label)

    def _build_loss(self) -> nn.Module:
        """Dice and cross-entropy of every output that has a target, each counting half of the next finer one.

        The weights are nnU-Net's, but the coarsest output has 1e-6 instead of 0, so that every parameter has a
        gradient, as DDP wants it.
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

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def on_epoch_start(self) -> None:
        if self.seed is not None:
            rank_seed = self.seed + 1_000_003 * self.current_epoch + self.local_rank
            seed_everything(rank_seed)
        super().on_epoch_start()


class PluginTrainer(BaseTrainer):
    """Trainer of a network of this package: Adam with nnU-Net's decay, unless a method says otherwise.

    A method gives :meth:`build_network` and, most often, ``_build_loss`` and its paper's numbers.
    """

    network_kwargs: ClassVar[dict[str, Any]] = {}
    """Arguments of the network; a class adds to those of its base classes, or replaces them one by one."""
    pretrained: ClassVar[bool] = False
    """Whether the encoder starts from weights; ``_pretrained`` in a name sets this."""
    not_pretrained_because: ClassVar[str] = "its network has no encoder from timm"
    """Why ``_pretrained`` is refused; empty for networks with an encoder from timm."""
    initial_encoder: ClassVar[str] = "ImageNet"
    """Where the weights of ``pretrained`` come from."""
    published_initialisation: ClassVar[str] = "random weights"
    """Start of the trainings behind the paper's figures."""
    enable_deep_supervision: ClassVar[bool] = True
    """Whether the network returns more than its logits in training."""
    outputs_at_every_stage: ClassVar[bool] = False
    """Whether these are logits at every stage of the plan, each with a target of its own, as nnU-Net's are."""
    _checkpoint_loaded = False

    # ---- network -----------------------------------------------------------------------------------------------------

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        """Build the method's network, with :meth:`network_options`, for training and inference alike.

        Args:
            in_channels: channels of the image, and in a cascade of the segmentation that comes with it.
            num_classes: segmentation heads: classes with background, or regions.
            plan: for networks that follow nnU-Net's plans.
            deep_supervision: whether the network shall return more than its logits.
        """
        raise NotImplementedError

    @classmethod
    def network_options(cls) -> dict[str, Any]:
        """:attr:`network_kwargs` of this class and its base classes."""
        return dict(ChainMap(*(vars(base).get("network_kwargs", {}) for base in cls.__mro__)))

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        plan = NetworkPlan(plans_manager, configuration_manager, num_input_channels)
        deep_supervision = enable_deep_supervision and cls.enable_deep_supervision
        return cls.build_network(num_input_channels, num_output_channels, plan, deep_supervision)

    @property
    def bare_network(self) -> nn.Module | None:
        """The network without DDP's and torch.compile's wrappers (``None`` before ``initialize``)."""
        network = self.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def initialize(self) -> None:
        super().initialize()
        if self._checkpoint_loaded:
            return
        start = "random weights"
        if self.pretrained:
            start = f"the encoder starts from {self.initial_encoder} weights ({self.load_initial_weights()})"
        self.print_to_log_file(f"initialisation: {start}; the paper's figures: {self.published_initialisation}")

    def load_initial_weights(self) -> str:
        """Load the ``_pretrained`` variant's weights into :attr:`bare_network`, on every rank; tell where they lay.

        ImageNet's into the ``encoder`` that timm calls ``backbone``, unless a method has it elsewhere.
        """
        network: Any = self.bare_network
        return load_imagenet_weights(network.encoder, network.backbone, self.num_input_channels)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self._checkpoint_loaded = True  # no download for weights that the checkpoint replaces
        super().load_checkpoint(filename_or_checkpoint)

    # ---- steps -------------------------------------------------------------------------------------------------------

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        assert self.bare_network is not None, "the network is built in initialize()"
        self.bare_network.deep_supervision = enabled and self.enable_deep_supervision  # type: ignore[assignment]

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """One target, at full resolution, in a list: the shape in which nnU-Net hands tuples of outputs to the loss."""
        if self.outputs_at_every_stage or not self.enable_deep_supervision:
            return super()._get_deep_supervision_scales()
        return [[1.0] * len(self.configuration_manager.patch_size)]

    def network_input(self, batch: dict) -> Any:
        """Input of the network in training and online validation: a batch's images, unless it needs more."""
        return batch["data"]

    def train_step(self, batch: dict) -> dict:
        return super().train_step(batch | {"data": self.network_input(batch)})

    def validation_step(self, batch: dict) -> dict:
        return super().validation_step(batch | {"data": self.network_input(batch)})

    # ---- optimiser ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[Optimizer, Schedule]:
        if self.is_ddp:
            refuse_fused_normalisation(self.bare_network)
        optimizer = self.build_optimizer(self.parameter_groups())
        return optimizer, self.build_schedule(optimizer)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their learning rates: one for all, unless a method says otherwise."""
        assert self.bare_network is not None, "the network is built in initialize()"
        return [{"params": list(self.bare_network.parameters()), "lr": self.initial_lr}]

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        fused = True if self.device.type == "cpu" else None  # a quarter of the time
        return torch.optim.Adam(groups, weight_decay=self.weight_decay, fused=fused)

    def build_schedule(self, optimizer: Optimizer) -> Schedule:
        return EpochSchedule(optimizer, self.learning_rate_factor, self.num_epochs)

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Factor of all learning rates after ``progress`` (0 .. 1) of the epochs: nnU-Net's polynomial decay."""
        return (1 - progress) ** 0.9


def refuse_fused_normalisation(network: nn.Module | None) -> None:
    """Raise if synchronised batch normalisation, which nnU-Net puts in next, would drop activations.

    Raises:
        UserError: timm has fused an activation into a batch normalisation of the network.
    """
    assert network is not None, "the network is built in initialize()"
    kind = timm.layers.BatchNormAct2d
    fused = next((name for name, module in network.named_modules() if isinstance(module, kind)), None)
    if fused is not None:
        raise UserError(
            f"{fused} of the network is a batch normalisation with an activation, which nnU-Net's synchronisation of "
            "several GPUs would drop: train on one GPU, or choose a backbone without such layers, e.g. a ResNet."
        )


def seed_from_environment() -> int | None:
    """Value of ``NNUNET_PLUGINS_SEED``, ``None`` if it is not set.

    Raises:
        UserError: it is no whole number.
    """
    value = os.environ.get(SEED_VARIABLE, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) >= 2**31:
        raise UserError(f"{SEED_VARIABLE}={value}: expected a whole number from 0 to 2147483647, or nothing at all.")
    return int(value)


def seed_everything(seed: int) -> None:
    """Seed the generators that nnU-Net and batchgenerators draw from, in this process."""
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders use the global generator)
    torch.manual_seed(seed)
