"""Proves: archives are unpacked as their owners packed them, and damaged ones are refused in one sentence."""

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archive_files import TARS, ZIPS, refusal, write_tar, write_zip
from support.files import contents

from nnunet_plugins.dataset_conversion import archives
from nnunet_plugins.dataset_conversion.archives import unpack
from nnunet_plugins.errors import UserError

FILES = {
    "top.txt": b"top",
    "a/b/c/deep.bin": bytes(range(256)) * 20,
    "a.b/v1.0.final/x.y.z.png": b"dots",
    "größe/画像 (1).png": "ü".encode(),
    "empty.txt": b"",
    "-dash/[brackets]'\".png": b"-",
}


# ---- honest archives -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [*ZIPS, *TARS])
def test_every_member_is_unpacked_as_it_was(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    _ = write_zip(path, FILES, ZIPS[ending]) if ending in ZIPS else write_tar(path, FILES, TARS[ending])
    assert archives.is_archive(path)
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


@pytest.mark.parametrize("name", ["data.gz", "data.rar", "data.7z", "data", "zip", "data.zip.txt", "volume.nii.gz"])
def test_other_files_are_no_archives(name):
    assert not archives.is_archive(Path(name))


def test_folders_in_archives_are_no_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/file", b"1")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("folder")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    unpack(tmp_path / "x.zip", tmp_path / "zip")
    unpack(tmp_path / "x.tar", tmp_path / "tar")
    assert contents(tmp_path / "zip") == {"folder/file": b"1"}
    assert contents(tmp_path / "tar") == {}


def test_archives_in_archives_are_unpacked_to_a_depth_of_three(tmp_path):
    for depth in range(5, 0, -1):
        inner = {f"{depth + 1}.zip": (tmp_path / f"{depth + 1}.zip").read_bytes()} if depth < 5 else {}
        write_zip(tmp_path / f"{depth}.zip", inner | {f"file{depth}": b"x"})
    unpack(tmp_path / "1.zip", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        "2.zip.unpacked/2/3.zip.unpacked/3/4.zip",
        "2.zip.unpacked/2/3.zip.unpacked/3/file3",
        "2.zip.unpacked/2/file2",
        "file1",
    ]


def test_names_with_dots_that_stay_inside_are_unpacked(tmp_path):
    unpack(write_tar(tmp_path / "x.tar", {"./a/../b/file": b"1", "..c": b"2"}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"b/file": b"1", "..c": b"2"}


def test_permissions_of_members_are_not_taken_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("program")
        member.mode = 0o6777
        archive.addfile(member)
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert (tmp_path / "out/program").stat().st_mode & 0o7111 == 0


# ---- damaged archives ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [*ZIPS, *TARS])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_truncated_archive_is_refused(tmp_path, ending, share):
    path = tmp_path / f"data{ending}"
    files = {f"{index}": bytes(hash((index, i)) % 256 for i in range(3000)) for index in range(4)}
    _ = write_zip(path, files, ZIPS[ending]) if ending in ZIPS else write_tar(path, files, TARS[ending])
    if ending == ".tar":
        path.write_bytes(path.read_bytes()[:-10240].rstrip(b"\0"))  # the empty blocks at the end say nothing
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "download it again" in refusal(path, tmp_path / "out")


@pytest.mark.parametrize("size", [512 + 3072, 512 + 3072 + 100])
def test_tar_that_ends_between_members_is_refused(tmp_path, size):
    """Python's tarfile takes it for the end of the archive; the other members would be missing without a word."""
    path = write_tar(tmp_path / "x.tar", {name: bytes(3000) for name in "abc"})
    path.write_bytes(path.read_bytes()[:size])
    assert "download it again" in refusal(path, tmp_path / "out")


def test_tar_with_a_damaged_header_within_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", {name: bytes(3000) for name in "abc"})
    data = bytearray(path.read_bytes())
    data[512 + 3072 + 10] ^= 1
    path.write_bytes(data)
    assert "download it again" in refusal(path, tmp_path / "out")


@pytest.mark.parametrize("ending", [*ZIPS, *TARS])
def test_archive_with_flipped_bits_is_refused_or_unpacked(tmp_path, ending):
    """The user never sees a traceback, wherever the damage is."""
    path = tmp_path / f"data{ending}"
    files = {f"{index}": bytes((index * i * i) % 251 for i in range(1500)) for index in range(3)}
    _ = write_zip(path, files, ZIPS[ending]) if ending in ZIPS else write_tar(path, files, TARS[ending])
    intact = path.read_bytes()
    for position in range(0, len(intact), max(1, len(intact) // 60)):
        data = bytearray(intact)
        data[position] ^= 0x55
        path.write_bytes(data)
        try:
            unpack(path, tmp_path / "out")
        except UserError as error:
            assert "\n" not in str(error)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize(
    "compress, ending", [(gzip.compress, ".tar.gz"), (bz2.compress, ".tar.bz2"), (lzma.compress, ".tar.xz")]
)
def test_compressed_text_named_as_tar_is_refused(tmp_path, compress: Callable[[bytes], bytes], ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(compress(b"<html>404 Not Found</html>" * 100))
    assert "cannot be unpacked" in refusal(path, tmp_path / "out")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz"])
def test_text_named_as_archive_is_refused(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_text("<html>404 Not Found</html>")
    assert "cannot be unpacked" in refusal(path, tmp_path / "out")


def test_encrypted_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"secret": b"1234"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    text = refusal(path, tmp_path / "out")
    assert "encrypted" in text and "unpack it yourself" in text


def test_damaged_archive_in_an_archive_is_named(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"inner.zip": b"no zip"})
    with pytest.raises(UserError, match=r"inner\.zip cannot be unpacked"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("write, ending", [(write_zip, ".zip"), (write_tar, ".tar")])
def test_name_that_is_a_file_and_a_folder_is_refused(tmp_path, write, ending, names):
    path = write(tmp_path / f"x{ending}", dict.fromkeys(names, b"1"))
    assert "cannot be unpacked" in refusal(path, tmp_path / "out")


def test_name_that_is_too_long_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a" * 300: b"1"})
    assert "cannot be unpacked" in refusal(path, tmp_path / "out")


def test_disk_that_is_full_while_unpacking_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = write_zip(tmp_path / "x.zip", {"a": b"1"})
    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert "No space left on device" in refusal(path, tmp_path / "out")
