"""Trainers that fit the GPU: they recompute where they must, and say what to do where even that is not enough."""

import json
import os
import subprocess
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from nnunet_plugins.architectures.layers.recomputation import is_recomputing, set_recomputation
from nnunet_plugins.errors import UserError
from nnunet_plugins.processes import python_call
from nnunet_plugins.trainers.checkpoints import SafeCheckpoints
from nnunet_plugins.trainers.memory.estimate import Estimate
from nnunet_plugins.trainers.memory.margin import CONTEXT, GIB, gib, with_margin

RECOMPUTE_VARIABLE = "NNUNET_PLUGINS_RECOMPUTE"
TIMEOUT = 300
"""Seconds after which an estimate, which takes some, is given up."""


class Decision(NamedTuple):
    """Whether a network recomputes, and why."""

    recompute: bool
    reason: str


class FittingTrainer(SafeCheckpoints):
    """nnU-Net's trainer that decides at the start of a training whether its network recomputes.

    On a GPU it compares its estimate with the free memory; elsewhere the network does not recompute. The environment
    variable ``NNUNET_PLUGINS_RECOMPUTE=0|1`` decides instead.
    """

    def on_train_start(self) -> None:
        recomputation_asked_for()  # raises before the data are loaded
        super().on_train_start()
        self.choose_recomputation()

    def choose_recomputation(self) -> None:
        """Decide whether the network recomputes, and say so in the log.

        Raises:
            UserError: ``NNUNET_PLUGINS_RECOMPUTE`` is neither 0 nor 1.
        """
        asked = recomputation_asked_for()
        if set_recomputation((self.network, self.loss), False):
            decision = self.decide_on_recomputation(asked)
            set_recomputation((self.network, self.loss), decision.recompute)
            self.print_to_log_file(f"recomputation {'on' if decision.recompute else 'off'}: {decision.reason}")

    def decide_on_recomputation(self, asked: bool | None) -> Decision:
        """Decide, in a distributed training for all processes alike.

        Args:
            asked: the answer if the user has given it.
        """
        if asked is not None:
            return Decision(asked, f"{RECOMPUTE_VARIABLE}={asked:d}")
        if self.device.type != "cuda":
            return Decision(False, f"it is for GPUs, and this is {self.device.type}")
        free = available_memory(self.device)
        if not self.is_ddp:
            return self.compare_with(free)
        of_all: list[int] = [0] * dist.get_world_size()
        dist.all_gather_object(of_all, free)
        decision = [self.compare_with(min(of_all)) if self.local_rank == 0 else None]
        dist.broadcast_object_list(decision)
        assert decision[0] is not None, "rank 0 decides"
        return decision[0]

    def compare_with(self, free: int) -> Decision:
        """Decide for this much free memory, in bytes."""
        try:
            without, recomputing = self.needed_memory()
        except UserError as error:
            return Decision(False, f"{error}")
        need = f"a training step needs about {gib(without)} without it and {gib(recomputing)} with it"
        if min(without, recomputing) > free:
            return Decision(True, f"{need}, more than the {gib(free)} that are free; {self.how_to_fit(free)}")
        return Decision(without > free, f"{need}, of {gib(free)} that are free")

    def needed_memory(self) -> tuple[int, int]:
        """Bytes that a training step needs without recomputation and with it, margin included.

        Raises:
            UserError: the estimate has failed.
        """
        question = {
            "trainer": type(self).__name__,
            "plans": self.plans_manager.plans,
            "configuration": self.configuration_name,
            "dataset_json": self.dataset_json,
            "batch_size": self.batch_size,
        }
        keeping, recomputing = estimates_of_another_process(question)
        buckets = 4 * keeping.parameters if self.is_ddp else 0  # in which gradients travel
        return with_margin(keeping.peak + buckets), with_margin(recomputing.peak + buckets)

    def how_to_fit(self, memory: float) -> str:
        """Tell how to make a plan for this much memory, in bytes."""
        plans = self.plans_manager.plans
        base = plans.get("nnunet_plugins", {}).get("from", self.plans_manager.plans_name)  # of a plan made for a GPU
        dataset = self.plans_manager.dataset_name.removeprefix("Dataset").split("_")[0].lstrip("0")
        return (
            f"make a plan that fits by: nnunet-plugins plan -d {dataset} -tr {type(self).__name__} "
            f"-c {self.configuration_name} --gpu-memory {max(memory / GIB, 2):.1f}"
            f"{'' if base == 'nnUNetPlans' else f' -p {base}'}"
        )

    def run_training(self) -> None:
        try:
            super().run_training()
        except torch.cuda.OutOfMemoryError as error:
            plan = self.configuration_manager
            patch = " x ".join(map(str, plan.patch_size))
            sentence = (
                f"{type(self).__name__} needs more memory than the GPU has for a batch of {self.batch_size} x {patch} "
                f"({self.plans_manager.plans_name}, {self.configuration_name}): {self.remedy()}."
            )
            self.print_to_log_file(sentence, also_print_to_console=False)
            raise UserError(sentence) from error

    def remedy(self) -> str:
        """Tell what to do after the GPU ran out of memory."""
        own = self.how_to_fit(0.85 * total_memory(self.device))  # the estimate was too small for this GPU
        if is_recomputing(self.network) or not set_recomputation((self.network, self.loss), False):
            return own
        return f"set {RECOMPUTE_VARIABLE}=1 ({self.how_to_go_on()}), or {own}"


def recomputation_asked_for() -> bool | None:
    """Value of ``NNUNET_PLUGINS_RECOMPUTE``, ``None`` if it is not set.

    Raises:
        UserError: it is neither 0 nor 1.
    """
    value = os.environ.get(RECOMPUTE_VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise UserError(f"{RECOMPUTE_VARIABLE}={value}: expected 0 or 1, or nothing at all.")
    return bool(int(value)) if value else None


def available_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process has or could have, with the context that is there already."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) + CONTEXT


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU."""
    return torch.cuda.get_device_properties(device).total_memory


def estimates_of_another_process(question: dict[str, Any]) -> list[Estimate]:
    """Estimates without recomputation and with it, by :mod:`~nnunet_plugins.trainers.memory.question`.

    Args:
        question: the arguments of :func:`~nnunet_plugins.trainers.memory.cache.cached_estimate` by name, with the
            trainer's name instead of its class.

    Raises:
        UserError: there is no answer.
    """
    command = python_call("nnunet_plugins.trainers.memory.question", "answer", ["nnunet-plugins memory"])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    try:
        answer = subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, env=environment, timeout=TIMEOUT
        )
        if answer.returncode:
            raise ValueError((answer.stderr.strip().splitlines() or ["no message"])[-1])
        return [Estimate(*values) for values in json.loads(answer.stdout.splitlines()[-1])]
    except (OSError, ValueError, TypeError, IndexError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the memory of {question['trainer']} cannot be estimated ({error})") from error
