"""Losses of this package in a training: each is told the epoch, and its terms stand in the log."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_plugins.losses.common import PluginLoss


class LossTerms(nnUNetTrainer):
    """Mixin for any trainer of nnU-Net's kind: tells its losses the epoch, and the log the means of their terms."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        for loss in self.losses_with_terms():
            loss.start_epoch(self.current_epoch, self.num_epochs)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        for loss in self.losses_with_terms():
            terms = ", ".join(f"{name} {value:.4f}" for name, value in loss.mean_terms().items())
            inner = "" if loss is self.loss else f" of {type(loss).__name__}, mean over its outputs"
            self.print_to_log_file(f"loss terms{inner}: {terms}")

    def losses_with_terms(self) -> list[PluginLoss]:
        """The trainer's loss and those inside it, e.g. for every output under deep supervision."""
        return [module for module in self.loss.modules() if isinstance(module, PluginLoss)]
