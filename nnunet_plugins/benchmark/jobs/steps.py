"""The work of one job: ``python -m nnunet_plugins.benchmark.jobs.steps STEP SUITE RECEIPT``.

A step writes its receipt last, and only then counts as done. Whatever killed an attempt, the next one goes on from what
nnU-Net has kept.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_plugins import _startup
from nnunet_plugins.benchmark.jobs.preparation import fit, plan, preprocess
from nnunet_plugins.benchmark.jobs.training import train, usable_threads
from nnunet_plugins.benchmark.jobs.validation import validate
from nnunet_plugins.benchmark.runs import Run, log_file, runs, stop_file
from nnunet_plugins.benchmark.suite import Suite, read_suite
from nnunet_plugins.processes import forked_end_with_this_process

PROCESS_VARIABLES = ("nnUNet_n_proc_DA", "nnUNet_def_n_proc")
STEPS: dict[str, Callable[[Suite, Run], None]] = {
    "plan": plan,
    "fit": fit,
    "preprocess": preprocess,
    "train": train,
    "validate": validate,
}


def main(arguments: Sequence[str]) -> None:
    step, suite_file, receipt = arguments[0], Path(arguments[1]), Path(arguments[2])
    suite = read_suite(suite_file)
    if stop_file(suite).exists():
        raise SystemExit(1)
    run = next(run for run in runs(suite) if receipt in run.receipts.values())
    for variable in PROCESS_VARIABLES:
        os.environ.setdefault(variable, str(suite.resources.cpus))
    if suite.resources.device == "cpu":
        share_cores(suite.resources.cpus)
    _startup.extend()
    with logged(log_file(suite, step, receipt), f"{step} {run}"):
        STEPS[step](suite, run)


def share_cores(cpus: int) -> None:
    """Let this job compute on its cores alone, with threads that sleep while they wait; before torch is imported.

    OpenMP's threads spin by default, and so take the cores from the threads of another training that they wait for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = str(usable_threads(cpus))


@contextmanager
def logged(path: Path, title: str) -> Iterator[None]:
    """Append all that this process and its children print to a log; say on the terminal only what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with path.open("a", encoding="utf-8") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # whatever kills us, the log is complete
    os.environ["PYTHONUNBUFFERED"] = "1"  # for nnU-Net's workers
    print(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')} {title} (process {os.getpid()})", flush=True)
    try:
        yield
    except KeyboardInterrupt:  # Ctrl-C in the terminal, which the driver receives too
        print("Interrupted", flush=True)
        raise SystemExit(128 + signal.SIGINT) from None
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        with os.fdopen(terminal, "w", encoding="utf-8") as file:
            print(f"{title} failed: {reason}. See {path}", file=file)
        raise SystemExit(1) from None
    os.close(terminal)


if __name__ == "__main__":
    with forked_end_with_this_process():  # loader workers of a killed training
        main(sys.argv[1:])
