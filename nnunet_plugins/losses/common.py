"""The frame of every loss, nnU-Net's targets as one-hot maps and a mask, and the Dice and cross-entropy of both."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

# ---- targets ---------------------------------------------------------------------------------------------------------


class LabelFormat(NamedTuple):
    """Format in which nnU-Net presents the targets of a dataset."""

    regions: bool = False
    """Overlapping regions (sigmoid, one-hot targets) instead of classes (softmax, a label map)."""
    ignore_label: int | None = None
    """Label without annotation. With regions, only whether it is ``None`` matters: the mask is the last channel."""


class Target(NamedTuple):
    """A target as one-hot maps and the mask of the annotated pixels."""

    one_hot: Tensor
    """``(B, K, *S)`` float32, 0 where ignored."""
    mask: Tensor | None
    """``(B, 1, *S)`` float32, 1 where annotated; ``None`` if everything is."""

    @property
    def annotated(self) -> Tensor:
        """The mask, which is 1 everywhere if there is none: ``(B, 1, *S)``."""
        return torch.ones_like(self.one_hot[:, :1]) if self.mask is None else self.mask


def split_target(target: Tensor, num_classes: int, label_format: LabelFormat) -> Target:
    """Turn nnU-Net's target into one-hot maps and a mask.

    Args:
        target: ``(B, 1, *S)`` label map, or ``(B, K [+ 1 if ignore], *S)`` regions.
        num_classes: K, the network's segmentation heads.
        label_format: the dataset's.

    Raises:
        ValueError: the target has not the channels that the format asks for.

    Example:
        >>> target = split_target(torch.tensor([[[0, 1, 2]]]), 2, LabelFormat(ignore_label=2))
        >>> target.one_hot.tolist(), target.mask.tolist()
        ([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], [[[1.0, 1.0, 0.0]]])
    """
    has_ignore = label_format.ignore_label is not None
    expected = num_classes + has_ignore if label_format.regions else 1
    if target.shape[1] != expected:
        raise ValueError(f"target has {target.shape[1]} channels, {expected} expected for {label_format}")
    if label_format.regions:
        maps = target.float()
        return masked(maps[:, :num_classes], 1 - maps[:, -1:] if has_ignore else None)
    mask = None if label_format.ignore_label is None else torch.ne(target, label_format.ignore_label).float()
    labels = target.long() if mask is None else target.long() * mask.long()
    one_hot = torch.zeros((target.shape[0], num_classes, *target.shape[2:]), device=target.device)
    return masked(one_hot.scatter_(1, labels, 1.0), mask)


def masked(maps: Tensor, mask: Tensor | None) -> Target:
    """Target of maps ``(B, K, *S)``, which become 0 where ``mask`` ``(B, 1, *S)`` is."""
    return Target(maps if mask is None else maps * mask, mask)


def full_resolution(targets: Tensor | Sequence[Tensor]) -> Tensor:
    """Take the target at input resolution out of the list that nnU-Net hands over while deep supervision is on."""
    return targets if isinstance(targets, Tensor) else targets[0]


# ---- the frame -------------------------------------------------------------------------------------------------------


class PluginLoss(nn.Module):
    """Base of the losses: computes in float32, knows how far the training is, and remembers its terms for the log.

    A loss implements :meth:`terms`. ``epoch`` and ``num_epochs`` are set by the trainer before every epoch: whatever a
    loss schedules is a function of them alone, so that a resumed training needs no further state.

    Args:
        label_format: the dataset's.
    """

    def __init__(self, label_format: LabelFormat) -> None:
        super().__init__()
        self.label_format = label_format
        self.epoch = 0
        self.num_epochs = 1
        self._sums: dict[str, Tensor] = {}
        self._calls = 0

    @property
    def softmax(self) -> bool:
        """Whether the probabilities are a softmax over classes, and not the sigmoid of every region."""
        return not self.label_format.regions

    @property
    def epoch_of_schedule(self) -> int:
        """Epoch whose weights a loss with a schedule uses: the training's, and in validation always the last.

        Or validation losses could not be compared over the epochs, as early stopping and plateaus do.
        """
        return self.epoch if torch.is_grad_enabled() else self.num_epochs - 1

    def forward(self, outputs: Any, targets: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the total loss, a scalar.

        Args:
            outputs: the network's logits ``(B, K, *S)``, or a named tuple that begins with them.
            targets: nnU-Net's (list of one) full-resolution target.
        """
        return self.total(self.terms_in_float32(outputs, targets))

    def terms_in_float32(self, outputs: Any, targets: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss's terms for outputs in any precision, with autocast switched off."""
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        with torch.autocast(logits.device.type, enabled=False):
            target = split_target(full_resolution(targets), logits.shape[1], self.label_format)
            return self.terms(in_float32(outputs), target)

    def terms(self, outputs: Any, target: Target) -> dict[str, Tensor]:
        """Return the weighted terms, each a scalar, whose sum is the loss.

        Args:
            outputs: the network's outputs in float32.
            target: one-hot maps ``(B, K, *S)`` and mask.
        """
        raise NotImplementedError

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Tell the loss the epoch and forget the terms of the last one."""
        self.epoch, self.num_epochs = epoch, num_epochs
        self._sums, self._calls = {}, 0

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Add the terms; those of training steps are remembered for :meth:`mean_terms`, without a GPU sync."""
        if torch.is_grad_enabled():
            self._calls += 1
            for name, value in terms.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        return torch.stack(list(terms.values())).sum()

    def mean_terms(self) -> dict[str, float]:
        """Mean of every term over the training steps of this epoch."""
        return {name: float(value) / self._calls for name, value in self._sums.items()}


def in_float32(outputs: Any) -> Any:
    """Convert a tensor, or all tensors of nested (named) tuples, to float32; anything else stays as it is."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, tuple):
        converted = map(in_float32, outputs)
        return outputs._make(converted) if hasattr(outputs, "_make") else tuple(converted)
    return outputs


# ---- means, cross-entropy and Dice -----------------------------------------------------------------------------------


def to_probabilities(logits: Tensor, *, softmax: bool) -> Tensor:
    """Softmax over the classes of ``(B, K, *S)`` logits, or the sigmoid of every region."""
    return logits.softmax(1) if softmax else logits.sigmoid()


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``x`` where ``mask`` (broadcast to ``x``) is 1; 0, with zero gradient, if it is 1 nowhere.

    Example:
        >>> masked_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 0.0]))
        tensor(1.5000)
    """
    if mask is None:
        return x.mean()
    mask = mask.expand_as(x)
    return (x * mask).sum() / mask.sum().clamp_min(1)


def pixel_cross_entropy(logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
    """Cross-entropy of every pixel of ``(B, K, *S)`` logits: ``(B, 1, *S)`` over classes, or binary ``(B, K, *S)``."""
    if softmax:
        return -(logits.log_softmax(1) * target.one_hot).sum(1, keepdim=True)
    return F.binary_cross_entropy_with_logits(logits, target.one_hot, reduction="none")


def segmentation_cross_entropy(logits: Tensor, target: Target, *, softmax: bool) -> Tensor:
    """Mean cross-entropy of the annotated pixels of ``(B, K, *S)`` logits: over classes, or binary for every region."""
    return masked_mean(pixel_cross_entropy(logits, target, softmax=softmax), target.mask)


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
    """Dice loss and cross-entropy of ``(B, K, *S)`` logits, paired as in nnU-Net.

    For classes, Dice leaves out the background; for regions it counts every one.
    """
    probabilities = to_probabilities(logits, softmax=softmax)
    dice = soft_dice_loss(probabilities, target, batch_dice=batch_dice, background=not softmax)
    return dice, segmentation_cross_entropy(logits, target, softmax=softmax)


# ---- distributed training --------------------------------------------------------------------------------------------


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum ``x`` (of any shape) over all DDP processes, with its gradient; ``x`` itself without DDP."""
    return SumOverProcesses.apply(x) if dist.is_available() and dist.is_initialized() else x


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all DDP processes; its gradient is summed likewise, which DDP's averaging then puts right.

    No function of torch does this in all versions we support: ``torch.distributed.nn.functional.all_reduce`` is
    deprecated and warns, and the functional collective that replaces it has a gradient in the newest versions only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduced(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduced(gradients[0])


def all_reduced(x: Tensor) -> Tensor:
    """Sum ``x`` (of any shape) over all processes, into a new tensor and without a gradient."""
    total = x.clone()
    dist.all_reduce(total)
    return total
