"""Proves: a download in archives is searched like a folder, and nothing unpacked is left behind."""

import pytest
from support.archive_files import write_tar, write_zip

from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError


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
