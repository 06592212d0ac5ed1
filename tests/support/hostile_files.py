"""Files that run a command when they are unpickled."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Command:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def as_zip(path: Path, content: Any) -> None:
    torch.save(content, path)


def as_old_torch_file(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def as_tar(path: Path, content: Any) -> None:
    """The format of torch 0.1, which torch before 2.6 unpickles without restriction (CVE-2025-32434)."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def as_torchscript(path: Path, content: Any) -> None:
    """A zip that torch takes for a TorchScript program."""
    torch.save(content, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/constants.pkl", pickle.dumps(content))


FORMATS: tuple[Callable[[Path, Any], None], ...] = (as_zip, as_old_torch_file, as_pickle, as_tar, as_torchscript)
