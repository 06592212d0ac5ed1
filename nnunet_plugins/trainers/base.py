"""What all trainers of this package share, with the smallest overrides of nnU-Net's own.

Steps, training loop, validation and checkpoints stay nnU-Net's. A network returns a tuple that begins with its logits;
nnU-Net hands that tuple and a list with one full-resolution target to the loss. If the trainer sets
``enable_deep_supervision = False``, the network returns logits alone, and the target is in no list.
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import SoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from nnunet_plugins.architectures.layers.encoders import load_imagenet_weights
from nnunet_plugins.compatibility import trainer_problem
from nnunet_plugins.errors import UserError
from nnunet_plugins.losses.common import LabelFormat, PluginLoss, full_resolution

if problem := trainer_problem(nnUNetTrainer):
    raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")

SEED_VARIABLE = "NNUNET_PLUGINS_SEED"


class PluginTrainer(nnUNetTrainer):
    """Base of all trainers here.

    A class attribute with the name of one of ``nnUNetTrainer``'s instance attributes (``initial_lr``, ``num_epochs``,
    ``weight_decay``, ...) replaces nnU-Net's value, so that trainers declare their paper's numbers as class attributes
    and a variant is a class with other attributes.

    ``NNUNET_PLUGINS_SEED=<int>`` makes a training repeatable (initial weights, and every epoch's random numbers) as far
    as torch's operations are; with ``nnUNet_n_proc_DA=0`` the order of the batches too, so that a resumed training
    equals one that was never interrupted.
    """

    method: ClassVar[str]
    paper: ClassVar[str]
    supported_dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    network_kwargs: ClassVar[dict[str, Any]] = {}
    pretrained: ClassVar[bool] = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ):
        self.refuse_unsupported_dimensions(plans, configuration)
        self.seed = seed_from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name in vars(self):
            if hasattr(type(self), name):
                setattr(self, name, getattr(type(self), name))
        self._weights_follow = False

    @classmethod
    def refuse_unsupported_dimensions(cls, plans: dict, configuration: str) -> None:
        """Raise before anything is written if the method does not exist for the configuration's dimensions."""
        dimensions = len(PlansManager(plans).get_configuration(configuration).patch_size)
        if dimensions not in cls.supported_dimensions:
            offered = " or ".join(f"{d}D" for d in cls.supported_dimensions)
            fitting = [
                name
                for name in plans["configurations"]
                if len(PlansManager(plans).get_configuration(name).patch_size) in cls.supported_dimensions
            ]
            remedy = f"train {' or '.join(fitting)} instead" if fitting else "use another trainer"
            raise UserError(
                f"{cls.__name__} works in {offered} only, but configuration {configuration} is {dimensions}D: {remedy}."
            )

    # ---- network -----------------------------------------------------------------------------------------------------

    @classmethod
    def reference_network(cls) -> nn.Module:
        """The network at the size for which its paper gives the number of parameters."""
        raise NotImplementedError

    @property
    def bare_network(self) -> nn.Module | None:
        """The network without DDP's and torch.compile's wrappers (``None`` before ``initialize``)."""
        network = self.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def initialize(self) -> None:
        if self.seed is not None:
            seed_everything(self.seed)
        super().initialize()
        if self.pretrained and not self._weights_follow:
            self.load_initial_weights()

    def load_initial_weights(self) -> None:
        """Load the ``_pretrained`` variant's weights into :attr:`bare_network`, on every rank.

        ImageNet's into the ``encoder`` that timm calls ``backbone``, unless a method has it elsewhere.
        """
        network: Any = self.bare_network
        load_imagenet_weights(network.encoder, network.backbone, self.num_input_channels)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self._weights_follow = True  # no download for weights that the checkpoint replaces
        super().load_checkpoint(filename_or_checkpoint)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        assert self.bare_network is not None, "the network is built in initialize()"
        self.bare_network.deep_supervision = enabled and self.enable_deep_supervision  # type: ignore[assignment]

    def network_input(self, batch: dict) -> Any:
        """What the network gets of a batch in training and online validation: the images, unless it needs more."""
        return batch["data"]

    def train_step(self, batch: dict) -> dict:
        return super().train_step(batch | {"data": self.network_input(batch)})

    def validation_step(self, batch: dict) -> dict:
        return super().validation_step(batch | {"data": self.network_input(batch)})

    # ---- targets and loss --------------------------------------------------------------------------------------------

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """One target, at full resolution, in a list: the shape in which nnU-Net hands tuples of outputs to the loss."""
        return [[1.0] * len(self.configuration_manager.patch_size)] if self.enable_deep_supervision else None

    @property
    def label_format(self) -> LabelFormat:
        return LabelFormat(self.label_manager.has_regions, self.label_manager.ignore_label)

    def _build_loss(self) -> nn.Module:
        """nnU-Net's Dice and cross-entropy (BCE for regions) on the first output."""
        return FirstOutputLoss(self.dice_and_cross_entropy())

    def dice_and_cross_entropy(self) -> nn.Module:
        """nnU-Net's compound loss, with the Dice that survives DDP batches of different size (contract 1.7)."""
        dice_kwargs = {"batch_dice": self.configuration_manager.batch_dice, "smooth": 1e-5, "ddp": self.is_ddp}
        ignore_label = self.label_manager.ignore_label
        if self.label_manager.has_regions:
            return DC_and_BCE_loss(
                {}, dice_kwargs | {"do_bg": True}, use_ignore_label=ignore_label is not None, dice_class=SoftDiceLoss
            )
        return DC_and_CE_loss(dice_kwargs | {"do_bg": False}, {}, ignore_label=ignore_label, dice_class=SoftDiceLoss)

    # ---- optimiser ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[Optimizer, "Schedule"]:
        if self.is_ddp:
            refuse_fused_normalisation(self.bare_network)
        optimizer = self.build_optimizer(self.parameter_groups())
        return optimizer, self.build_schedule(optimizer)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their learning rates: one for all, unless a method says otherwise."""
        assert self.bare_network is not None, "the network is built in initialize()"
        return [{"params": list(self.bare_network.parameters()), "lr": self.initial_lr}]

    def build_optimizer(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        raise NotImplementedError

    def build_schedule(self, optimizer: Optimizer) -> "Schedule":
        return EpochSchedule(optimizer, self.learning_rate_factor, self.num_epochs)

    @staticmethod
    def learning_rate_factor(progress: float) -> float:
        """Factor of all learning rates after ``progress`` (0 .. 1) of the epochs: nnU-Net's polynomial decay."""
        return (1 - progress) ** 0.9

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def on_epoch_start(self) -> None:
        if self.seed is not None:
            rank_seed = self.seed + 1_000_003 * self.current_epoch + self.local_rank
            seed_everything(rank_seed)
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.loss, PluginLoss):
            self.loss.start_epoch(self.current_epoch, self.num_epochs)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if isinstance(self.loss, PluginLoss):
            terms = self.loss.mean_terms().items()
            self.print_to_log_file("loss terms:", ", ".join(f"{name} {value:.4f}" for name, value in terms))


