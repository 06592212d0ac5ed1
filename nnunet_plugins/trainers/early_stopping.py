"""Early stopping: a training ends when its validation loss has not become better for a number of epochs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class EarlyStopping(nnUNetTrainer):
    """Mixin: ends a training after ``early_stopping_patience`` epochs without a better validation loss.

    Nothing is stored for it: the log, which every checkpoint has, tells whether the training has ended.
    """

    early_stopping_patience: ClassVar[int | None] = None
    """Epochs without a better validation loss; ``None`` trains to the last epoch."""

    def run_training(self) -> None:
        if self.has_stopped_early:
            self.print_to_log_file(f"{self.reason_to_stop} Nothing is left to train.")
            if not Path(self.output_folder, "checkpoint_final.pth").is_file():
                self.on_train_end()
            return
        try:
            super().run_training()
        except EarlyStop:
            self.print_to_log_file(self.reason_to_stop)
            self.on_train_end()

    def on_epoch_start(self) -> None:
        if self.has_stopped_early:
            raise EarlyStop
        super().on_epoch_start()

    @property
    def has_stopped_early(self) -> bool:
        """Whether the log so far asks to stop."""
        patience = self.early_stopping_patience
        return patience is not None and epochs_without_improvement(self.losses_to_watch()) >= patience

    @property
    def reason_to_stop(self) -> str:
        return (
            f"The training ends after epoch {self.current_epoch - 1}: no better validation loss in "
            f"{self.early_stopping_patience} epochs."
        )

    def losses_to_watch(self) -> Sequence[float]:
        """Validation losses of the epochs so far that can be compared with each other."""
        return self.logger.get_value("val_losses", step=None)


class EarlyStop(Exception):
    """Raised to leave nnU-Net's loop over the epochs."""


def epochs_without_improvement(losses: Sequence[float]) -> int:
    """Number of epochs since the smallest loss; ``nan`` is never an improvement.

    Example:
        >>> epochs_without_improvement([3.0, 1.0, 2.0, 1.0])
        2
    """
    best, since = math.inf, 0
    for loss in losses:
        best, since = (loss, 0) if loss < best else (best, since + 1)
    return since
