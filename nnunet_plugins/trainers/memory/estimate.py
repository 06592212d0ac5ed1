"""Estimate of the memory that a training step needs, by a step on tensors without data.

A trainer is built and takes a step of its own, as in a training, but on torch's fake tensors: they have shapes and
dtypes alone, so that this needs neither a GPU nor the memory, and takes seconds.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from nnunet_plugins.architectures.layers.devices import as_on_cuda
from nnunet_plugins.architectures.layers.recomputation import set_recomputation
from nnunet_plugins.nnunet_folders import PREPROCESSED, RESULTS, folders_elsewhere
from nnunet_plugins.trainers.memory.half_precision import half_precision_as_on_cuda
from nnunet_plugins.trainers.memory.tracker import MemoryTracker


class Estimate(NamedTuple):
    """Memory of a training step."""

    peak: int
    """Most bytes at once: parameters, gradients, the optimiser's state, activations and the loss."""
    parameters: int
    """Number of parameters."""
    recomputes: bool
    """Whether the network recomputes; ``False`` if it was asked to, but cannot."""


def estimate_training(
    trainer_class: type,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    *,
    batch_size: int | None = None,
    recompute: bool = False,
    half_precision: bool = True,
) -> Estimate:
    """Estimate the memory of a training step as nnU-Net takes it on a GPU, in its eager form.

    Args:
        trainer_class: any trainer that nnU-Net finds.
        plans: content of a plans file; neither raw nor preprocessed data are needed.
        configuration: one of the plans' configurations.
        dataset_json: content of the dataset's ``dataset.json``.
        batch_size: instead of the plan's.
        recompute: whether the network shall recompute instead of keeping.
        half_precision: mixed precision, as on CUDA; else float32, as on a CPU.
    """
    own_plans: dict[str, Any] = copy.deepcopy(dict(plans)) | {"continue_training": False}
    if batch_size is not None:
        own_plans["configurations"][configuration]["batch_size"] = batch_size
    precision = contextlib.ExitStack()
    with temporary_home(own_plans), FakeTensorMode(), MemoryTracker() as memory, precision:
        trainer = made_trainer(trainer_class, own_plans, configuration, dict(dataset_json))
        recomputes = set_recomputation((trainer.network, trainer.loss), recompute) and recompute
        batch = empty_batch(trainer)
        at_optimizer = AtOptimizer(trainer.optimizer, memory)
        memory.reset_peak()
        precision.enter_context(ValuesOfFakes())
        if half_precision:
            precision.enter_context(as_on_cuda())
            precision.enter_context(half_precision_as_on_cuda())
        trainer.train_step(batch)
        parameters = sum(p.numel() for p in trainer.network.parameters())
    return Estimate(at_optimizer.peak_of_later_steps(), parameters, recomputes)


# ---- a trainer without data ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary_home(plans: Mapping[str, Any]) -> Iterator[None]:
    """Let nnU-Net's trainers find a data set that looks preprocessed, and write into a temporary folder."""
    manager = PlansManager(dict(plans))
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()):
        for configuration in manager.available_configurations:
            data = Path(home, plans["dataset_name"], manager.get_configuration(configuration).data_identifier)
            data.mkdir(parents=True, exist_ok=True)
            (data / "case.b2nd").touch()  # all that a trainer asks of its data before the first batch
        with folders_elsewhere(home, PREPROCESSED, RESULTS):
            yield


def made_trainer(trainer_class: type, plans: dict, configuration: str, dataset_json: dict) -> Any:
    """Make a trainer and start its last epoch, in which all of the network is trained."""
    trainer: Any = trainer_class(plans, configuration, 0, dataset_json, torch.device("cpu"))
    if hasattr(trainer, "pretrained"):
        trainer.pretrained = False  # the weights' values do not matter
    with modules_that_stay():
        trainer.initialize()
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.on_train_epoch_start()
    return trainer


@contextlib.contextmanager
def modules_that_stay() -> Iterator[None]:
    """Make ``nn.Module.to`` do nothing: the modules are on the CPU already, and fake parameters cannot be moved."""
    before = nn.Module.to
    nn.Module.to = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.to = before  # type: ignore[method-assign]


def empty_batch(trainer: Any) -> dict[str, Any]:
    """Make a batch in the shapes and dtypes of nnU-Net's loader."""
    plan, labels = trainer.configuration_manager, trainer.label_manager
    size, patch = trainer.batch_size, tuple(plan.patch_size)
    maps = len(labels.foreground_regions) + labels.has_ignore_label if labels.has_regions else 1
    scales = trainer._get_deep_supervision_scales()
    shapes = (
        [patch]
        if scales is None
        else [tuple(round(n * s) for n, s in zip(patch, scale, strict=True)) for scale in scales]
    )
    targets = [torch.zeros((size, maps, *shape), dtype=torch.int16) for shape in shapes]
    return {
        "data": torch.zeros((size, trainer.num_input_channels, *patch)),
        "target": targets[0] if scales is None else targets,
        "regions": torch.full((size, 1), -1),  # for DRGO; -1 is no case's
    }


class ValuesOfFakes(TorchFunctionMode):
    """Answers of tensors without data to nnU-Net's trainers.

    They return their loss as an array, for the log, and ask whether anything is annotated.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.numpy:
            return np.zeros(args[0].shape, str(args[0].dtype).removeprefix("torch."))
        if func is Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))


class AtOptimizer:
    """Memory when the first step of an optimiser begins, which makes the state that later steps find."""

    def __init__(self, optimizer: torch.optim.Optimizer, memory: MemoryTracker):
        self.memory = memory
        self.optimizer = optimizer
        self.peak = 0
        optimizer.register_step_pre_hook(self.remember)

    def remember(self, *_: Any) -> None:
        self.peak = self.memory.peak

    def peak_of_later_steps(self) -> int:
        """Most bytes at once in a step whose forward pass begins with the optimiser's state in memory."""
        states = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return max(self.peak + sum(state.untyped_storage().nbytes() for state in states), self.memory.peak)
