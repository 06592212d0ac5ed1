"""Connectivity loss, voting and shifts of DCFFSNet against their literal form.

python speed/dcffsnet_ops.py --patch 256 256 --batch 4 --classes 2
python speed/dcffsnet_ops.py --patch 32 32 32 --batch 2

The literal form (the ``literal_*`` functions) writes the equations down as they stand: a shift is a product with
translation matrices, as in reference [4] of DCFFSNet, probabilities are multiplied, and Python loops over samples,
classes and directions. First both forms must agree, in values and gradients, in float64; then they take turns (forward
and backward, in float32). In volumes MSRCM's chains of small kernels stand against one large kernel for each scale,
which is another function: only their times are compared. Last comes the loss's share of a true training step of
DCFFSNetTrainer on such a batch.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from step_time import Setting, add_setting, loss_shares, measure, random_batch, read_setting, seconds, spread
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from nnunet_plugins.architectures.dcffsnet import MSRCM
from nnunet_plugins.architectures.layers.convolutions import conv_norm
from nnunet_plugins.architectures.layers.directions import (
    DIRECTIONS,
    Directions,
    Step,
    directional_vote,
    neighbours,
    opposite,
    shift_groups,
)
from nnunet_plugins.losses.common import LabelFormat, Target, split_target
from nnunet_plugins.losses.dcffsnet import ConnectivityLoss, pair_target

Function = Callable[[Tensor], Tensor]
bce = partial(F.binary_cross_entropy, reduction="none")


def translation(size: int, step: int, like: Tensor) -> Tensor:
    """``T`` with ``(T x)[i] = x[i - step]``, 0 at the border."""
    return torch.diag(like.new_ones(size - abs(step)), -step)


def directions_in(dimensions: int) -> Directions:
    """List the default directions of images or volumes."""
    return DIRECTIONS if dimensions == 2 else neighbours((True,) * dimensions, diagonal=False)


def literal_shift(x: Tensor, step: Step) -> Tensor:
    """Move a map ``(*S)`` by one pixel: a product with a translation matrix along each axis."""
    for axis, length in enumerate(step):
        x = torch.tensordot(translation(x.shape[axis], length, x), x, ([1], [axis])).movedim(0, axis)
    return x


def literal_neighbour(x: Tensor, step: Step) -> Tensor:
    """Value of ``x`` at the neighbour in a direction: a shift the other way round."""
    return literal_shift(x, opposite(step))


def literal_shift_groups(x: Tensor) -> Tensor:
    """Move every channel of ``(B, C, *S)`` in the direction of its group."""
    directions = directions_in(x.ndim - 2)
    width = x.shape[1] // len(directions)
    return torch.stack(
        [torch.stack([literal_shift(c, directions[i // width]) for i, c in enumerate(sample)]) for sample in x]
    )


def literal_bilateral(connectivity: Tensor) -> Tensor:
    """Votes ``v_d(x) = p_d(x) p_d'(x + d)`` for one class: ``(D, *S)`` logits to ``(D, *S)`` probabilities."""
    p = connectivity.sigmoid()
    steps = enumerate(directions_in(connectivity.ndim - 1))
    return torch.stack([p[d] * literal_neighbour(p[-1 - d], step) for d, step in steps])


def literal_known(mask: Tensor) -> Tensor:
    """Connectivity ``(D, *S)`` of a mask ``(*S)``: 1 where a pixel and its neighbour are in image and mask."""
    return torch.stack([mask * literal_neighbour(mask, step) for step in directions_in(mask.ndim)])


def literal_class_probability(votes: Tensor, voting: str) -> Tensor:
    """Reduce votes ``(D, *S)`` to ``(*S)``: their maximum, or the mean over the neighbours that exist."""
    if voting == "max":
        return votes.amax(0)
    return votes.sum(0) / literal_known(torch.ones_like(votes[0])).sum(0)


def literal_vote(connectivity: Tensor, voting: str) -> Tensor:
    """Turn into class logits ``(B, K, *S)`` the connectivity logits ``(B, K, D, *S)``."""
    votes = [[literal_bilateral(c) for c in sample] for sample in connectivity]
    probability = torch.stack([torch.stack([literal_class_probability(v, voting) for v in sample]) for sample in votes])
    return (probability / (1 - probability)).log()


def literal_loss(connectivity: Tensor, target: Target, voting: str) -> Tensor:
    """Literal ``ConnectivityLoss`` for two or more classes: the sum of its terms, with Dice over the batch."""
    logits = literal_vote(connectivity, voting)
    samples, classes = logits.shape[:2]
    mask = torch.ones_like(logits[:, 0]) if target.mask is None else target.mask[:, 0]
    softmax = classes > 2
    probabilities = logits.softmax(1) if softmax else logits.sigmoid()

    cross_entropy = connectivity_bce = bilateral_bce = edge = logits.new_zeros(())
    num_known = num_edges = logits.new_zeros(())
    for b in range(samples):
        known = literal_known(mask[b])
        for k in range(classes):
            y = target.one_hot[b, k]
            pairs = literal_known(y)
            votes = literal_bilateral(connectivity[b, k])
            entropy = -y * probabilities[b, k].log() if softmax else bce(probabilities[b, k], y)
            cross_entropy = cross_entropy + (entropy * mask[b]).sum() / (mask.sum() * (1 if softmax else classes))
            connectivity_bce = connectivity_bce + (bce(connectivity[b, k].sigmoid(), pairs) * known).sum()
            bilateral_bce = bilateral_bce + (bce(votes, pairs) * known).sum()
            num_known = num_known + known.sum()
            is_edge = (pairs.sum(0) > 0) & (pairs.sum(0) < known.sum(0))
            smallest = torch.where(known > 0, votes, 1.0).amin(0)
            edge = edge - ((1 - smallest[is_edge]).log().clamp_min(-100)).sum()
            num_edges = num_edges + is_edge.sum()
    dice = logits.new_zeros(())
    in_dice = range(1 if softmax else 0, classes)
    for k in in_dice:
        p, y = probabilities[:, k] * mask, target.one_hot[:, k]
        dice = dice + 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
    bilateral_weight = ConnectivityLoss.bilateral_weight
    return (
        cross_entropy
        + dice / len(in_dice)
        + (connectivity_bce + bilateral_weight * bilateral_bce) / num_known
        + edge / num_edges.clamp_min(1)
    )


