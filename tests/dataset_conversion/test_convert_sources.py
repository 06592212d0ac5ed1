"""Proves: a download is converted to the same dataset in a folder, in archives, and by several processes."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.conversions import NAMES, Conversion
from support.files import contents

for_all = pytest.mark.parametrize("name", NAMES)


def pack_zip(folder: Path, archive: Path, prefix: str = "", shadows: bool = True) -> None:
    """Pack a folder as macOS does, with a shadow of every file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            file.write(path, prefix + name.as_posix())
            if shadows:
                file.writestr(f"__MACOSX/{prefix}{name.parent.as_posix()}/._{name.name}", b"\0\5\26\7")


def pack_tar(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname="download")


def assert_same_dataset(conversion: Conversion, expected: Conversion) -> None:
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        assert contents(conversion.dataset / part) == contents(expected.dataset / part)
    assert conversion.folds == expected.folds
    assert list((conversion.root / "nnUNet_raw").iterdir()) == [conversion.dataset]


@for_all
@pytest.mark.parametrize(("pack", "ending"), [(pack_zip, ".zip"), (pack_tar, ".tar.gz")], ids=["zip", "tar.gz"])
def test_archive_gives_the_same_dataset(name, pack, ending, converted, convert, tmp_path):
    archive = tmp_path / f"download{ending}"
    pack(converted(name).miniature.folder, archive)
    before = archive.read_bytes()
    assert_same_dataset(convert(converted(name).miniature, source=archive), converted(name))
    assert archive.read_bytes() == before


def test_archives_within_an_archive_give_the_same_dataset(converted, convert, tmp_path):
    """Figshare gives one zip with a zip for every 766 slices."""
    download = tmp_path / "1512427"
    shutil.copytree(converted("brain_tumor").miniature.folder, download)
    for folder in sorted(download.glob("brainTumorDataPublic_*")):
        pack_zip(folder, folder.with_suffix(".zip"))
        shutil.rmtree(folder)
    pack_zip(download, tmp_path / "1512427.zip")
    shutil.rmtree(download)
    conversion = convert(converted("brain_tumor").miniature, source=tmp_path / "1512427.zip")
    assert_same_dataset(conversion, converted("brain_tumor"))


def test_archive_of_archives_without_folders_gives_the_same_dataset(converted, convert, tmp_path):
    """Kaggle's stage1_train.zip has no folder stage1_train."""
    download = tmp_path / "data-science-bowl-2018"
    download.mkdir()
    for folder in ("stage1_train", "stage1_test"):
        pack_zip(converted("dsb2018").miniature.folder / folder, download / f"{folder}.zip")
    pack_zip(download, tmp_path / "data-science-bowl-2018.zip", shadows=False)
    conversion = convert(converted("dsb2018").miniature, source=tmp_path / "data-science-bowl-2018.zip")
    assert_same_dataset(conversion, converted("dsb2018"))


@pytest.mark.parametrize("name", ["isic2016", "isic2017", "isic2018"])
@pytest.mark.parametrize("folder_within", [True, False])
def test_folder_of_archives_gives_the_same_dataset(name, folder_within, converted, convert, tmp_path):
    """The challenge's archives have, or do not have, the folder that they are named after."""
    download = tmp_path / "archives"
    download.mkdir()
    for folder in sorted(converted(name).miniature.folder.iterdir()):
        if folder.is_dir():
            pack_zip(folder, download / f"{folder.name}.zip", f"{folder.name}/" if folder_within else "")
    assert_same_dataset(convert(converted(name).miniature, source=download), converted(name))


@for_all
def test_folder_around_the_download_will_do(name, converted, convert, tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    (around / "the download").symlink_to(converted(name).miniature.folder, target_is_directory=True)
    assert_same_dataset(convert(converted(name).miniature, source=around), converted(name))


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("dsb2018", "stage1_train"),
        ("kvasir_seg", "Kvasir-SEG"),
        ("kvasir_sessile", "sessile-main-Kvasir-SEG"),
        ("kvasir_small", "Kvasir-SEG"),
        ("glas", "Warwick QU Dataset (Released 2016_07_08)"),
        ("synapse", "RawData"),
        ("synapse", "RawData/Training"),
        ("acdc", "ACDC/database"),
    ],
)
def test_published_folder_itself_will_do(name, inner, converted, convert):
    miniature = converted(name).miniature
    assert_same_dataset(convert(miniature, source=miniature.folder / inner), converted(name))


@for_all
def test_download_of_another_dataset_is_recognised(name, miniature, refusal):
    other = "isic2016" if name != "isic2016" else "isic2018"
    sentence = refusal(miniature(name), name=other)
    assert f"is not the published {other}" in sentence
    assert name in sentence.rpartition("It looks like")[2]


def test_two_processes_write_the_same_bytes(converted, convert):
    conversion = convert(converted("glas").miniature, processes=2, check=True)
    assert contents(conversion.dataset) == contents(converted("glas").dataset)
