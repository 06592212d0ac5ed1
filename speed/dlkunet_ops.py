"""Dilated convolution of DLKUNet's large-kernel attention: plain or on interleaved grids, in both memory formats.

python speed/dlkunet_ops.py --patch 128 128 --batch 2 --channels 1
python speed/dlkunet_ops.py --patch 32 32 32 --batch 2 --channels 1

Plain is ``conv(x)``. Split is ``conv_on_grids``: interleaved grids in the batch, and as much of the kernel as meets
data. Each takes contiguous and channels-last inputs and weights: the convolution at every resolution of the network,
then the whole network. First all four must agree, in values and gradients, in float64; then they take turns (forward
and backward, in float32, on CUDA under autocast as nnU-Net trains).
"""

import argparse
import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

import torch
from step_time import Setting, add_setting, read_setting, seconds, spread
from torch import Tensor, nn
from tqdm import trange

from nnunet_plugins.architectures import DLKUNet, dlkunet
from nnunet_plugins.architectures.layers.dilation import conv_on_grids

DilatedConv = Callable[[nn.Conv2d | nn.Conv3d, Tensor], Tensor]


def plain_conv(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    return conv(x)


class Form(NamedTuple):
    """One way to compute the dilated convolutions."""

    conv: DilatedConv
    channels_last: bool


def forms() -> dict[str, Form]:
    """Forms by name; all others are compared with the first."""
    return {
        "plain": Form(plain_conv, False),
        "plain, channels last": Form(plain_conv, True),
        "split": Form(conv_on_grids, False),
        "split, channels last": Form(conv_on_grids, True),
    }


class Operation(NamedTuple):
    """A module whose dilated convolutions can be computed in any form, and its input."""

    run: Callable[[nn.Module, DilatedConv, Tensor], Tensor]
    module: nn.Module
    x: Tensor


def run_conv(conv: nn.Module, form: DilatedConv, x: Tensor) -> Tensor:
    assert isinstance(conv, (nn.Conv2d, nn.Conv3d))
    return form(conv, x)


def run_network(network: nn.Module, form: DilatedConv, x: Tensor) -> Tensor:
    with mock.patch.object(dlkunet, "dilated_conv", form):
        return network(x)


def operations(
    variant: str, patch: Sequence[int], setting: Setting, dtype: torch.dtype, base_channels: int = 96
) -> dict[str, Operation]:
    """Operations to compare, by name: the convolution in every block of the encoder, and the network."""
    generator = torch.Generator().manual_seed(0)
    conv_op = nn.Conv2d if len(patch) == 2 else nn.Conv3d
    network = DLKUNet(
        setting.channels, setting.classes, variant=variant, conv_op=conv_op, base_channels=base_channels
    ).to(setting.device, dtype)

    def random(channels: int, size: Sequence[int]) -> Tensor:
        return torch.randn((setting.batch, channels, *size), generator=generator).to(setting.device, dtype)

    made = {}
    for depth, block in enumerate(network.encoder):
        size = [-(-length // 2**depth) for length in patch]
        conv = block.attention.spatial
        channels = conv.in_channels
        name = f"convolution, {channels} channels, {'x'.join(map(str, size))}"
        made[name] = Operation(run_conv, conv, random(channels, size).requires_grad_())
    made[f"DLKUNet-{variant}, {'x'.join(map(str, patch))}"] = Operation(
        run_network, network, random(setting.channels, patch)
    )
    return made


def forward_and_gradients(operation: Operation, form: Form) -> Callable[[], list[Tensor]]:
    """A function that gives the value, and the gradients of its sum with fixed weights."""
    run, module, x = operation
    if form.channels_last:
        memory_format = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        module = copy.deepcopy(module).to(memory_format=memory_format)
        x = x.detach().contiguous(memory_format=memory_format).requires_grad_(x.requires_grad)
    inputs = [*([x] if x.requires_grad else []), *module.parameters()]
    autocast = torch.autocast("cuda") if x.device.type == "cuda" and x.dtype == torch.float32 else None

    def forward_and_backward() -> list[Tensor]:
        with autocast or contextlib.nullcontext():
            y = run(module, form.conv, x)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
        return [y.detach(), *torch.autograd.grad(y, inputs, weights)]

    return forward_and_backward


def require_agreement(variant: str, setting: Setting) -> None:
    """Raise unless all forms give the same values and gradients to 1e-5, in float64 on a small odd patch."""
    patch = tuple(map(min, setting.patch, (29, 23) if len(setting.patch) == 2 else (13, 11, 9)))
    for name, operation in operations(variant, patch, setting, torch.float64, base_channels=6).items():
        first, *others = (forward_and_gradients(operation, form)() for form in forms().values())
        for form, other in zip(list(forms())[1:], others, strict=True):
            try:
                torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-9)
            except AssertionError as error:
                raise AssertionError(f"{name}: values or gradients of {form!r} and of 'plain' differ") from error


def compare(variant: str, setting: Setting, steps: int) -> list[tuple[str, ...]]:
    """Table row for each operation: time of the first form, and its ratio to each of the others."""
    rows: list[tuple[str, ...]] = []
    for name, operation in operations(variant, setting.patch, setting, torch.float32).items():
        runs = [forward_and_gradients(operation, form) for form in forms().values()]
        times: list[list[float]] = [[] for _ in runs]
        for turn in trange(steps + 1, desc=name, leave=False):
            for run, kept in zip(runs, times, strict=True):
                elapsed = seconds(run, setting)
                if turn:  # the first one warms up
                    kept.append(elapsed)
        first, *others = times
        ratios = [spread([a / b for a, b in zip(first, other, strict=True)]) for other in others]
        rows.append((name, spread([1e3 * t for t in first]), *ratios))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="turns of each form")
    parser.add_argument("--variant", choices=dlkunet.NUM_BLOCKS, default="S", help="of DLKUNet")
    add_setting(parser)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    if setting.compile:
        parser.error("--compile: the forms are compared as they stand; step_time.py compiles")
    require_agreement(arguments.variant, setting)
    print("Values and gradients of all forms agree to 1e-5.")
    print(f"{setting}, {arguments.steps} turns, torch {torch.__version__}\n")
    first, *others = forms()
    print(f"| forward and backward | {first}, ms | " + " | ".join(f"{name}: ratio" for name in others) + " |")
    print("| " + " | ".join("---" for _ in range(2 + len(others))) + " |")
    for row in compare(arguments.variant, setting, arguments.steps):
        print("| " + " | ".join(row) + " |", flush=True)
    print(f"\nMedian (quartiles) over the turns; ratio: how many times as fast as {first}, turn by turn.")


if __name__ == "__main__":
    main()
