"""The command ``nnunet-plugins doctor``: find what would keep a training from working here, and name the remedies.

Every check is a generator of findings and writes nothing but a temporary file. The checks do not depend on each other,
except that those which call nnU-Net are left out if it cannot be used.
"""

import contextlib
import importlib.metadata
import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from nnunet_plugins import __version__
from nnunet_plugins._startup import DISABLE_VARIABLE, DISCOVERY_FOLDER, SEARCH_PATH_VARIABLE, switched_off
from nnunet_plugins.compatibility import nnunet_problem, overwriting_problem, trainer_problem
from nnunet_plugins.nnunet_folders import problem_of_folder
from nnunet_plugins.trainers import TRAINERS, find_trainer

GB = 1e9
MINIMUM_FREE_DISK = 5 * GB
SMALL_SHARED_MEMORY = 1 * GB
EVAL_ENV = 'eval "$(nnunet-plugins env)" in this shell, or run nnU-Net as: nnunet-plugins train ...'


class Finding(NamedTuple):
    """The result of one check: its level, what was found, and how to put it right."""

    level: Literal["ok", "note", "PROBLEM"]
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8}{self.text}" + (f" -> {self.remedy}" if self.remedy else "")


def report() -> int:
    """Print each finding as soon as it is known, and return the number of problems."""
    problems = 0
    for finding in examine():
        print(finding, flush=True)
        problems += finding.level == "PROBLEM"
    print(f"\n{problems} problem{'s' * (problems != 1)} found." if problems else "\nNo problem found.")
    return problems


def examine() -> Iterator[Finding]:
    yield from versions()
    yield from processes()
    nnunet = list(nnunet_installation())
    yield from nnunet
    if all(finding.level != "PROBLEM" for finding in nnunet):
        yield from discovery()
        yield from trainers()
    yield from gpus()
    yield from folders()


def versions() -> Iterator[Finding]:
    """Versions of Python, of this package and of the packages on which it depends."""
    yield Finding("ok", f"python {platform.python_version()} at {sys.executable}")
    yield Finding("ok", f"nnunet-plugins {__version__} at {Path(__file__).parent}")
    try:
        requirements = importlib.metadata.requires("nnunet-plugins") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("note", "nnunet-plugins is not installed by pip: its dependencies are unknown", "pip install it")
        return
    for requirement in map(Requirement, requirements):
        optional = requirement.marker and not requirement.marker.evaluate({"extra": ""})
        if not optional and requirement.name != "nnunetv2":  # nnunet_installation() looks closer at that one
            yield installed_version(requirement.name)


