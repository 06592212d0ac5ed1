"""Window aggregation of ConDSeg's CDFA against its literal form: time and memory.

python speed/condseg_ops.py --patch 256 256 --batch 4

The literal form unfolds the values, applies two K^2 x K^2 matrices to every window, one after the other, and folds the
windows. The package's form multiplies the matrices first and applies one filter of (2K - 1)^2 taps. First both must
agree, in values and gradients, in float64; then they take turns: the operation alone at every level of the network, and
a training step of the network in stage 2, both forward and backward (on CUDA in float16, or under autocast).
"""

import argparse
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple
from unittest import mock

import torch
from step_time import Setting, add_setting, random_batch, read_setting, seconds, spread
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from nnunet_plugins.architectures import ConDSeg
from nnunet_plugins.architectures.condseg import NUM_LEVELS
from nnunet_plugins.architectures.layers import contrast
from nnunet_plugins.architectures.layers.windows import aggregate_windows
from nnunet_plugins.benchmark.cost import storage_bytes
from nnunet_plugins.losses import ConDSegLoss
from nnunet_plugins.losses.common import LabelFormat

CHANNELS, NUM_HEADS = 128, 4  # ConDSeg's, by default

Aggregation = Callable[[Tensor, Tensor, Tensor], Tensor]


