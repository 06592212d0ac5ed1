"""Checks of nnU-Net's folders and of the disks below them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nnunet_plugins.doctor.findings import GB, Finding, disk_finding, problem_from
from nnunet_plugins.errors import reason
from nnunet_plugins.files import nearest_existing
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS, problem_of_folder

FOLDERS = (RAW, PREPROCESSED, RESULTS)
MINIMUM_FREE_DISK, MINIMUM_TEMPORARY = 5 * GB, 2 * GB


def folders(minimum_free: float = MINIMUM_FREE_DISK, minimum_temporary: float = MINIMUM_TEMPORARY) -> Iterator[Finding]:
    """Whether nnU-Net's three folders exist, can be written and have enough free disk, if they are set already.

    Demo and selftest need none of them, only the folder of temporary files.
    """
    temporary = tempfile.gettempdir()
    remedy = "free some space, or export TMPDIR=/a/larger/disk"
    yield disk_finding(f"{temporary}, for temporary files,", temporary, minimum_temporary, remedy, "has ")
    if any(os.environ.get(name) for name in FOLDERS):
        yield from (folder_of(name, minimum_free) for name in FOLDERS)
    else:
        yield Finding(
            "ok",
            f"{', '.join(FOLDERS)} are not set, and demo and selftest do not need them",
            'for data of your own: export nnUNet_raw="$PWD/raw" nnUNet_preprocessed="$PWD/preprocessed" '
            'nnUNet_results="$PWD/results"',
        )


def folder_of(variable: str, minimum_free: float) -> Finding:
    folder = os.environ.get(variable)
    if not folder:
        return Finding("PROBLEM", f"{variable} is not set, but others are", f"export {variable}=/a/folder/of/yours")
    if sentence := problem_of_folder(variable):
        return problem_from(sentence)
    place = Path(folder) if os.path.islink(folder) else nearest_existing(Path(folder))
    if not place.is_dir():
        return Finding("PROBLEM", f"{variable}={folder} is no folder", f"export {variable}=/a/folder/of/yours")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"nnunet-plugins doctor")
            file.flush()
    except OSError as error:
        level: Literal["note", "PROBLEM"] = "note" if variable == "nnUNet_raw" else "PROBLEM"  # raw is only read
        if place != Path(folder):
            text = f"{variable}={folder} is not there, and {place} is not writable"
            return Finding("PROBLEM", text, f"export {variable}=/a/folder/of/yours")
        sentence = f"{variable}={folder} is not writable: {reason(error)}"
        return Finding(level, sentence, "chmod u+w it, or choose another")
    if place != Path(folder):
        remedy = "correct it, or let the first command that writes there make it"
        return Finding("note", f"{variable}={folder} is not there yet", remedy)
    remedy = f"free some space, or export {variable}=/a/larger/disk"
    return disk_finding(f"{variable}={folder}", folder, minimum_free, remedy, "is writable, ")
