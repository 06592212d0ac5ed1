"""What every loss here shares: nnU-Net's targets as one-hot maps and a mask, masked means, Dice, and the loss terms."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class LabelFormat(NamedTuple):
    """How nnU-Net presents the targets of a dataset (contract 1.4)."""

    regions: bool = False
    """Overlapping regions (sigmoid, one-hot targets) instead of classes (softmax, a label map)."""
    ignore_label: int | None = None
    """Label without annotation. With regions, only whether it is ``None`` matters: the mask is the last channel."""


class Target(NamedTuple):
    """A target as every loss here wants it."""

    one_hot: Tensor
    """``(B, K, *S)`` float32, 0 where ignored."""
    mask: Tensor | None
    """``(B, 1, *S)`` float32, 1 where annotated; ``None`` if everything is."""


def split_target(target: Tensor, num_classes: int, label_format: LabelFormat) -> Target:
    """Turn nnU-Net's target into one-hot maps and a mask.

    Args:
        target: ``(B, 1, *S)`` label map, or ``(B, K [+ 1 if ignore], *S)`` regions.
        num_classes: K, the network's segmentation heads.
        label_format: of the dataset.

    Raises:
        ValueError: the target has not the channels that the format asks for.
    """
    has_ignore = label_format.ignore_label is not None
    expected = num_classes + has_ignore if label_format.regions else 1
    if target.shape[1] != expected:
        raise ValueError(f"target has {target.shape[1]} channels, {expected} expected for {label_format}")
    if label_format.regions:
        return region_target(target.float(), has_ignore)
    mask = None if label_format.ignore_label is None else torch.ne(target, label_format.ignore_label).float()
    labels = target.long() if mask is None else target.long() * mask.long()
    one_hot = torch.zeros((target.shape[0], num_classes, *target.shape[2:]), device=target.device)
    one_hot.scatter_(1, labels, 1.0)
    return masked(one_hot, mask)


def masked(one_hot: Tensor, mask: Tensor | None) -> Target:
    """Maps ``(B, K, *S)`` as a target that is 0 where ``mask`` is."""
    return Target(one_hot if mask is None else one_hot * mask, mask)


def region_target(regions: Tensor, has_ignore: bool) -> Target:
    if not has_ignore:
        return Target(regions, None)
    mask = 1 - regions[:, -1:]
    return masked(regions[:, :-1], mask)


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``x`` where ``mask`` (broadcast to ``x``) is 1; 0, with zero gradient, where nothing is."""
    if mask is None:
        return x.mean()
    mask = mask.expand_as(x)
    return (x * mask).sum() / mask.sum().clamp_min(1)


def segmentation_cross_entropy(logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
    """Cross-entropy of ``(B, K, *S)`` logits: over the classes, or binary for every map."""
    if softmax:
        log_probabilities = logits.log_softmax(1)
        return masked_mean(-(log_probabilities * target.one_hot).sum(1, keepdim=True), target.mask)
    return masked_mean(F.binary_cross_entropy_with_logits(logits, target.one_hot, reduction="none"), target.mask)


def soft_dice_loss(
    probabilities: Tensor, target: Target, *, batch_dice: bool = True, background: bool = True, smooth: float = 1e-5
) -> Tensor:
    """``1 - Dice``, mean over classes.

    With ``batch_dice`` the sums run over the whole batch, in a DDP training over all processes' batches: they are
    reduced over the local batch first, so that the processes may hold batches of different size.

    Args:
        probabilities: ``(B, K, *S)``.
        target: of the same shape.
        batch_dice: one Dice for the batch instead of one for each sample.
        background: count class 0 too.
        smooth: added to numerator and denominator.
    """
    first = 0 if background else 1
    axes = list(range(2, probabilities.ndim))
    if batch_dice:
        axes.insert(0, 0)
    p, y = probabilities[:, first:], target.one_hot[:, first:]
    p = p if target.mask is None else p * target.mask
    sums = torch.stack([(p * y).sum(axes), p.sum(axes), y.sum(axes)])
    if batch_dice:
        sums = sum_over_processes(sums)
    intersection, predicted, true = sums
    return (1 - (2 * intersection + smooth) / (predicted + true + smooth)).mean()


def dice_and_cross_entropy(
    logits: Tensor, target: Target, *, softmax: bool, batch_dice: bool = True
) -> tuple[Tensor, Tensor]:
    """Dice loss and cross-entropy as nnU-Net pairs them: Dice without the background for classes, of every region."""
    probabilities = logits.softmax(1) if softmax else logits.sigmoid()
    dice = soft_dice_loss(probabilities, target, batch_dice=batch_dice, background=not softmax)
    return dice, segmentation_cross_entropy(logits, target, softmax=softmax)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` over all DDP processes, with its gradient; ``x`` itself without DDP."""
    return SumOverProcesses.apply(x) if dist.is_available() and dist.is_initialized() else x


class SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all DDP processes; its gradient is summed likewise, which DDP's averaging then puts right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class PluginLoss(nn.Module):
    """A loss that knows how far the training is, and remembers its terms for the log.

    ``epoch`` and ``num_epochs`` are set by the trainer before every epoch: whatever a loss schedules is a function of
    them alone, so that a resumed training needs no further state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.num_epochs = 1
        self._sums: dict[str, Tensor] = {}
        self._calls = 0

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Tell the loss the epoch and forget the terms of the last one."""
        self.epoch, self.num_epochs = epoch, num_epochs
        self._sums, self._calls = {}, 0

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the (weighted) terms; training steps are remembered for :meth:`mean_terms`, without a GPU sync."""
        if torch.is_grad_enabled():
            self._calls += 1
            for name, value in terms.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        return torch.stack(list(terms.values())).sum()

    def mean_terms(self) -> dict[str, float]:
        """Mean of every term over the training steps of this epoch."""
        return {name: float(value) / self._calls for name, value in self._sums.items()}


def full_resolution(targets: Tensor | Sequence[Tensor]) -> Tensor:
    """The target at input resolution: nnU-Net hands over a list while deep supervision is on."""
    return targets if isinstance(targets, Tensor) else targets[0]
