"""The search for patch and batch with which a trainer fits a GPU: the batch gives way first, then the patch."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_plugins import trainers
from nnunet_plugins.errors import UserError
from nnunet_plugins.planning.patches import Patch, largest_allowed_batch, planner_of, smaller_patches, with_patch
from nnunet_plugins.planning.requirement import (
    CannotEstimate,
    Estimator,
    Requirement,
    in_gib,
    in_words,
)
from nnunet_plugins.planning.source import Source, dimensions_of, find_trainer_class
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

MIN_BATCH = 2
"""nnU-Net's smallest batch."""
MAIN_TRAINERS = ("nnUNetTrainer", *trainers.MAIN_TRAINERS)
"""nnU-Net's own trainer and the main one of each method here."""


class DoesNotFit(UserError):
    """A trainer that fits a GPU on no patch, with what would fit."""


class Fitted(NamedTuple):
    """A configuration before and after its fit to a GPU."""

    before: dict[str, Any]
    needs_before: Requirement
    after: dict[str, Any]
    needs_after: Requirement


class Search:
    """Search for the patch and batch of one trainer's configurations."""

    def __init__(self, source: Source, trainer: type, gpu_memory_gb: float):
        """Prepare for a search.

        Args:
            source: the plans.
            trainer: class of the trainer.
            gpu_memory_gb: memory of the GPU, in GiB.
        """
        self.source = source
        self.gpu_memory = round(gpu_memory_gb * GIB)
        self.estimator = Estimator(source, trainer)

    @cached_property
    def planner(self) -> ExperimentPlanner:
        """The planner that made the plans."""
        return planner_of(self.source)

    def fit(self, name: str) -> Fitted:
        """Fit a configuration to the GPU.

        The patch stays where a batch of two fits, and is else the first that does of those that nnU-Net's planner
        tries. The batch is the largest that fits and that nnU-Net's planner allows; recomputation is for a batch as
        large as that of the plans, and not for larger ones.

        Raises:
            DoesNotFit: not even the smallest patch fits.
            CannotEstimate: the memory of a step cannot be estimated.
        """
        before = self.source.configuration(name)
        needs_before = self.estimator.requirement(name, before)
        after = before if self.fits(name, before) else self.with_smaller_patch(name, before)
        after = after | {"batch_size": self.batch(name, after)}
        return Fitted(before, needs_before, after, self.estimator.requirement(name, after))

    def fits_on_any_patch(self, name: str) -> bool:
        """Whether a batch of two fits on a configuration's patch or a smaller one."""
        configuration = self.source.configuration(name)
        if self.fits(name, configuration):
            return True
        candidates = list(self.candidates(name, configuration))
        return bool(candidates) and self.fits(name, candidates[-1])

    def fits(self, name: str, configuration: dict[str, Any]) -> bool:
        """Whether a step of the smallest batch fits the GPU, with recomputation or without."""
        return self.needed(name, configuration, self.least_batch(name), recompute=True) <= self.gpu_memory

    def needed(self, name: str, configuration: dict[str, Any], batch: int, recompute: bool) -> int:
        """Memory of a GPU that runs a step."""
        return with_margin(self.estimator.estimate(name, configuration | {"batch_size": batch}, recompute).peak)

    def batch(self, name: str, configuration: dict[str, Any]) -> int:
        """Largest batch for a configuration whose smallest fits."""
        planned = self.source.configuration(name)["batch_size"]
        allowed = max(planned, largest_allowed_batch(self.source, self.planner, configuration))

        def largest(limit: int, recompute: bool) -> int:
            def needed(batch: int) -> int:
                return self.needed(name, configuration, batch, recompute)

            return largest_batch(needed, self.gpu_memory, limit, self.least_batch(name))

        return max(largest(self.chosen_batch(name) or allowed, recompute=False), largest(planned, recompute=True))

    def chosen_batch(self, name: str) -> int | None:
        """Batch of a configuration of the user's own, which has it beside what it inherits; None: nnU-Net chose."""
        own = self.source.plans["configurations"][name]
        return own.get("batch_size") if "inherits_from" in own else None

    def least_batch(self, name: str) -> int:
        """Smallest batch that is planned: nnU-Net's, or a smaller one that the user has chosen."""
        return min(MIN_BATCH, self.chosen_batch(name) or MIN_BATCH)

    def with_smaller_patch(self, name: str, configuration: dict[str, Any]) -> dict[str, Any]:
        """First configuration with a smaller patch on which a batch of two fits.

        Raises:
            DoesNotFit: there is none.
        """
        candidates = list(self.candidates(name, configuration))
        if not candidates or not self.fits(name, candidates[-1]):
            raise DoesNotFit(self.remedy(name, candidates[-1] if candidates else configuration))
        return candidates[bisect_left(candidates, True, key=lambda candidate: self.fits(name, candidate))]

    def candidates(self, name: str, configuration: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Configurations with smaller patches, down to the smallest that the network can take."""
        patches = smaller_patches(self.source, self.planner, name)
        while patches and not self.possible(name, configuration, patches[-1]):
            patches.pop()
        yield from (with_patch(configuration, patch) for patch in patches)

    def possible(self, name: str, configuration: dict[str, Any], patch: Patch) -> bool:
        """Whether the network can take a patch."""
        try:
            self.fits(name, with_patch(configuration, patch))
        except CannotEstimate:
            return False
        return True

    def remedy(self, name: str, smallest: dict[str, Any]) -> str:
        """Sentence that tells what would fit instead of a trainer that does not."""
        batch = self.least_batch(name)
        smallest = smallest | {"batch_size": batch}
        needs = self.estimator.requirement(name, smallest)
        others = (other for other in MAIN_TRAINERS if other != self.estimator.trainer.__name__)
        fitting = next((other for other in others if self.fits_another(other, name, smallest)), None)
        another = f", or train {fitting}, which fits" if fitting else ""
        return (
            f"{self.estimator.trainer.__name__} does not fit {self.gpu_memory / GIB:g} GiB on {name} of "
            f"{self.source.dataset}: a batch of {batch} of its smallest patch, {in_words(smallest['patch_size'])}, "
            f"needs {in_gib(with_margin(needs.least))} GiB: use a larger GPU, plan other configurations (-c){another}"
        )

    def fits_another(self, trainer: str, name: str, configuration: dict[str, Any]) -> bool:
        """Whether another trainer fits on the same configuration."""
        found = find_trainer_class(trainer)
        if len(configuration["patch_size"]) not in dimensions_of(found):
            return False
        try:
            needs = Estimator(self.source, found).requirement(name, configuration)
        except CannotEstimate:
            return False
        return with_margin(needs.least) <= self.gpu_memory


def largest_batch(needed: Callable[[int], int], memory: int, limit: int, least: int = MIN_BATCH) -> int:
    """Largest batch up to a limit whose step fits, or the smallest batch; what steps need grows about linearly.

    Example:
        >>> largest_batch(lambda batch: 100 + 10 * batch, memory=1000, limit=400)
        90
    """
    low, high = least, max(limit, least)
    if needed(high) <= memory:
        return high
    while high - low > 1:
        share = (memory - needed(low)) / (needed(high) - needed(low))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if needed(middle) <= memory else (low, middle)
    return low
