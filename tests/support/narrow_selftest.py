"""The self-test's processes with narrow networks: a child process does not see what the tests' own has changed.

Those ``without_workers`` start no further processes, each of which would take seconds.
"""

import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool  # before its get_context is replaced
import os
from pathlib import Path
from typing import Any

from nnunet_plugins.files import read_json, write_json
from nnunet_plugins.nnunet_folders import PREPROCESSED, nnunet_folder
from nnunet_plugins.selftest import data, trial
from support.narrow import narrow_networks

MAX_FEATURES = 16


def prepare() -> None:
    """Prepare the data and plan narrow networks for the trainers that follow the plans."""
    data.main()
    file: Path = data.plans_file(nnunet_folder(PREPROCESSED))
    plans = read_json(file)
    network = plans["configurations"][data.CONFIGURATION]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [min(MAX_FEATURES, features) for features in network["features_per_stage"]]
    write_json(file, plans)


def prepare_without_workers() -> None:
    def threads(method: str | None = None) -> Any:
        return multiprocessing.dummy

    multiprocessing.get_context = threads
    prepare()


def run_trial() -> None:
    narrow_networks()
    trial.main()


def run_trial_without_workers() -> None:
    os.environ["nnUNet_n_proc_DA"] = "0"
    run_trial()
