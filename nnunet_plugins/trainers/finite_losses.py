"""A training whose loss is no number ends, instead of training on and exiting with 0."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.checkpoints import last_checkpoint


class FiniteLosses(nnUNetTrainer):
    """Mixin: ends a training after a few steps in a row whose loss is NaN or infinite, and keeps the good checkpoints.

    A single one is no fault: mixed precision's gradient scaler skips it. Without a scaler its gradient makes all
    weights NaN, and so every later loss. In a distributed training the process that sees it ends, and with it all.
    """

    steps_without_loss: ClassVar[int] = 5
    """Steps in a row after which chance is no explanation: 2 % of an epoch of nnU-Net's."""
    non_finite_steps = 0
    """Steps in a row, up to now, whose loss is no number."""
    non_finite_in_epoch = 0
    suspicious_cases: frozenset[str] = frozenset()
    """Cases of such steps whose images hold voxels that are no numbers."""

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        if np.isfinite(result.get("loss", 0.0)).all():
            self.non_finite_steps = 0
            return result
        self.non_finite_steps += 1
        self.non_finite_in_epoch += 1
        self.suspicious_cases |= non_finite_cases(batch)
        if self.non_finite_steps >= self.steps_without_loss:
            raise UserError(self.why_no_number())
        return result

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if self.non_finite_in_epoch:
            self.print_to_log_file(
                f"the loss of {self.non_finite_in_epoch} training steps of this epoch was no number: {self.cause()}"
            )
            self.non_finite_in_epoch = 0

    def save_checkpoint(self, filename: str) -> None:
        """Save, unless the last steps have made the weights NaN: that would replace a checkpoint that is good."""
        if self.non_finite_steps and not self.disable_checkpointing and not has_finite_weights(self.network):
            raise UserError(self.why_no_number())
        super().save_checkpoint(filename)

    def why_no_number(self) -> str:
        """Tell in which epoch the training ends, what to look for, and which checkpoint is good."""
        good = last_checkpoint(Path(self.output_folder), finite=True)
        kept = f"the last checkpoint with finite weights is {good}" if good else "no checkpoint has finite weights"
        return (
            f"The training ends in epoch {self.current_epoch}, for its loss is no number (NaN or infinite) in "
            f"{self.non_finite_steps} steps in a row: {self.cause()}; {kept}."
        )

    def cause(self) -> str:
        """Tell what to look for: the cases whose images are no numbers, or else the numbers of the training."""
        if self.suspicious_cases:
            cases = ", ".join(sorted(self.suspicious_cases))
            return (
                f"the images of {cases} in {self.preprocessed_dataset_folder} hold voxels that are NaN or infinite; "
                "correct these images and preprocess them again"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        half = ", or at float16, whose largest number is 65504" if self.grad_scaler is not None else ""
        return f"the images of these steps hold numbers only; look at the learning rate ({rate:g}){half}"


def has_finite_weights(network: nn.Module) -> bool:
    """Whether all weights are numbers."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())


def non_finite_cases(batch: dict[str, Any]) -> frozenset[str]:
    """Names of a batch's cases whose images hold voxels that are NaN or infinite."""
    data = batch["data"]
    images = data if isinstance(data, torch.Tensor) else data[0]  # the images come first where there is more
    return frozenset(
        str(case) for case, image in zip(batch.get("keys", ()), images, strict=False) if not torch.isfinite(image).all()
    )
