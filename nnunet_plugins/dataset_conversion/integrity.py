"""nnU-Net's own integrity check of a dataset, run in a new process."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from nnunet_plugins.errors import UserError


def check_integrity(folder: Path, processes: int) -> None:
    """Check the dataset in ``folder`` as ``nnUNetv2_plan_and_preprocess --verify_dataset_integrity`` does.

    nnU-Net forks workers and ends them with SIGTERM. While that signal has a handler, as during a conversion, Python
    may lose it in a process that has just been forked, and nnU-Net would wait for ever; a new process has no handler.

    Raises:
        UserError: nnU-Net refuses the dataset.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(run_check, str(folder), processes).result()
        except BrokenProcessPool as error:
            raise UserError(
                "nnU-Net's check was killed, perhaps for want of memory: use fewer processes, with -np"
            ) from error
        except (AssertionError, RuntimeError, ValueError, OSError) as error:
            reason = re.sub(r"\s+", " ", str(error))
            raise UserError(
                f"nnU-Net refuses the converted dataset ({reason}): see what it has printed above"
            ) from error


def run_check(folder: str, processes: int) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    multiprocessing.set_start_method(None, force=True)  # the system's: a spawned process would spawn nnU-Net's dozen
    verify_dataset_integrity(folder, processes)
