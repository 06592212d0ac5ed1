"""Proves that archives are unpacked as their owners packed them, and that none of them can do harm.

Whatever is refused, is refused in one sentence, with nothing written outside the folder and nothing left in it.
"""

import bz2
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_plugins.dataset_conversion import archives
from nnunet_plugins.dataset_conversion.archives import unpack
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError

FILES = {
    "top.txt": b"top",
    "a/b/c/deep.bin": bytes(range(256)) * 20,
    "a.b/v1.0.final/x.y.z.png": b"dots",
    "größe/画像 (1).png": "ü".encode(),
    "empty.txt": b"",
    "-dash/[brackets]'\".png": b"-",
}


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


def tar_with(path: Path, **attributes: object) -> Path:
    """A tar file with one member that is no plain file."""
    member = tarfile.TarInfo(str(attributes.pop("name", "member")))
    for name, value in attributes.items():
        setattr(member, name, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path, folder: Path) -> str:
    """The one sentence; around ``folder`` nothing has changed."""
    before = contents(folder.parent)
    with pytest.raises(UserError) as error:
        unpack(archive, folder)
    text = str(error.value)
    assert "\n" not in text and not re.search(r"[.!?] +[A-Z]", text) and " object at 0x" not in text
    assert str(archive) in text
    assert {name: data for name, data in contents(folder.parent).items() if not name.startswith(folder.name)} == before
    return text


# ---- honest archives -------------------------------------------------------------------------------------------------


ZIPS = {".zip": zipfile.ZIP_DEFLATED, ".ZIP": zipfile.ZIP_STORED, ".Zip": zipfile.ZIP_BZIP2}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".TGZ": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


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
    """tarfile takes it for the end of the archive: the other members would be missing without a word."""
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
    """Wherever the damage is, the user never sees a traceback."""
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


# ---- archives as a source --------------------------------------------------------------------------------------------


def test_archive_as_source_is_searched_and_removed_afterwards(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"images/1.png": b"1", "deep/images/2.png": b"2"})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Source(path, scratch) as source:
        found = source.find("images/*.png")
        assert {key: file.read_bytes() for key, file in found.items()} == {"1": b"1", "2": b"2"}
        assert all(file.is_relative_to(scratch) for file in found.values())
        assert source.unopened == []
    assert not list(scratch.iterdir())


def test_archives_beside_unpacked_files_are_not_opened(tmp_path):
    folder = tmp_path / "download"
    (folder / "images").mkdir(parents=True)
    (folder / "images/1.png").touch()
    archive = write_zip(folder / "images.zip", {"images/2.png": b"2"})
    with Source(folder, tmp_path) as source:
        assert list(source.find("images/*.png")) == ["1"]
        assert source.unopened == [archive]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["download"]


def test_archives_with_the_part_that_lacks_are_opened(tmp_path):
    folder = tmp_path / "download"
    (folder / "images").mkdir(parents=True)
    (folder / "images/1.png").touch()
    write_zip(folder / "masks.ZIP", {"masks/1.png": b"2"})
    with Source(folder, tmp_path) as source:
        assert list(source.find("images/*.png")) == list(source.find("masks/*.png")) == ["1"]
        assert source.unopened == []


def test_archive_stands_for_the_folder_of_its_name(tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    write_zip(folder / "Training.zip", {"1.png": b"1"})
    write_tar(folder / "Test.tar.gz", {"1.png": b"2"}, "w:gz")
    with Source(folder, tmp_path) as source:
        assert [file.read_bytes() for file in source.find("Training/*.png").values()] == [b"1"]
        assert [file.read_bytes() for file in source.find("download/Test/*.png").values()] == [b"2"]


def test_scratch_is_empty_after_an_error(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = write_zip(tmp_path / "x.zip", {"a": bytes(3000), "b.zip": b"no zip"})
    with pytest.raises(UserError), Source(path, scratch) as source:
        source.find("*")
    assert not list(scratch.iterdir())