def refuse_fused_normalisation(network: nn.Module | None) -> None:
    """Raise if synchronised batch normalisation, which nnU-Net puts in next, would drop activations.

    Raises:
        UserError: timm has fused an activation into a batch normalisation of the network.
    """
    assert network is not None, "the network is built in initialize()"
    fused = next((name for name, module in network.named_modules() if isinstance(module, BatchNormAct2d)), None)
    if fused is not None:
        raise UserError(
            f"{fused} of the network is a batch normalisation with an activation, which nnU-Net's synchronisation of "
            "several GPUs would drop: train on one GPU, or choose a backbone without such layers, e.g. a ResNet."
        )


class FirstOutputLoss(nn.Module):
    """Apply a loss to the first output and the full-resolution target."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        return self.loss(logits, full_resolution(targets))


class Schedule(Protocol):
    """What nnU-Net asks for learning rates."""

    def step(self, epoch: int) -> None:
        """Set those of ``epoch``, before it begins."""


class EpochSchedule:
    """Learning rates as a pure function of the epoch, one for each group: nothing to save, nothing lost on resume."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[float], float], num_epochs: int):
        self.optimizer = optimizer
        self.factor = factor
        self.num_epochs = num_epochs
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        """Set the learning rates of ``epoch``; nnU-Net calls this before the epoch."""
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * self.factor(epoch / self.num_epochs)


def seed_from_environment() -> int | None:
    """``NNUNET_PLUGINS_SEED`` as a number, ``None`` if it is not set.

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
