"""A training whose loss is no number ends, instead of training on and exiting with 0."""

from typing import Any, ClassVar

import numpy as np
import torch

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.checkpoints import SafeCheckpoints, all_finite


class FiniteLosses(SafeCheckpoints):
    """Mixin: ends a training after a few steps in a row whose loss is NaN or infinite, and keeps the good checkpoints.

    A single one is no fault: mixed precision's gradient scaler skips it, and the running statistics, which the scaler
    does not guard, become those of the epoch's beginning. Without a scaler its gradient makes all weights NaN, and so
    every later loss. If the images themselves hold NaN, the first such step ends the training. In a distributed
    training the process that sees it ends, and with it all.
    """

    steps_without_loss: ClassVar[int] = 5
    """Steps in a row after which chance is no explanation: 2 % of an epoch of nnU-Net's."""
    non_finite_steps = 0
    """Steps in a row, up to now, whose loss is no number."""
    non_finite_in_epoch = 0
    suspicious_cases: frozenset[str] = frozenset()
    """Cases of the last step whose images hold voxels that are no numbers."""
    running_statistics: dict[str, torch.Tensor]
    """The network's buffers of numbers, such as those of batch normalisation, as the epoch has found them."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        buffers = self.network.named_buffers()
        self.running_statistics = {name: value.clone() for name, value in buffers if value.is_floating_point()}

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        if np.isfinite(result.get("loss", 0.0)).all():
            self.non_finite_steps = 0
            return result
        self.non_finite_steps += 1
        self.non_finite_in_epoch += 1
        self.suspicious_cases = non_finite_cases(batch)
        if self.suspicious_cases or self.non_finite_steps >= self.steps_without_loss:
            raise UserError(self.why_it_ends(f"its loss is no number (NaN or infinite){self.in_a_row()}"))
        self.restore_statistics()
        return result

    def restore_statistics(self) -> None:
        """Give buffers that hold NaN or infinite numbers their values of the epoch's beginning."""
        for name, value in self.network.named_buffers():
            if name in self.running_statistics and not torch.isfinite(value).all():
                value.copy_(self.running_statistics[name])

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if self.non_finite_in_epoch:
            self.print_to_log_file(
                f"the loss of {self.non_finite_in_epoch} training steps of this epoch was no number: {self.cause()}"
            )
            self.non_finite_in_epoch = 0

    def save_checkpoint(self, filename: str) -> None:
        """Save, unless weights or running statistics are NaN: that would replace a checkpoint that is good."""
        if not (self.disable_checkpointing or all_finite(self.network.state_dict().values())):
            raise UserError(self.why_it_ends("weights of its network are no numbers (NaN or infinite)"))
        super().save_checkpoint(filename)

    def in_a_row(self) -> str:
        return f" in {self.non_finite_steps} steps in a row" if self.non_finite_steps > 1 else ""

    def why_it_ends(self, fault: str) -> str:
        """Tell in which epoch the training ends, what to look for, and which checkpoint is good."""
        good = self.last_checkpoint()
        kept = f"the last checkpoint with finite weights is {good}" if good else "it has no checkpoint yet"
        return f"The training ends in epoch {self.current_epoch}, for {fault}: {self.cause()}; {kept}."

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
        return f"the images of the last steps hold numbers only; look at the learning rate ({rate:g}){half}"


def non_finite_cases(batch: dict[str, Any]) -> frozenset[str]:
    """Names of a batch's cases whose images hold voxels that are NaN or infinite."""
    data = batch["data"]
    images = data if isinstance(data, torch.Tensor) else data[0]  # the images come first where there is more
    return frozenset(
        str(case) for case, image in zip(batch.get("keys", ()), images, strict=False) if not torch.isfinite(image).all()
    )