def package_loss(connectivity: Tensor, target: Target, voting: str) -> Tensor:
    directions = directions_in(connectivity.ndim - 3)
    loss = ConnectivityLoss(LabelFormat(), voting=voting, directions=directions)
    return torch.stack(list(loss(connectivity, target, pair_target(target, directions)).values())).sum()


class Operation(NamedTuple):
    """The package's form and the literal one of the same function."""

    package: Function
    literal: Function
    x: Tensor


def operations(patch: Sequence[int], setting: Setting, dtype: torch.dtype) -> dict[str, Operation]:
    """Operations to compare, by name."""
    generator = torch.Generator().manual_seed(0)
    target = split_target(random_batch(patch, setting)[1], setting.classes, LabelFormat())
    target = Target(target.one_hot.to(setting.device, dtype), None)

    def random(*shape: int) -> Tensor:
        return torch.randn((setting.batch, *shape, *patch), generator=generator).to(setting.device, dtype)

    directions = directions_in(len(patch))
    channels = 8 * len(directions)
    connectivity = random(setting.classes, len(directions))
    shift = partial(shift_groups, directions=directions)
    made = {f"shift of {channels} channels": Operation(shift, literal_shift_groups, random(channels))}
    for voting in ("max", "mean"):
        made[f"{voting} voting"] = Operation(
            partial(directional_vote, voting=voting, directions=directions),
            partial(literal_vote, voting=voting),
            connectivity,
        )
        made[f"connectivity loss, {voting} voting"] = Operation(
            partial(package_loss, target=target, voting=voting),
            partial(literal_loss, target=target, voting=voting),
            connectivity,
        )
    return made


def forward_and_gradient(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value, and gradient of its sum with fixed weights."""
    x = x.detach().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y) if y.ndim else None
    (gradient,) = torch.autograd.grad(y, x, weights)
    return y.detach(), gradient


def require_agreement(setting: Setting) -> None:
    """Raise unless both forms give the same values and gradients to 1e-5, in float64 on a small odd patch."""
    patch = tuple(min(size, 37 - 6 * axis) for axis, size in enumerate(setting.patch))
    for name, (package, literal, x) in operations(patch, setting, torch.float64).items():
        results = (forward_and_gradient(function, x) for function in (package, literal))
        for what, own, other in zip(("values", "gradients"), *results, strict=True):
            try:
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-12)
            except AssertionError as error:
                raise AssertionError(f"{name}: {what} of the package's and of the literal form differ") from error


def large_kernels(setting: Setting, channels: int = 24) -> dict[str, Operation]:
    """MSRCM of volumes at half the resolution, and the same with a kernel of 1, 3, 5 and 7 for its scales."""
    chains, kernels = (MSRCM(nn.Conv3d, channels, channels).to(setting.device) for _ in range(2))
    kernels.scales = nn.ModuleList(conv_norm(nn.Conv3d, channels, channels, size) for size in (1, 3, 5, 7))
    kernels.to(setting.device)
    x = torch.randn(setting.batch, channels, *(size // 2 for size in setting.patch), device=setting.device)
    return {f"MSRCM of {channels} channels, chains / kernels": Operation(chains, kernels, x)}


def compare(setting: Setting, steps: int) -> list[tuple[str, ...]]:
    """Table row for each operation: times of both forms, and their ratio."""
    rows: list[tuple[str, ...]] = []
    compared = operations(setting.patch, setting, torch.float32)
    if len(setting.patch) == 3:
        compared |= large_kernels(setting)
    for name, (package, literal, x) in compared.items():
        times: tuple[list[float], list[float]] = ([], [])
        for turn in trange(steps + 1, desc=name, leave=False):
            for function, kept in zip((package, literal), times, strict=True):
                elapsed = seconds(partial(forward_and_gradient, function, x), setting)
                if turn:  # the first one warms up
                    kept.append(elapsed)
        own, other = ([1e3 * t for t in kept] for kept in times)
        rows.append((name, spread(own), spread(other), spread([b / a for a, b in zip(own, other, strict=True)])))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="turns of each form, and of the trainers")
    add_setting(parser)
    parser.set_defaults(batch=4)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    require_agreement(setting)
    print("Values and gradients of both forms agree to 1e-5.")
    print(f"{setting}, {arguments.steps} turns, torch {torch.__version__}\n")
    print("| forward and backward | package, ms | literal, ms | ratio |\n| --- | --- | --- | --- |")
    for row in compare(setting, arguments.steps):
        print("| " + " | ".join(row) + " |", flush=True)
    timing = measure(["DCFFSNetTrainer"], setting, arguments.steps)["DCFFSNetTrainer"]
    print(f"\nThe loss takes {spread(loss_shares(timing), ' %')} of a training step of DCFFSNetTrainer.")


if __name__ == "__main__":
    main()
