"""Output of a suite that runs: one live table on a terminal, one line for each event elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from nnunet_plugins.benchmark.jobs.receipts import receipt_values
from nnunet_plugins.benchmark.progress import PREPARING, Progress, progress_now, progress_of
from nnunet_plugins.benchmark.runs import Run
from nnunet_plugins.benchmark.status import HEADER, cells, in_words, summary
from nnunet_plugins.benchmark.survey import Survey

SHARE = 0.05
"""Part of a core that looking at thousands of trainings may take."""
MARGIN = 6
"""Lines of a terminal that are no rows of the table."""
ORDER = (
    "training",
    "validating",
    "predicting",
    "measuring",
    *PREPARING.values(),
    "failed",
    "stopped",
    "waiting",
    "done",
)
"""States from what is worth most attention to what is worth least, by how they begin."""


class Watch:
    """The progress of a suite's runs while they are worked on."""

    def __init__(self, survey: Survey):
        self.suite = survey.suite
        self.progress = {run: progress_of(survey, run) for run in survey.runs}
        self.next_look = 0.0

    def look(self, at_once: bool = False) -> list[Run]:
        """Look at the runs that are not done; those whose progress has changed.

        Args:
            at_once: whether to look even if the last time was a moment ago.
        """
        start = time.monotonic()
        if start < self.next_look and not at_once:
            return []
        changed = []
        for run in [run for run, found in self.progress.items() if found.state != "done"]:
            found = self.now(run)
            if found != self.progress[run]:
                self.progress[run] = found
                changed.append(run)
        end = time.monotonic()
        self.next_look = end + (end - start) / SHARE
        return changed

    def now(self, run: Run) -> Progress:
        if not run.validation_receipt.exists():
            return progress_now(self.suite, run)
        receipt = receipt_values(run.validation_receipt, "parts", optional="dice")
        return Progress("done", self.suite.epochs_for(run.trainer), receipt.get("dice"))

    @property
    def done(self) -> int:
        return sum(found.state == "done" for found in self.progress.values())


Tell = Callable[[bool], None]
"""Function that tells what has changed; its argument is that of :meth:`Watch.look`."""


def telling(survey: Survey) -> AbstractContextManager[Tell]:
    """Tell what happens to the runs of a suite, in the way that suits where the output goes."""
    watch = Watch(survey)
    can_draw = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return live_table(watch) if can_draw else lines(watch)


# ---- into a file -----------------------------------------------------------------------------------------------------


@contextmanager
def lines(watch: Watch) -> Iterator[Tell]:
    """Print a line when a run begins a step or has done another tenth of its epochs or cases; and of datasets."""
    told: set[tuple[Any, ...]] = set()

    def tell(at_once: bool) -> None:
        for run in watch.look(at_once):
            found = watch.progress[run]
            num_epochs = watch.suite.epochs_for(run.trainer)
            about = run.dataset if found.state in PREPARING.values() else str(run)
            event = about, found.state, found.tenths
            if event not in told and not found.state.startswith(("failed", "waiting", "stopped")):
                told.add(event)
                when = time.strftime("%Y-%m-%d %H:%M:%S")
                numbers = f"{watch.done} of {len(watch.progress)} done"
                print(f"{when}  {numbers}  {about}: {in_words(num_epochs, found)}", flush=True)

    with suppress(OSError):
        print(summary(watch.suite, watch.progress), flush=True)
    yield tell


# ---- on a terminal ---------------------------------------------------------------------------------------------------


@contextmanager
def live_table(watch: Watch) -> Iterator[Tell]:
    """Show a table that is drawn anew where it stands; what jobs and Snakemake print scrolls by above it."""
    from rich.console import Console
    from rich.live import Live

    with ExitStack() as stack:
        terminal = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace"))
        console = Console(file=terminal, force_terminal=True)
        live = Live(drawn(watch, console.height), console=console, auto_refresh=False)
        stack.callback(suppressing_errors(live.stop))
        live.start(refresh=True)
        stack.enter_context(printed_above(console))

        def tell(at_once: bool) -> None:
            if watch.look(at_once):
                live.update(drawn(watch, console.height), refresh=True)

        yield tell


def drawn(watch: Watch, height: int) -> Any:
    """The table, with as many rows as the terminal has lines for: those that are worked on come first."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def urgency(run: Run) -> int:
        state = watch.progress[run].state
        return next((place for place, beginning in enumerate(ORDER) if state.startswith(beginning)), len(ORDER))

    shown = sorted(watch.progress, key=urgency)[: max(1, height - MARGIN)]
    table = Table(box=None, pad_edge=False)
    for name in HEADER:
        table.add_column(name, no_wrap=True, justify="right" if name in ("EPOCH", "DICE", "LEFT") else "left")
    for run in shown:
        table.add_row(*map(Text, cells(watch.suite, run, watch.progress[run])))
    return Group(table, Text(f"\n{summary(watch.suite, watch.progress)}"))


@contextmanager
def printed_above(console: Any) -> Iterator[None]:
    """Let what this process and its jobs print to the terminal pass through the console."""
    reading, writing = os.pipe()
    saved = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
    for number in saved:
        os.dup2(writing, number)
    os.close(writing)
    thread = threading.Thread(target=print_lines, args=(reading, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, terminal in saved.items():
            os.dup2(terminal, number)
            os.close(terminal)
        thread.join(timeout=1)  # it ends with the last job, which may still work


def print_lines(reading: int, console: Any) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as file, suppress(OSError, ValueError):
        for line in file:
            console.print(line.rstrip("\n"), markup=False, highlight=False)


def suppressing_errors(call: Callable[[], Any]) -> Callable[[], None]:
    """The call, without what it raises if the terminal is gone."""

    def called() -> None:
        with suppress(OSError):
            call()

    return called
