"""ConDSeg as nnU-Net trainers: Net0 with consistency reinforcement, and both stages of the method in one training."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_plugins.architectures import ConDSeg, Net0
from nnunet_plugins.architectures.condseg import FEWEST_STAGES
from nnunet_plugins.architectures.layers.encoders import load_imagenet_weights
from nnunet_plugins.checkpoint_files import read_checkpoint
from nnunet_plugins.errors import UserError
from nnunet_plugins.losses import ConDSegLoss
from nnunet_plugins.trainers.base import PluginTrainer
from nnunet_plugins.trainers.data.strong_augmentation import strongly_augmented
from nnunet_plugins.trainers.plan import NetworkPlan
from nnunet_plugins.trainers.schedules import EpochSchedule, Schedule

STAGE_1_VARIABLE = "NNUNET_PLUGINS_STAGE1"


class ConDSegNet0Trainer(PluginTrainer):
    """Stage 1 alone: Net0 on the images and on strongly augmented views of them (eq. 1-7), with Adam.

    The paper prints rates and no decay. Its authors' code lowers them on plateaus and keeps the best epoch; nnU-Net
    predicts with the last iterate, which a constant rate leaves wherever its last steps led. Deviation: where the last
    iterate predicts, the rates fall to zero as nnU-Net's own do. ``constant_rate`` is the paper's.

    Deviation: images are augmented as nnU-Net does it, with noise, blur, brightness, contrast and gamma beside the
    paper's rotations and flips, for trainings without consistency reinforcement too.

    Volumes are our extension to the paper's images.
    """

    method = "ConDSeg"
    paper = (
        "Lei et al., ConDSeg: A General Medical Image Segmentation Framework via Contrast-Driven Feature Enhancement"
    )
    not_pretrained_because = ""
    published_initialisation = "ImageNet weights in both stages (authors' code)"
    initial_lr = 1e-4
    weight_decay = 0.0
    enable_deep_supervision = False  # Net0 has one output
    consistency_reinforcement: ClassVar[bool] = True
    constant_rate: ClassVar[bool] = False
    """Whether the printed rates hold to the end."""

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        return Net0(in_channels, num_classes, plan=plan.encoder_plan(FEWEST_STAGES), **cls.network_options())

    @property
    def num_stage_1_epochs(self) -> int:
        """Number of epochs before the stage whose last iterate predicts."""
        return 0

    def build_schedule(self, optimizer: Optimizer) -> Schedule:
        return EpochSchedule(optimizer, self.factor_in_stage, self.num_epochs)

    def factor_in_stage(self, progress: float) -> float:
        """Factor of the rates: nnU-Net's polynomial decay over the last stage's own epochs, 1 before."""
        before = self.num_stage_1_epochs / self.num_epochs
        if self.constant_rate or progress < before:
            return 1.0
        return self.learning_rate_factor((progress - before) / (1 - before))

    def _build_loss(self) -> nn.Module:
        return ConDSegLoss(self.label_format, batch_dice=self.configuration_manager.batch_dice)

    def train_step(self, batch: dict) -> dict:
        """Take a training step, with an augmented view X' of every image (eq. 1) for consistency reinforcement."""
        assert isinstance(self.bare_network, Net0 | ConDSeg)
        if self.consistency_reinforcement and self.bare_network.stage == 1:
            images = batch["data"].to(self.device, non_blocking=True)
            num_image_channels = len(self.configuration_manager.normalization_schemes)
            augmented = strongly_augmented(images[:, :num_image_channels])
            view = torch.cat((augmented, images[:, num_image_channels:]), 1)  # a cascade's segmentation stays
            batch = batch | {"data": torch.stack((images, view), 1)}
        return super().train_step(batch)


