"""Memory that a trainer needs on a configuration, and how it compares with a GPU's."""

import json
from typing import Any, NamedTuple

from nnunet_plugins.errors import UserError
from nnunet_plugins.planning.source import Source
from nnunet_plugins.trainers.memory.cache import cached_estimate
from nnunet_plugins.trainers.memory.estimate import Estimate
from nnunet_plugins.trainers.memory.margin import GIB, with_margin


class CannotEstimate(UserError):
    """A training step that cannot be taken without data, with the reason."""


class Requirement(NamedTuple):
    """Memory of a training step on a configuration, in bytes."""

    keeping: int
    """Peak where everything is kept for the backward pass."""
    recomputing: int | None
    """Peak where the network recomputes; None if it cannot."""
    parameters: int

    @property
    def least(self) -> int:
        """Peak of the thriftier way."""
        return self.keeping if self.recomputing is None else min(self.keeping, self.recomputing)

    def fits(self, gpu_memory: int) -> bool:
        """Whether the step fits a GPU, with recomputation or without."""
        return with_margin(self.least) <= gpu_memory

    def peak_on(self, gpu_memory: int) -> int:
        """Peak of the way in which the trainer takes the step on a GPU: it recomputes only if it must."""
        return self.keeping if with_margin(self.keeping) <= gpu_memory else self.least

    def verdict(self, gpu_memory: int) -> str:
        """Whether the step fits a GPU, in words."""
        if with_margin(self.keeping) <= gpu_memory:
            return "fits"
        return "fits with recomputation" if self.fits(gpu_memory) else "does not fit"


class Estimator:
    """Estimates for one trainer on the configurations of one dataset, each made once."""

    def __init__(self, source: Source, trainer: type):
        self.source = source
        self.trainer = trainer
        self._known: dict[tuple[str, bool], Estimate | CannotEstimate] = {}
        self._can_recompute = True

    def requirement(self, name: str, configuration: dict[str, Any]) -> Requirement:
        """Memory of a step on a configuration, in both ways.

        Args:
            name: of the configuration in the plans.
            configuration: its content, perhaps with another patch or batch than in the plans.

        Raises:
            CannotEstimate: the network cannot take this patch, or the estimate does not understand the trainer.
        """
        keeping, recomputing = (self.estimate(name, configuration, recompute) for recompute in (False, True))
        return Requirement(keeping.peak, recomputing.peak if recomputing.recomputes else None, keeping.parameters)

    def estimate(self, name: str, configuration: dict[str, Any], recompute: bool) -> Estimate:
        """Memory of a step on a configuration in one way; that of keeping, if the network cannot recompute.

        Raises:
            CannotEstimate: as :meth:`requirement`.
        """
        recompute = recompute and self._can_recompute
        key = json.dumps([name, configuration]), recompute
        if key not in self._known:
            self._known[key] = self._made(name, configuration, recompute)
        known = self._known[key]
        if isinstance(known, CannotEstimate):
            raise known
        self._can_recompute &= not recompute or known.recomputes
        return known

    def _made(self, name: str, configuration: dict[str, Any], recompute: bool) -> Estimate | CannotEstimate:
        configurations = self.source.plans["configurations"] | {name: configuration}
        plans = self.source.plans | {"configurations": configurations}
        try:
            return cached_estimate(self.trainer, plans, name, self.source.dataset_json, recompute=recompute)
        except Exception as error:  # a step of any trainer may fail in any way
            patch, batch = in_words(configuration["patch_size"]), configuration["batch_size"]
            reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
            return CannotEstimate(
                f"The memory of {self.trainer.__name__} on {name}, patch {patch}, batch {batch}, cannot be estimated "
                f"({reason}): choose patch and batch yourself, in the plans file, or another trainer"
            )


def in_words(patch: list[int]) -> str:
    """A patch as tables show it, e.g. ``512 x 512``."""
    return " x ".join(map(str, patch))


def in_gib(memory: int) -> str:
    """Bytes as tables show them, in GiB."""
    return f"{memory / GIB:.1f}"
