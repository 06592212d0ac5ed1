"""Proves: no archive writes outside its folder, makes links or fills the disk."""

import re
import shutil
import stat
import struct
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from support.archive_files import refusal, write_tar, write_zip
from support.files import contents

from nnunet_plugins.dataset_conversion import archives
from nnunet_plugins.dataset_conversion.archives import unpack


def tar_with(path: Path, **attributes: object) -> Path:
    """A tar file with one member that is no plain file."""
    member = tarfile.TarInfo(str(attributes.pop("name", "member")))
    for name, value in attributes.items():
        setattr(member, name, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)
    return path


# ---- members that would leave ----------------------------------------------------------------------------------------
OUTSIDE = [
    "../evil",
    "a/../../evil",
    "{root}/evil",
    "/{root}/evil",
    "..",
    "C:/evil",
    "C:evil",
    "C:\\evil",
    "..\\evil",
    "a\\..\\..\\evil",
    "\\evil",
    "\\\\server\\share\\evil",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("write, ending", [(write_zip, ".zip"), (write_tar, ".tar")])
def test_member_outside_the_folder_is_refused_before_anything_is_unpacked(tmp_path, write, ending, name):
    name = name.format(root=tmp_path)
    path = write(tmp_path / f"x{ending}", {"good": b"1", name: b"2"})
    text = refusal(path, tmp_path / "in" / "out")
    assert "outside its folder" in text and repr(name) in text and "do not trust it" in text
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_zip_with_link_or_device_is_refused(tmp_path, kind):
    member = zipfile.ZipInfo("link")
    member.create_system = 3
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good", b"1")
        archive.writestr(member, "/etc/passwd")
    assert "link or a device, 'link'" in refusal(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_tar_with_link_or_device_is_refused(tmp_path, kind):
    path = tar_with(tmp_path / "x.tar", type=getattr(tarfile, kind), linkname="/etc/passwd")
    assert "link or a device, 'member'" in refusal(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- sizes -----------------------------------------------------------------------------------------------------------


def declare(path: Path, size: int) -> Path:
    """Patch the unpacked size of the last member in both of its headers."""
    data = bytearray(path.read_bytes())
    local, central = data.rindex(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, local + 22, size)
    struct.pack_into("<I", data, central + 24, size)
    path.write_bytes(data)
    return path


def test_small_zip_that_declares_gigabytes_is_refused(tmp_path):
    path = declare(write_zip(tmp_path / "x.zip", {"bomb": bytes(100_000)}), 4_000_000_000)
    text = refusal(path, tmp_path / "out")
    assert "unpack to 4 GB" in text and "fill disks" in text and "give the folder" in text
    assert not (tmp_path / "out").exists()


def test_sizes_of_all_members_count(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(12):
            archive.writestr(f"{index}", b"0")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    for match in re.finditer(b"PK\x01\x02", bytes(data)):
        struct.pack_into("<I", data, match.start() + 24, 100_000_000)
    (tmp_path / "x.zip").write_bytes(data)
    assert "unpack to 1.2 GB" in refusal(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("size, refused", [(1 << 30, False), ((1 << 30) + 1, True)])
def test_a_gibibyte_is_never_a_bomb(tmp_path, size, refused):
    path = declare(write_zip(tmp_path / "x.zip", {"file": bytes(1000)}), size)
    assert ("fill disks" in refusal(path, tmp_path / "out")) == refused


def test_large_archive_may_be_packed_hundredfold(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "TRUSTED_SIZE", 1000)
    path = write_zip(tmp_path / "x.zip", {"file": bytes(10_000)})
    packed = path.stat().st_size
    monkeypatch.setattr(archives, "MAX_RATIO", 10_000 / packed + 0.01)
    unpack(path, tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_RATIO", 10_000 / packed - 0.01)
    assert "fill disks" in refusal(path, tmp_path / "again")


def test_archive_larger_than_the_free_space_is_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", {"file": bytes(1001)})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2000, 1000, 1000))
    text = refusal(path, tmp_path / "out")
    assert "1e-06 GB free" in text and "make room or unpack it elsewhere" in text
    assert contents(tmp_path / "out") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2001, 1000, 1001))
    unpack(path, tmp_path / "out")


@pytest.mark.parametrize("declared", [10, 1000])
def test_zip_that_holds_more_or_less_than_it_declares_is_refused(tmp_path, declared):
    path = declare(write_zip(tmp_path / "x.zip", {"good": b"1", "liar": bytes(500)}), declared)
    assert "cannot be unpacked" in refusal(path, tmp_path / "out")
    written = contents(tmp_path / "out").get("liar", b"")
    assert len(written) <= min(declared, 500)