class ConDSegTrainer(ConDSegNet0Trainer):
    """Both stages: Net0 for the first 20 % of the epochs, then the whole network with a tenth of its encoder's rate.

    The rates are constant in stage 1, for its encoder goes on learning, and fall over the epochs of stage 2.

    The stage is a function of the epoch. The optimiser has the same two groups of parameters, encoder and rest, in
    both; the second stage starts it afresh, as a training of its own would, and with no record of the first one's Dice.
    """

    enable_deep_supervision = True
    stage_1_percent: ClassVar[int] = 20
    stage_2_encoder_lr: ClassVar[float] = 1e-5

    # ---- network -----------------------------------------------------------------------------------------------------

    @classmethod
    def build_network(cls, in_channels: int, num_classes: int, plan: NetworkPlan, deep_supervision: bool) -> nn.Module:
        return ConDSeg(
            in_channels,
            num_classes,
            deep_supervision=deep_supervision,
            plan=plan.encoder_plan(FEWEST_STAGES),
            **cls.network_options(),
        )

    def load_initial_weights(self) -> str:
        network = self.bare_network
        assert isinstance(network, ConDSeg)
        net0 = network.net0
        if self.initial_encoder == "ImageNet":
            return load_imagenet_weights(net0.encoder, net0.backbone, self.num_input_channels)
        return load_stage_1_encoder(net0.encoder)

    # ---- stages ------------------------------------------------------------------------------------------------------

    @property
    def num_stage_1_epochs(self) -> int:
        """Number of epochs in stage 1, a fifth rounded up; but the last epoch belongs to stage 2."""
        return min(-(-self.stage_1_percent * self.num_epochs // 100), self.num_epochs - 1)

    @property
    def stage(self) -> int:
        """Stage of the current epoch."""
        return 1 if self.current_epoch < self.num_stage_1_epochs else 2

    @property
    def stage_2_begins(self) -> bool:
        """Whether the current epoch is the first of stage 2, after at least one of stage 1."""
        return 0 < self.current_epoch == self.num_stage_1_epochs

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Two groups: the encoder, and the rest."""
        network = self.bare_network
        assert isinstance(network, ConDSeg)
        encoder = list(network.net0.encoder.parameters())
        known = set(map(id, encoder))
        rest = [p for p in network.parameters() if id(p) not in known]
        return [{"params": params, "lr": self.initial_lr} for params in (encoder, rest)]

    def on_train_epoch_start(self) -> None:
        assert isinstance(self.bare_network, ConDSeg)
        self.bare_network.stage = self.stage
        if self.stage_2_begins:
            # Adam has counted steps of weights that had no gradient so far. It would no longer correct their moments'
            # bias, and take steps up to 6 times as long as the rate says.
            self.optimizer.state.clear()
            self._best_ema = None
            self.print_to_log_file("stage 2 begins: Adam, the average Dice and the record of the best begin anew")
        self.lr_scheduler.base_lrs[0] = self.initial_lr if self.stage == 1 else self.stage_2_encoder_lr
        super().on_train_epoch_start()
        encoder_lr, lr = (group["lr"] for group in self.optimizer.param_groups)
        self.print_to_log_file(f"stage {self.stage}: learning rate {encoder_lr:g} for the encoder, {lr:g} for the rest")

    def losses_to_watch(self) -> Sequence[float]:
        """Validation losses of stage 2: those of stage 1 are of another loss, and never end a training."""
        return super().losses_to_watch()[self.num_stage_1_epochs :]

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if self.stage_2_begins:  # or Net0's Dice would have a share in the average, and hold checkpoint_best
            dice = self.logger.get_value("mean_fg_dice", step=self.current_epoch)
            self.logger.get_value("ema_fg_dice", step=None)[self.current_epoch] = dice


def load_stage_1_encoder(encoder: nn.Module) -> str:
    """Load the encoder of the checkpoint ``$NNUNET_PLUGINS_STAGE1`` of any ConDSeg training; return that file's name.

    A ``.safetensors`` file holds the weights of a network or of its encoder alone. No file can run code.

    Raises:
        UserError: the variable is not set, it names no such checkpoint, or one of images with other channels.
    """
    name = os.environ.get(STAGE_1_VARIABLE)
    if not name:
        raise UserError(
            f"{STAGE_1_VARIABLE} is not set: _stage2 trains on the encoder of a stage-1 training, so set it to that "
            "training's checkpoint, e.g. .../ConDSegNet0Trainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth."
        )
    if not Path(name).is_file():
        raise UserError(f"{STAGE_1_VARIABLE}={name}: there is no such file; set it to the checkpoint of stage 1.")
    weights = encoder_weights(Path(name))
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{STAGE_1_VARIABLE}={name} does not fit: expected a ConDSeg training of images with as many channels, "
            f"and with the same backbone, or of volumes with the same stages in its plans "
            f"({' '.join(str(error).split()[:40])} ...)."
        ) from error
    return name


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Weights of the encoder in a checkpoint of nnU-Net, or in a ``.safetensors`` file of a network or an encoder.

    Raises:
        UserError: the file holds no weights, or more than weights and numbers.
    """
    remedy = f"set {STAGE_1_VARIABLE} to e.g. a checkpoint_final.pth, or to an encoder's weights as .safetensors."
    try:
        content = read_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}: {remedy}") from error
    weights = content if path.suffix == ".safetensors" else content.get("network_weights")
    if not isinstance(weights, dict):
        raise UserError(f"{path} is no checkpoint of nnU-Net, for it has no network_weights: {remedy}")
    weights = {str(key): value for key, value in weights.items()}
    encoder = re.compile(r"(net0\.)?encoder\.")
    found = {encoder.sub("", key, count=1): value for key, value in weights.items() if encoder.match(key)}
    return found or weights
