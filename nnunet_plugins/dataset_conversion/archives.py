"""Safe unpacking of downloaded archives: no member leaves the folder, no links, no archives that fill the disk."""

import lzma
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from nnunet_plugins.errors import UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
FOREIGN_ENDINGS = (".rar", ".7z")
MAX_RATIO = 100
"""Largest trusted ratio of unpacked to packed size; even label maps in NIfTI, with their images, stay far below it."""
TRUSTED_SIZE = 1 << 30
"""Unpacked size in bytes that is trusted at any ratio."""
MAX_DEPTH = 3
"""Number of levels of archives within archives that are unpacked."""


class Member(NamedTuple):
    """File, link or device in an archive."""

    name: str
    size: int
    """Unpacked size in bytes."""
    is_plain_file: bool
    record: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def stem(path: Path) -> str:
    """Name of the archive without its ending, which stands for the folder in it if the archive has no folder."""
    return next(path.name[: -len(ending)] for ending in ENDINGS if path.name.lower().endswith(ending))


def unpack(archive: Path, folder: Path, depth: int = 1) -> None:
    """Unpack a zip or tar file, and the archives in it, into ``folder``.

    Raises:
        UserError: the archive is damaged or encrypted, a member would leave the folder or is a link, or its unpacked
            size is suspicious or exceeds the free space. Nothing is unpacked before all members have been checked.
    """
    try:
        with zipfile.ZipFile(archive) if archive.suffix.lower() == ".zip" else tarfile.open(archive) as opened:
            found = list(zip_members(opened) if isinstance(opened, zipfile.ZipFile) else tar_members(opened))
            check_members(archive, found, folder)
            members = [member for member in found if "__MACOSX" not in member.name.split("/")]
            for member in tqdm(members, desc=f"Unpacking {archive.name}", unit="file", leave=False):
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member(opened, member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if target.stat().st_size != member.size:
                    raise tarfile.ReadError("unexpected end of data")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
        raise UserError(f"{archive} cannot be unpacked ({reason}): download it again, or unpack it yourself") from error
    for inner in [folder / member.name for member in members]:
        if is_archive(inner) and not inner.name.startswith(".") and depth < MAX_DEPTH:
            unpack(inner, inner.with_name(inner.name + ".unpacked") / stem(inner), depth + 1)
            inner.unlink()


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for record in archive.infolist():
        if not record.is_dir():
            kind = stat.S_IFMT(record.external_attr >> 16)
            yield Member(record.filename, record.file_size, kind in (0, stat.S_IFREG), record)


def tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for record in archive:
        if not record.isdir():
            yield Member(record.name, record.size, record.isreg(), record)
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)  # tarfile takes a damaged or missing header for the end
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")


def open_member(archive: zipfile.ZipFile | tarfile.TarFile, member: Member) -> IO[bytes]:
    if isinstance(archive, zipfile.ZipFile):
        assert isinstance(member.record, zipfile.ZipInfo)
        return archive.open(member.record)
    assert isinstance(member.record, tarfile.TarInfo)
    opened = archive.extractfile(member.record)
    assert opened is not None  # plain files only
    return opened


def check_members(archive: Path, members: Sequence[Member], folder: Path) -> None:
    """Check that all members are plain files inside ``folder`` and that they fit on the disk.

    Raises:
        UserError: a member would leave the folder or is a link, or the sizes are suspicious or too large.
    """
    for name, _, is_plain_file, _ in members:
        path = posixpath.normpath(name.replace("\\", "/"))
        if path.startswith(("/", "../")) or path in ("..", ".") or ":" in path.split("/")[0]:
            raise UserError(
                f"{archive} has a member that would be written outside its folder, {name!r}: do not trust it"
            )
        if not is_plain_file:
            raise UserError(f"{archive} has a member that is a link or a device, {name!r}: do not trust it")
    total, packed = sum(member.size for member in members), archive.stat().st_size
    if total > max(TRUSTED_SIZE, MAX_RATIO * packed):
        raise UserError(
            f"{archive} says that its {gigabytes(packed)} unpack to {gigabytes(total)}, as in archives that "
            "are made to fill disks: if you trust it, unpack it yourself and give the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(
            f"{archive} unpacks to {gigabytes(total)}, but there are {gigabytes(free)} free for {folder}: make room or "
            "unpack it elsewhere and give the folder"
        )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
