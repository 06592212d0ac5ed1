"""Stages of a script with a time limit: commands that end when their time is up, and a page that tells of each."""

import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.processes import end

LOG, PAGE = "log.txt", "evidence.md"


class Stage(NamedTuple):
    """A stage that has been tried."""

    name: str
    seconds: float
    outcome: str


class Stages:
    """The stages so far, the time that is left, and the folder of what they found.

    Args:
        out: folder of the page, the log, and what commands print.
        seconds: time for all stages.
        environment: variables of the commands.
        heading: first lines of the page.
    """

    def __init__(self, out: Path, seconds: float, environment: Mapping[str, str], heading: str):
        self.out = out
        self.finish = time.monotonic() + seconds
        self.environment = environment
        self.heading = heading
        self.tried: list[Stage] = []
        self.processes: set[subprocess.Popen[str]] = set()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.finish - time.monotonic()

    def run(self, name: str, command: Sequence[str], limit: float, output: str = LOG, **variables: str) -> bool:
        """Run Python for at most ``limit`` seconds, append what it prints to a file, and tell whether it succeeded."""
        if limit <= 0:
            self.note(name, 0.0, "not begun: no time was left")
            return False
        start = time.monotonic()
        with (self.out / output).open("a") as printed, (self.out / LOG).open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=printed,
                stderr=log,
                text=True,
                env={**self.environment, **variables},
                start_new_session=True,
            )
            self.processes.add(process)
            try:
                process.wait(timeout=limit)
                outcome = "done" if process.returncode == 0 else f"failed with {process.returncode}, see {LOG}"
            except subprocess.TimeoutExpired:
                outcome = "unfinished: ended when its time was up"
            finally:
                end_gently(process)
        self.note(name, time.monotonic() - start, outcome)
        return outcome == "done"

    def stop(self) -> None:
        """End all commands, and begin no more."""
        self.finish = -math.inf
        for process in self.processes:
            end_gently(process)

    def note(self, name: str, seconds: float, outcome: str) -> None:
        """Write what became of a stage onto the page."""
        self.tried.append(Stage(name, seconds, outcome))
        rows = [f"| {stage.name} | {stage.seconds:.0f} | {stage.outcome} |" for stage in self.tried]
        table = ["| stage | seconds | outcome |", "|---|---|---|", *rows]
        (self.out / PAGE).write_text("\n".join([self.heading, "", *table, ""]), encoding="utf-8")
        print(f"{name}: {outcome} ({seconds:.0f} s)", flush=True)


def end_gently(process: subprocess.Popen[str]) -> None:
    """End a command, which may have processes with sessions of their own to end, and all that is left of it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    end(process)
    process.wait()
