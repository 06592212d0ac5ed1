"""The commands ``nnunet-plugins plan`` and ``nnunet-plugins memory``."""

import argparse
import math

import torch

from nnunet_plugins.errors import UserError
from nnunet_plugins.planning.fitting import MAIN_TRAINERS
from nnunet_plugins.planning.overview import (
    EXPLANATION,
    PLAN_IT,
    before_and_after,
    needs_of_trainers,
    next_commands,
)
from nnunet_plugins.planning.plans_file import make_plans
from nnunet_plugins.planning.source import read_source
from nnunet_plugins.text_tables import aligned
from nnunet_plugins.trainers.memory.fitting import total_memory
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

DEFAULT_GPU_MEMORY = 8.0
"""GiB of the GPU for which nnU-Net makes its default plans."""


def plan(options: argparse.Namespace) -> None:
    """Write plans with which a trainer fits a GPU, and print what to type next."""
    memory = checked_memory(options.gpu_memory)
    source = read_source(options.dataset_id, options.plans)
    made = make_plans(source, options.trainer, memory, options.configurations)
    print(f"{options.trainer} on {source.dataset}, for a GPU of {memory:g} GiB\n")
    print(aligned(list(before_and_after(made, memory))))
    print(f"\n{EXPLANATION}\n\n{made.path} {'is written' if made.written else 'is there already, unchanged'}. Next:\n")
    print("\n".join(next_commands(options.trainer, made)))


def memory(options: argparse.Namespace) -> None:
    """Print what trainers need on a dataset's plans, and whether that fits a GPU."""
    if options.gpu_memory is not None:
        gpu_memory, whose = checked_memory(options.gpu_memory), "a GPU"
    elif torch.cuda.is_available():
        gpu_memory, whose = total_memory(torch.device("cuda", 0)) / GIB, "this machine's GPU"
    else:
        gpu_memory, whose = DEFAULT_GPU_MEMORY, "a GPU (none is here; --gpu-memory says which)"
    source = read_source(options.dataset_id, options.plans)
    rows, notes = needs_of_trainers(source, options.trainers or MAIN_TRAINERS, options.configurations, gpu_memory)
    print(f"{source.plans_name} of {source.dataset}, on {whose} of {gpu_memory:.4g} GiB\n")
    print(aligned(rows))
    print(f"\n{EXPLANATION}")
    if any(row[-1] == PLAN_IT for row in rows):
        other = "" if source.plans_name == "nnUNetPlans" else f" -p {source.plans_name}"
        print(f"\nnnunet-plugins plan -d {source.dataset_id} -tr TRAINER --gpu-memory {gpu_memory:.4g}{other}")
    print("".join(f"\n{note}" for note in notes), end="\n" if notes else "")


def checked_memory(given: str) -> float:
    """GiB of a GPU, as typed.

    Raises:
        UserError: it is no number, or not above 0.
    """
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--gpu-memory {given}: expected the GPU's memory in GiB, a number above 0, e.g. 24")
    if value * GIB <= with_margin(0):
        raise UserError(f"--gpu-memory {given}: CUDA and its libraries alone take about 1 GiB; expected more, e.g. 8")
    return value
