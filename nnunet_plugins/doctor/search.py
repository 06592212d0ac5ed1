"""Checks of nnU-Net's search for trainers, and of our trainers themselves."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from nnunet_plugins._startup import DISABLE_VARIABLE, DISCOVERY_FOLDER, SEARCH_PATH_VARIABLE, switched_off
from nnunet_plugins.doctor.findings import Finding, summary
from nnunet_plugins.trainers import TRAINERS, find_trainer

EVAL_ENV = 'eval "$(nnunet-plugins env)" in this shell, or run nnU-Net as: nnunet-plugins train ...'


def discovery() -> Iterator[Finding]:
    """Whether nnU-Net's commands find the trainers, and what else is on their search path."""
    entries = [entry for entry in os.environ.get(SEARCH_PATH_VARIABLE, "").split(os.pathsep) if entry.strip()]
    ours = entries.index(DISCOVERY_FOLDER) if DISCOVERY_FOLDER in entries else len(entries)
    for index, entry in enumerate(entries):
        if entry != DISCOVERY_FOLDER:
            yield search_in(entry, before_ours=index < ours)
    if DISCOVERY_FOLDER in entries:
        yield search_for(next(iter(TRAINERS)))
    else:
        why = f"{DISABLE_VARIABLE} is set" if switched_off() else f"{DISCOVERY_FOLDER} is not in {SEARCH_PATH_VARIABLE}"
        yield Finding("PROBLEM", f"nnU-Net's commands do not find the trainers: {why}", EVAL_ENV)


def search_in(entry: str, before_ours: bool) -> Finding:
    """Let nnU-Net import every module of another folder on its search path.

    Args:
        entry: the folder.
        before_ours: whether nnU-Net searches it before it comes to our trainers.
    """
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    from nnunet_plugins import quiet_timm  # noqa: F401

    if not os.path.isdir(entry):
        return Finding(
            "note", f"{SEARCH_PATH_VARIABLE} names {entry}, which is no folder", "correct or remove the entry"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            recursive_find_python_class(
                entry, "_NoSuchTrainer", None, base_folder=entry, cleanup_imports_from_base_folder=True
            )
    except (Exception, SystemExit) as error:
        missed = "and finds none of our trainers" if before_ours else "and finds no trainer of folders behind it"
        return Finding(
            "PROBLEM",
            f"nnU-Net's search stops in {entry}, an entry of {SEARCH_PATH_VARIABLE}, {missed}: {summary(error)} in "
            f"{file_of(error, entry)}",
            "repair that file or remove the entry",
        )
    return Finding("ok", f"{SEARCH_PATH_VARIABLE} also names {entry}")


def file_of(error: BaseException, folder: str) -> str:
    """The file of a folder that could not be imported."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((file for file in reversed(files) if Path(file).is_relative_to(os.path.abspath(folder))), folder)


def search_for(name: str) -> Finding:
    """Let nnU-Net search for a trainer of ours, and compare the class that it finds with ours."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_plugins import quiet_timm  # noqa: F401

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = recursive_find_trainer_class_by_name(name)
    except (Exception, SystemExit) as error:
        return Finding("PROBLEM", f"nnU-Net's search for {name} fails: {summary(error)}", "repair the above first")
    if found is find_trainer(name):
        return Finding("ok", f"nnU-Net finds {name} ({SEARCH_PATH_VARIABLE}={os.environ[SEARCH_PATH_VARIABLE]})")
    module = sys.modules.get(found.__module__)
    place = getattr(module, "__file__", None) or found.__module__
    return Finding("PROBLEM", f"nnU-Net finds another {name}, in {place}", "rename that class")


def trainers() -> Iterator[Finding]:
    importable = 0
    for name in TRAINERS:
        try:
            find_trainer(name)
            importable += 1
        except Exception as error:
            yield Finding("PROBLEM", f"{name} cannot be imported: {summary(error)}", "install what pip check names")
    if importable:
        yield Finding("ok", f"{importable} of {len(TRAINERS)} trainers can be imported")
