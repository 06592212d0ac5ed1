"""The runs of a suite and their state, computed once per command and handed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nnunet_plugins.benchmark.jobs.states import State, state_of
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import Suite


@dataclass(frozen=True)
class Survey:
    """A suite, its runs, and which of them are done.

    States are read from the files when they are first asked for, and stay as they were then: this hashes all
    predictions, which commands that only need the runs do not pay for.
    """

    suite: Suite
    runs: tuple[Run, ...]
    earlier: Mapping[Run, State] = field(default_factory=dict, repr=False, compare=False)
    """States of an earlier survey, which saves hashing what was hashed for them."""
    thorough: bool = True
    """Whether files are hashed that nobody has written to since they were."""

    @cached_property
    def states(self) -> dict[Run, State]:
        return {run: state_of(run, self.earlier.get(run), self.thorough) for run in self.runs}

    @cached_property
    def done(self) -> frozenset[Run]:
        """Runs whose metrics are there, as the suite wants them."""
        return frozenset(run for run, state in self.states.items() if state.done)

    @cached_property
    def untrained(self) -> tuple[Run, ...]:
        """Runs that must be trained, or trained on."""
        return tuple(run for run, state in self.states.items() if not state.trained)

    def again(self) -> "Survey":
        """A survey of the same runs as they are now."""
        return Survey(self.suite, self.runs, self.states, self.thorough)


def survey(suite: Suite, thorough: bool = True) -> Survey:
    """Survey of all runs of a suite.

    Args:
        suite: the suite.
        thorough: whether its states are to rest on hashes alone; if not, what nobody has written to is taken as
            unchanged, which saves reading all predictions.

    Raises:
        UserError: nnU-Net's folders are not set, or a dataset is in none of them.
    """
    return Survey(suite, tuple(runs(suite)), thorough=thorough)