def literal_aggregation(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Literal form of eq. 11, 13 and 14; the shapes are those of ``aggregate_windows``."""
    *_, members, height, width = inner.shape
    window = round(members**0.5)
    unfolded = F.unfold(values.flatten(1, 2), window, padding=window // 2)  # (B, heads * C * K^2, H * W)
    unfolded = unfolded.unflatten(1, (*values.shape[1:3], members)).permute(0, 1, 4, 3, 2)  # (B, heads, H * W, K^2, C)
    outer, inner = (x.flatten(4).permute(0, 1, 4, 2, 3) for x in (outer, inner))  # (B, heads, H * W, K^2, K^2)
    windows = (outer @ (inner @ unfolded)).permute(0, 1, 4, 3, 2).flatten(1, 3)  # (B, heads * C * K^2, H * W)
    return F.fold(windows, (height, width), window, padding=window // 2).view_as(values)


def forms() -> tuple[Aggregation, Aggregation]:
    return literal_aggregation, aggregate_windows


class Operation(NamedTuple):
    """A function that aggregates windows, in the form that it is given."""

    forward: Callable[[Aggregation], Tensor]
    inputs: list[Tensor]
    """Tensors that get a gradient."""

    def value_and_gradients(self, form: Aggregation) -> list[Tensor]:
        """The value, and the gradients of its sum with fixed weights."""
        y = self.forward(form)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape) if y.ndim else None
        return [y.detach(), *torch.autograd.grad(y, self.inputs, weights)]


def aggregation(size: Sequence[int], window: int, setting: Setting, *, exact: bool) -> Operation:
    """Aggregation alone, without the network around it."""
    dtype = torch.float64 if exact else torch.float16 if setting.device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        x = torch.randn((setting.batch, NUM_HEADS, *shape, *size), generator=generator)
        return x.to(setting.device, dtype)

    values = random(CHANNELS // NUM_HEADS).requires_grad_()
    outer, inner = (random(window**2, window**2).softmax(3).requires_grad_() for _ in range(2))
    return Operation(lambda form: form(values, outer, inner), [values, outer, inner])


def training_step(patch: Sequence[int], window: int, setting: Setting, *, exact: bool) -> Operation:
    """Sum of the outputs of the whole network in stage 2."""
    dtype, autocast = torch.float64 if exact else torch.float32, setting.device == "cuda" and not exact
    network = ConDSeg(setting.channels, setting.classes, deep_supervision=True, window=window)
    network.to(setting.device, dtype)
    loss = ConDSegLoss(LabelFormat())
    image, mask = random_batch(patch, setting)
    image, mask = image.to(setting.device, dtype), mask.to(setting.device)

    def forward(form: Aggregation) -> Tensor:
        with mock.patch.object(contrast, "aggregate_windows", form), torch.autocast("cuda", enabled=autocast):
            return loss(network(image), mask)

    return Operation(forward, list(network.parameters()))


def operations(patch: Sequence[int], window: int, setting: Setting, *, exact: bool) -> dict[str, Operation]:
    """Operations to compare, by name."""
    made = {}
    for depth in range(1, NUM_LEVELS + 1):
        size = [-(-length // 2**depth) for length in patch]
        made[f"aggregation, {'x'.join(map(str, size))}"] = aggregation(size, window, setting, exact=exact)
    made[f"ConDSeg, {'x'.join(map(str, patch))}"] = training_step(patch, window, setting, exact=exact)
    return made


def require_agreement(window: int, setting: Setting) -> None:
    """Raise unless both forms give the same values and gradients to 1e-5, in float64 on a small odd patch."""
    patch = tuple(map(min, setting.patch, (37, 29)))
    for name, operation in operations(patch, window, setting, exact=True).items():
        literal, own = map(operation.value_and_gradients, forms())
        try:
            torch.testing.assert_close(own, literal, rtol=1e-5, atol=1e-9)
        except AssertionError as error:
            raise AssertionError(f"{name}: values or gradients of the two forms differ") from error


def kept_bytes(operation: Operation, form: Aggregation) -> int:
    """Number of bytes that autograd keeps for the backward pass."""
    kept: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.detach())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        operation.value_and_gradients(form)
    return storage_bytes(kept)


def step_peak(form: Aggregation | None, window: int, setting: Setting) -> int:
    """Peak memory in bytes after a training step, or before one if the form is ``None``.

    The allocator's on CUDA, this process's elsewhere.
    """
    torch.set_num_threads(setting.threads)
    operation = training_step(setting.patch, window, setting, exact=False)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if form is not None:
        operation.value_and_gradients(form)
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def step_peaks(window: int, setting: Setting) -> list[int]:
    """Memory that a training step needs on top of network and batch, for each form in a fresh process.

    From a fork server, for Linux hands the peak of a process down to what it executes.
    """
    peaks = []
    for form in (None, *forms()):
        with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
            peaks.append(pool.submit(step_peak, form, window, setting).result())
    before, *after = peaks
    return [peak - before for peak in after]


def memory(literal: int, own: int) -> tuple[str, str]:
    """Two cells of a row: MB of the literal form, and its ratio to the package's."""
    return f"{literal / 2**20:.0f}", f"{literal / own:.2f}"


def compare(window: int, setting: Setting, steps: int) -> list[tuple[str, ...]]:
    """Table row for each operation: time and kept memory of the literal form, and their ratios to the package's."""
    rows: list[tuple[str, ...]] = []
    for name, operation in operations(setting.patch, window, setting, exact=False).items():
        kept = [kept_bytes(operation, form) for form in forms()]  # warms up, too
        times: tuple[list[float], list[float]] = ([], [])
        for _ in trange(steps, desc=name, leave=False):
            for form, own in zip(forms(), times, strict=True):
                own.append(seconds(partial(operation.value_and_gradients, form), setting))
        ratios = [literal / package for literal, package in zip(*times, strict=True)]
        rows.append((name, spread([1e3 * t for t in times[0]]), spread(ratios), *memory(*kept)))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="turns of each form")
    parser.add_argument("--window", type=int, default=3, help="K, odd")
    add_setting(parser)
    parser.set_defaults(batch=4)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    if len(setting.patch) != 2:
        parser.error("ConDSeg is 2D: give two numbers to --patch")
    if setting.compile:
        parser.error("--compile: the forms are compared as they stand; step_time.py compiles")

    require_agreement(arguments.window, setting)
    print("Values and gradients of both forms agree to 1e-5.")
    print(f"{setting}, window {arguments.window}, {arguments.steps} turns, torch {torch.__version__}\n")
    print("| forward and backward | literal, ms | ratio | literal keeps, MB | ratio |\n| --- | --- | --- | --- | --- |")
    for row in compare(arguments.window, setting, arguments.steps):
        print("| " + " | ".join(row) + " |", flush=True)
    literal, ratio = memory(*step_peaks(arguments.window, setting))
    print(f"\nPeak of a training step of ConDSeg on top of network and batch: {literal} MB if literal, ratio {ratio}.")
    print("Ratios: how often the package's form fits into the literal one. Times: median (quartiles) over the turns.")


if __name__ == "__main__":
    main()
