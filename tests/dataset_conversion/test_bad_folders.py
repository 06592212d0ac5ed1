"""Proves: sources that are no such download and folders that cannot be used are refused in a sentence."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import cell_datasets
from support.files import save
from support.refusals import (
    PNGS,
    assert_says,
    convert,
    everything_below,
    mask,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")


# ---- source ----------------------------------------------------------------------------------------------------------


def test_source_that_does_not_exist_is_named(tmp_path):
    assert_says(
        refusal_in_one_sentence("isic2018", tmp_path / "nowhere"),
        tmp_path / "nowhere",
        "does not exist",
        "the folder, or the archive",
    )


@pytest.mark.parametrize("name", ["file.png", "data.rar", "data.7z", "data.gz"])
def test_plain_file_and_foreign_archive_as_source_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"Rar!")
    assert_says(
        refusal_in_one_sentence("isic2018", tmp_path / name),
        tmp_path / name,
        "neither a folder nor an archive",
        ".zip",
        "unpack it",
    )


def test_archive_that_cannot_be_opened_here_is_named(tmp_path):
    (tmp_path / "download").mkdir()
    (tmp_path / "download/training.rar").write_bytes(b"Rar!")
    text = refusal_text("isic2018", tmp_path / "download")
    assert_says(text, tmp_path / "download", "is not the published isic2018", "Unpack training.rar first")


def test_download_of_another_dataset_is_recognised(tmp_path):
    for kind in ("images", "masks"):
        save(tmp_path / f"download/Kvasir-SEG/{kind}/1.jpg", mask())
    text = refusal_text("isic2018", tmp_path / "download")
    assert_says(
        text, "is not the published isic2018", "ISIC2018_Task1-2_Training_Input/ISIC_#.jpg", "looks like kvasir_seg"
    )
    assert "isic2016" not in text


def test_empty_folder_is_not_recognised_as_anything(tmp_path):
    (tmp_path / "download").mkdir()
    text = refusal_in_one_sentence("isic2018", tmp_path / "download")
    assert_says(text, "is not the published isic2018, which has")
    assert "looks like" not in text and "Unpack" not in text


# ---- nnU-Net's folders -----------------------------------------------------------------------------------------------


def test_raw_folder_that_is_not_set_is_asked_for(download, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), "nnUNet_raw is not set", "export nnUNet_raw=")


def test_dry_run_needs_no_folders_and_writes_nothing(download, monkeypatch, capsys):
    for variable in cell_datasets.NNUNET_FOLDERS:
        monkeypatch.delenv(variable)
    before = everything_below(download.parent)
    monkeypatch.chdir(download)
    convert(*with_source(PNGS, download), "--dry-run")
    assert everything_below(download.parent) == before
    assert "Dry run: nothing was written" in capsys.readouterr().out


def test_raw_folder_that_is_a_file_is_named(download, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(download / "images/0.png"))
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)),
        download / "images/0.png",
        "cannot be made",
        "set nnUNet_raw",
    )


def test_leftover_of_a_killed_conversion_is_named(download):
    leftover = Path(os.environ["nnUNet_raw"], ".Dataset007_Cells.partial")
    leftover.mkdir()
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, leftover, "another conversion is writing it, or one was killed", "remove it")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Run as the user "nobody" if this user is root, who may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable_download(download, monkeypatch) -> Iterator[Path]:
    """The download and nnU-Net's folders at a place that everybody may read, as pytest's own are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(download, folder / "download")
    cell_datasets.use_nnunet_folders(folder, monkeypatch)
    yield folder / "download"
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_folder_without_permission_to_write_is_named(readable_download, packed):
    source = readable_download
    if packed:
        source = Path(shutil.make_archive(str(source), "zip", source))
    raw = Path(os.environ["nnUNet_raw"])
    raw.chmod(0o555)
    with ordinary_user():
        text = refusal_in_one_sentence(*with_source(PNGS, source))
    assert_says(
        text, raw, "cannot be written (Permission denied)", "unpack the archives" if packed else "set nnUNet_raw"
    )


def test_file_without_permission_to_read_is_named(readable_download):
    path = readable_download / "images/1.png"
    path.chmod(0)
    Path(os.environ["nnUNet_raw"]).chmod(0o777)
    with ordinary_user():
        assert_says(
            refusal_in_one_sentence(*with_source(PNGS, readable_download)), path, "cannot be read", "Permission denied"
        )
