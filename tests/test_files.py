"""Proves: files and folders are written whole or not at all, and hashes and JSON are refused in one sentence."""

import hashlib
import os
from pathlib import Path

import pytest

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import (
    atomic_write,
    atomic_write_with_companions,
    backup_folder,
    digest,
    partial_path,
    read_json,
    recover_folder,
    remove_partial,
    replace_folder,
    usable_cores,
    write_json,
)


def test_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new folder" / "file"
    for text in ("old", "new"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent  # renaming across disks would copy
            assert text == "old" or path.read_text() == "old"
        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_old_file_stays_and_nothing_else_if_writing_fails(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"number": 0.1, "text": "größe", "list": [1, None, True]}
    write_json(tmp_path / "folder" / "file.json", content)
    assert read_json(tmp_path / "folder" / "file.json") == content


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file.json", [1])
    for content in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == [1]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff"])
def test_json_that_cannot_be_read_is_refused_with_the_remedy(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.json cannot be read \(.*\): convert it again$"):
        read_json(path, "convert it again")


def test_digest_is_that_of_the_files_one_after_the_other(tmp_path):
    parts = [b"a" * 3_000_000, b"", b"b"]
    paths = [tmp_path / str(number) for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
        assert digest(path) == hashlib.sha256(part).hexdigest()
    assert digest(*paths) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_digest_of_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"missing cannot be read \(No such file or directory\): check it"):
        digest(tmp_path / "missing")


def test_at_least_one_core_is_usable():
    assert usable_cores() >= 1


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "Dataset600_Squares"


def write(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


def test_new_folder_takes_the_place_of_the_old_one(target):
    write(target, "old")
    write(backup_folder(target), "left by a process that was killed")
    replace_folder(write(target.with_name("new"), "new"), target)
    assert (target / "file").read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_old_folder_comes_back_if_the_new_one_cannot_take_its_place(target):
    write(target, "old")
    with pytest.raises(OSError):
        replace_folder(target.with_name("missing"), target)
    assert (target / "file").read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_folder_that_a_killed_process_moved_away_comes_back(target):
    write(backup_folder(target), "old")
    recover_folder(target)
    assert (target / "file").read_text() == "old"
    write(backup_folder(target), "older")
    recover_folder(target)
    assert (target / "file").read_text() == "old"


def test_companions_of_a_file_are_moved_before_it_and_only_when_all_are_whole(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write_with_companions(path) as temporary:
        temporary.with_suffix(".json").write_text("new")
        raise OSError("full")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth"]
    with atomic_write_with_companions(path) as temporary:
        assert temporary.name == path.name
        temporary.with_suffix(".json").write_text("new")
        temporary.write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.json", "checkpoint.pth"]
    assert path.read_text() == "new"


def test_what_killed_processes_left_half_written_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".checkpoint_best.pth.1.partial").mkdir()
    (tmp_path / ".checkpoint_best.pth.1.partial" / "checkpoint_best.pth").write_text("half")
    (tmp_path / ".checkpoint_best_regions.npz.1.partial").write_text("half")
    others = [tmp_path / ".other.1.partial", tmp_path / "checkpoint_best.pth"]
    for other in others:
        other.write_text("another's")
    remove_partial(tmp_path, "checkpoint_")
    assert sorted(tmp_path.iterdir()) == others


def test_what_a_killed_process_leaves_of_a_hidden_file_is_found(tmp_path):
    partial_path(tmp_path / ".checkpoint_best_regions.npz.next").touch()
    remove_partial(tmp_path, "checkpoint_")
    assert not list(tmp_path.iterdir())


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, flushed = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(path.exists()))
    with atomic_write(path) as temporary:
        temporary.write_text("all of it")
    assert flushed == [False]
