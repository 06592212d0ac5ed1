"""Trainings of which nothing is lost, and which tell in a sentence how to go on."""

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_plugins.errors import UserError, traceback_is_wanted
from nnunet_plugins.files import nearest_existing
from nnunet_plugins.nnunet_folders import RESULTS, WANDB, nnunet_folder
from nnunet_plugins.processes import forked_end_with_this_process
from nnunet_plugins.trainers.finite_losses import FiniteLosses
from nnunet_plugins.trainers.fold_lock import FoldLock, refuse_fold_in_training
from nnunet_plugins.trainers.limits import refuse_unknown_configuration

LOADING = "nnunetv2.training.dataloading"
"""nnU-Net's package that reads preprocessed cases."""
NO_FAULT_OF_A_FILE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors in reading a file that say nothing about its content."""
NO = ("0", "False", "false")
"""Values with which nnU-Net takes a setting for switched off."""
WORKERS_ARE_GONE = "background workers are no longer alive"
"""Part of the sentence in which batchgenerators tells that a worker has failed."""


class SafeTraining(FoldLock, FiniteLosses):
    """Mixin for any trainer of nnU-Net's kind: locks the fold, saves whole checkpoints, and names what went wrong.

    What the user can put right is told in one sentence, on the terminal and in the log.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ):
        refuse_unknown_configuration(plans, configuration)
        refuse_missing_device(device)
        folder = results_of_fold(type(self).__name__, plans, configuration, fold)
        refuse_read_only(folder)
        if os.environ.get(WANDB, "0") not in NO:
            refuse_fold_in_training(folder)  # whose run nnU-Net would remove at once
        super().__init__(plans, configuration, fold, dataset_json, device)

    def run_training(self) -> None:
        try:
            with forked_end_with_this_process():  # loader workers of a killed training
                super().run_training()
        except KeyboardInterrupt:
            sentence = f"Stopped by Ctrl-C in epoch {self.current_epoch}: {self.how_to_go_on()}."
            self.print_to_log_file(sentence)
            if traceback_is_wanted():
                raise
            raise Interrupted(130) from None
        except Exception as error:
            self.print_to_log_file(traceback.format_exc(), also_print_to_console=False)
            if sentence := self.explanation(error):
                self.print_to_log_file(sentence, also_print_to_console=False)
                raise UserError(sentence) from error
            raise

    def explanation(self, error: Exception) -> str:
        """Tell what the user can do about an error; nothing if that is unknown, or told already."""
        if isinstance(error, UserError):
            return ""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return self.cannot_be_written(error.filename or self.output_folder, error.strerror)
        if WORKERS_ARE_GONE in f"{error}" or raised_in(error.__traceback__, LOADING):
            return self.about_damaged_case()
        return ""

    def about_damaged_case(self) -> str:
        """Name the first case of the fold that cannot be read, or lacks what a cascade needs, if there is one."""
        self.print_to_log_file("Reading the fold's cases, to see whether one of them is damaged ...")
        training, validation = self.do_split()
        folder, dataset_class = self.preprocessed_dataset_folder, cast(Any, self.dataset_class)
        there = set(dataset_class.get_identifiers(folder))
        for case in (*training, *validation):
            if case not in there:
                return (
                    f"The folds in splits_final.json name the case {case}, which is not in {folder}: preprocess the "
                    "dataset again, or correct that file."
                )
            previous = self.folder_with_segs_from_previous_stage
            of_case = reading_error(dataset_class(folder, [case]), case)
            error = of_case or (reading_error(dataset_class(folder, [case], previous), case) if previous else None)
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in NO_FAULT_OF_A_FILE:
                return ""
            if of_case:
                return (
                    f"The preprocessed case {case} in {folder} cannot be read ({error}): remove its files there and "
                    "preprocess the dataset again."
                )
            if error:
                return (
                    f"The prediction of {case} by the cascade's first stage in {previous} cannot be read ({error}): "
                    f"train all folds of {self.configuration_manager.previous_stage_name} with the same -tr and -p "
                    "first; a fold that is trained writes its predictions with --val."
                )
        return ""


def reading_error(dataset: Any, case: str) -> Exception | None:
    """Error in reading a case of one of nnU-Net's datasets; None if it can be read."""
    try:
        for array in dataset.load_case(case)[:3]:
            np.asarray(array[:] if array is not None else 0)
    except Exception as error:  # of any kind: a damaged file leads anywhere
        return error
    return None


class Interrupted(SystemExit, KeyboardInterrupt):
    """A Ctrl-C of which all is told: the process ends without a traceback, and callers still see an interruption."""


def raised_in(trace: TracebackType | None, package: str) -> bool:
    """Whether an error came from a package, or from something that the package has called."""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith(package):
            return True
        trace = trace.tb_next
    return False


# ---- before anything is written --------------------------------------------------------------------------------------


def refuse_missing_device(device: torch.device) -> None:
    """Raise if the training shall run on a GPU that is not there.

    Raises:
        UserError: torch finds none.
    """
    found: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device.type in found and not found[device.type]():
        raise UserError(
            f"-device {device.type}: torch {torch.__version__} finds no such GPU; check the driver and "
            "CUDA_VISIBLE_DEVICES, or train with -device cpu."
        )


def results_of_fold(trainer: str, plans: dict, configuration: str, fold: int | str) -> Path:
    """Folder in which nnU-Net keeps a fold's results.

    Raises:
        UserError: ``nnUNet_results`` is not set; nnU-Net fails then without a word about it.
    """
    manager = PlansManager(plans)
    model = f"{trainer}__{manager.plans_name}__{configuration}"
    return Path(nnunet_folder(RESULTS), manager.dataset_name, model, f"fold_{fold}")


def refuse_read_only(folder: Path) -> None:
    """Raise if a folder cannot be made or written.

    Raises:
        UserError: the folder, or the nearest one above it that exists, is read-only.
    """
    nearest = nearest_existing(folder)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"{nearest} is read-only: the training has nowhere to write its results; mend its permissions, or set "
            "nnUNet_results to a folder of your own."
        )