def installed_version(name: str) -> Finding:
    try:
        return Finding("ok", f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        return Finding("PROBLEM", f"{name} is not installed", f"pip install {name}")


def processes() -> Iterator[Finding]:
    """Settings of nnU-Net's worker processes that make them die without a message."""
    for variable in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        value = os.environ.get(variable)
        if value is not None and not value.isdecimal():
            yield Finding("PROBLEM", f"{variable}={value} is not a number", f"export {variable}=4")
    if os.environ.get("nnUNet_n_proc_DA") == "0":
        yield Finding("note", "nnUNet_n_proc_DA=0 trains without workers, but planning fails", "unset nnUNet_n_proc_DA")
    shared_memory = Path("/dev/shm")
    if shared_memory.is_dir() and (size := shutil.disk_usage(shared_memory).total) < SMALL_SHARED_MEMORY:
        yield Finding(
            "note",
            f"/dev/shm has {size / GB:.2f} GB: workers may die with a bus error",
            "start the container with --ipc=host or --shm-size=8g, or export nnUNet_n_proc_DA=0 for training",
        )


def nnunet_installation() -> Iterator[Finding]:
    if problem := nnunet_problem():
        yield problem_from(problem)
        return
    try:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    except Exception as error:
        yield Finding("PROBLEM", f"nnU-Net cannot be imported: {summary(error)}", "install what pip check names")
        return
    for sentence in filter(None, (overwriting_problem(), trainer_problem(nnUNetTrainer))):
        yield problem_from(sentence)
    place = Path(sys.modules["nnunetv2"].__path__[0])
    yield Finding("ok", f"nnunetv2 {importlib.metadata.version('nnunetv2')} at {place}")


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


def gpus() -> Iterator[Finding]:
    """Whether torch can compute on this machine's GPUs."""
    try:
        import torch
    except Exception as error:
        yield Finding("PROBLEM", f"torch cannot be imported: {summary(error)}", "reinstall it, see pytorch.org")
        return
    with warnings.catch_warnings(record=True) as caught:  # torch only warns of a driver that is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    build = f"torch {torch.__version__} built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}"
    if available:
        yield from (cuda_device(index, build) for index in range(torch.cuda.device_count()))
    else:
        yield no_cuda_device(build, "".join(f" ({warning.message})" for warning in caught[:1]))


def cuda_device(index: int, build: str) -> Finding:
    """Compute something on a GPU that torch sees."""
    import torch

    driver = nvidia_driver()
    try:
        torch.ones(2, device=f"cuda:{index}").sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return Finding(
            "PROBLEM",
            f"GPU {index} does not work with {build}, driver {driver}: {summary(error)}",
            "install a torch for this GPU and driver, see pytorch.org",
        )
    memory = f"{free / GB:.0f} of {total / GB:.0f} GB free"
    return Finding("ok", f"GPU {index}: {torch.cuda.get_device_name(index)}, {memory}, {build}, driver {driver}")


def no_cuda_device(build: str, reason: str) -> Finding:
    """Tell why torch sees no NVIDIA GPU: there is none, it is hidden, or driver and torch do not fit."""
    import torch

    driver = nvidia_driver()
    if torch.backends.mps.is_available():
        return Finding("note", "Apple GPU: add -device mps to nnU-Net's commands")
    if not driver:
        return Finding("note", f"no GPU ({build}): add -device cpu to nnU-Net's commands; training is slow")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("note", "CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES, or add -device cpu")
    return Finding(
        "PROBLEM",
        f"there is an NVIDIA GPU (driver {driver}) that torch cannot use: {build}{reason}",
        "update the driver" if torch.version.cuda else "install a torch built for CUDA, see pytorch.org",
    )


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; ``None`` without a driver that works."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.partition("\n")[0].strip() or None


def folders(minimum_free: float = MINIMUM_FREE_DISK) -> Iterator[Finding]:
    """Whether nnU-Net's three folders are set, exist, can be written and have enough free disk."""
    yield from (folder_of(name, minimum_free) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"))


def folder_of(variable: str, minimum_free: float) -> Finding:
    folder = os.environ.get(variable)
    if not folder:
        return Finding("PROBLEM", f"{variable} is not set", f"export {variable}=/a/folder/of/yours")
    if sentence := problem_of_folder(variable):
        return problem_from(sentence)
    if not os.path.isdir(folder):
        return Finding("PROBLEM", f"{variable}={folder} is no folder", f"mkdir -p {shlex.quote(folder)}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"nnunet-plugins doctor")
            file.flush()
    except OSError as error:
        level: Literal["note", "PROBLEM"] = "note" if variable == "nnUNet_raw" else "PROBLEM"  # raw is only read
        return Finding(level, f"{variable}={folder} is not writable: {error}", "chmod u+w it, or choose another")
    free = shutil.disk_usage(folder).free
    if free < minimum_free:
        return Finding(
            "PROBLEM",
            f"{variable}={folder} has {free / GB:.1f} GB of free disk, less than {minimum_free / GB:.0f}",
            f"free some space, or export {variable}=/a/larger/disk",
        )
    return Finding("ok", f"{variable}={folder} is writable, {free / GB:.0f} GB free")


def problem_from(sentence: str) -> Finding:
    """Turn a sentence of ``compatibility``, which ends with the remedy after a colon, into a finding."""
    text, _, remedy = sentence.rpartition(": ")
    return Finding("PROBLEM", text, remedy)


def summary(error: BaseException) -> str:
    """Type and first line of an exception."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
