"""Small archives, and what ``unpack`` says when it refuses them."""

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from nnunet_plugins.dataset_conversion.archives import unpack
from nnunet_plugins.errors import UserError
from support.files import contents

ZIPS = {".zip": zipfile.ZIP_DEFLATED, ".ZIP": zipfile.ZIP_STORED, ".Zip": zipfile.ZIP_BZIP2}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".TGZ": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def refusal(archive: Path, folder: Path) -> str:
    """Unpack the archive, which must be refused in one sentence and change nothing around ``folder``."""
    before = contents(folder.parent)
    with pytest.raises(UserError) as error:
        unpack(archive, folder)
    text = str(error.value)
    assert "\n" not in text and not re.search(r"[.!?] +[A-Z]", text) and " object at 0x" not in text
    assert str(archive) in text
    assert {name: data for name, data in contents(folder.parent).items() if not name.startswith(folder.name)} == before
    return text
