"""Dynamic Region-Guided Optimization (DRGO), section 3.4 of MedFusion-TransNet's paper: its loss.

The paper's equations are missing from its text. They are rebuilt from its sentences in ``drgo_regions`` and
``drgo_boundary``, where every function says what it computes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_plugins.losses.common import (
    LabelFormat,
    PluginLoss,
    Target,
    full_resolution,
    pixel_cross_entropy,
    to_probabilities,
)
from nnunet_plugins.losses.drgo_boundary import boundary_terms
from nnunet_plugins.losses.drgo_regions import (
    RegionStatistics,
    adaptive_loss,
    adaptive_weights,
    dominant_frequency,
    region_grid,
    region_statistics,
)


class DRGOLoss(PluginLoss):
    """``L_seg + alpha * L_adaptive + beta * L_boundary`` for any segmentation loss.

    Args:
        segmentation_loss: called with the network's outputs and nnU-Net's targets unchanged, deep supervision and all.
            The other terms look at the logits at full resolution alone.
        label_format: the dataset's.
        alpha: weight of the adaptive loss.
        beta: weight of the boundary loss; 0 leaves it out ("w/o boundary refinement", Tables 3 and 4).
        gamma: weight of uncertainty against imbalance in the first epoch and in the last one.

    Attributes:
        regions: statistics of the regions in the last training step, for the sampling.
    """

    def __init__(
        self,
        segmentation_loss: nn.Module,
        label_format: LabelFormat,
        *,
        alpha: float = 0.5,
        beta: float = 0.1,
        gamma: tuple[float, float] = (0.7, 0.3),
    ):
        super().__init__(label_format)
        self.segmentation_loss = segmentation_loss
        self.alpha = alpha
        self.beta = beta
        self.first_and_last_gamma = gamma
        self.regions: RegionStatistics | None = None

    @property
    def gamma(self) -> float:
        """Weight of uncertainty in this epoch, in equal steps from the first to the last; in validation the last."""
        first, last = self.first_and_last_gamma
        return first + (last - first) * self.epoch_of_schedule / max(self.num_epochs - 1, 1)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        super().start_epoch(epoch, num_epochs)
        for module in self.segmentation_loss.modules():
            if isinstance(module, PluginLoss):
                module.start_epoch(epoch, num_epochs)

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the total loss for outputs that begin with logits ``(B, K, *S)``, and nnU-Net's targets.

        Raises:
            ValueError: there are not as many logits as targets.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if len(logits) != len(full_resolution(targets)):
            raise ValueError(
                f"{len(logits)} logits for {len(full_resolution(targets))} targets: DRGO needs a network that predicts "
                "every image once (of ConDSeg's trainers those without consistency reinforcement)."
            )
        segmentation = self.segmentation_loss(outputs, targets)  # in the precision that it has without DRGO
        return self.total({"segmentation": segmentation.float()} | self.terms_in_float32(logits, targets))

    def terms(self, outputs: Tensor, target: Target) -> dict[str, Tensor]:
        """Return the adaptive and boundary terms of ``(B, K, *S)`` logits, and keep the regions' statistics."""
        probabilities = to_probabilities(outputs, softmax=self.softmax)
        grid = region_grid(outputs.shape[2:])
        statistics = region_statistics(probabilities, target, grid, softmax=self.softmax)
        if torch.is_grad_enabled():
            self.regions = statistics
        weights = adaptive_weights(statistics, dominant_frequency(target, grid), self.gamma)
        pixel_loss = pixel_cross_entropy(outputs, target, softmax=self.softmax).mean(1, keepdim=True)
        terms = {"alpha * adaptive": self.alpha * adaptive_loss(pixel_loss, target, weights)}
        if self.beta:
            boundary = boundary_terms(probabilities, target, softmax=self.softmax)
            terms |= {f"beta * {name}": self.beta * term for name, term in boundary._asdict().items()}
        return terms
