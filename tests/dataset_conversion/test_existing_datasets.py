"""Proves: existing datasets and folds are kept, unless the user gives --overwrite."""

import os
import shutil
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
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    truncate,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")


@pytest.mark.parametrize("variable", cell_datasets.NNUNET_FOLDERS)
def test_number_that_another_dataset_has_is_refused(download, variable):
    other = Path(os.environ[variable], "Dataset007_Other")
    other.mkdir()
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)), "The number 7 belongs to", other, "another --dataset-id"
    )


def test_dataset_that_comes_from_elsewhere_is_kept(download):
    (raw_dataset() / "imagesTr").mkdir(parents=True)
    for option in ((), ("--overwrite",), ("--overwrite", "--dry-run")):
        text = refusal_in_one_sentence(*with_source(PNGS, download), *option)
        assert_says(text, raw_dataset(), "no record of a conversion", "another --dataset-id, or move it away")


def test_dataset_that_is_converted_in_its_own_place_is_kept(download):
    """Its own files would be replaced by smaller ones."""
    convert(*with_source(PNGS, download))
    again = ("folder", raw_dataset(), "-d", "7", "--dataset-name", "Cells", "--images", "imagesTr/*_0000.png")
    resized = ("--masks", "labelsTr/*.png", "--resize", "16", "16", "--overwrite")
    assert_says(refusal_in_one_sentence(*again, *resized), "would replace", "another --dataset-id")
    above = ("folder", raw_dataset().parent, *again[2:-1], "Dataset007_Cells/imagesTr/*_0000.png")
    assert_says(refusal_in_one_sentence(*above, *resized), "imagesTr/0_0000.png lies in", "another --dataset-id")
    shutil.copyfile(raw_dataset() / "splits_final.json", raw_dataset() / "mine.json")
    table = ("--splits", raw_dataset() / "mine.json", "--overwrite")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), *table), "mine.json lies in")


def test_link_to_a_dataset_is_replaced_and_what_it_leads_to_is_kept(download, tmp_path):
    convert(*with_source(PNGS, download))
    raw_dataset().rename(tmp_path / "scratch")
    raw_dataset().symlink_to(tmp_path / "scratch")
    (download / "masks/1.png").unlink()
    (download / "images/1.png").unlink()
    for _ in range(2):
        convert(*with_source(PNGS, download), "--overwrite")
        assert [path.name for path in raw_dataset().parent.iterdir()] == [raw_dataset().name]
        assert not raw_dataset().is_symlink() and len(list((raw_dataset() / "labelsTr").iterdir())) == 2
    assert len(list((tmp_path / "scratch/labelsTr").iterdir())) == 3


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        (("--threshold", "100"), "threshold none, now 100.0"),
        (("--max-foreground-fraction", "0.9"), "max_foreground_fraction none, now 0.9"),
        (("--trust-image-geometry",), "trust_image_geometry none, now yes"),
        (("--near-duplicates",), "near_duplicates none, now yes"),
        (("--groups", "groups.csv"), "groups none, now a table ("),
    ],
)
def test_dataset_of_other_options_is_kept(download, monkeypatch, option, difference):
    monkeypatch.chdir(download)
    Path("groups.csv").write_text("case,group\n0,a\n1,b\n2,b\n")
    convert(*with_source(PNGS, download))
    text = refusal_in_one_sentence(*with_source(PNGS, download), *option)
    assert_says(text, raw_dataset(), f"with other options ({difference}", "another --dataset-id", "--overwrite")


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_dataset_of_other_files_is_kept(download, change):
    convert(*with_source(PNGS, download))
    match change:
        case "changed":
            save(download / "masks/1.png", mask() | 255)
        case "added":
            save(download / "images/1a.png", picture())
            save(download / "masks/1a.png", mask())
        case "removed":
            (download / "images/1.png").unlink()
            (download / "masks/1.png").unlink()
    first = "1a" if change == "added" else "1"
    text = refusal_in_one_sentence(*with_source(PNGS, download))
    assert_says(text, raw_dataset(), f"from other files (1 differ, first {first})", "--overwrite")


def test_same_conversion_again_writes_nothing_and_is_no_error(download, capsys):
    convert(*with_source(PNGS, download))
    before = everything_below()
    convert(*with_source(PNGS, download))
    assert everything_below() == before
    assert "nothing to do" in capsys.readouterr().out


def test_overwrite_replaces_the_dataset_and_its_folds(download):
    convert(*with_source(PNGS, download))
    (raw_dataset() / "extra").touch()
    (download / "images/1.png").unlink()
    (download / "masks/1.png").unlink()
    convert(*with_source(PNGS, download), "--overwrite")
    assert sorted(path.name for path in (raw_dataset() / "labelsTr").iterdir()) == ["0.png", "2.png"]
    assert not (raw_dataset() / "extra").exists()
    assert [path.name for path in Path(os.environ["nnUNet_raw"]).iterdir()] == ["Dataset007_Cells"]
    placed = Path(os.environ["nnUNet_preprocessed"], raw_dataset().name, "splits_final.json")
    assert placed.read_bytes() == (raw_dataset() / "splits_final.json").read_bytes()


def test_failed_overwrite_keeps_the_dataset(download):
    convert(*with_source(PNGS, download))
    truncate(download / "images/1.png")
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--overwrite"),
        download / "images/1.png",
        "cannot be read",
    )


def test_other_folds_that_nnunet_has_are_kept(download):
    path = Path(os.environ["nnUNet_preprocessed"], "Dataset007_Cells/splits_final.json")
    path.parent.mkdir()
    path.write_text('[{"train": ["0"], "val": ["1", "2"]}]')
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download)), path, "other folds", "move it away, or give --overwrite"
    )


def test_folds_that_cannot_be_read_are_kept(download):
    path = Path(os.environ["nnUNet_preprocessed"], "Dataset007_Cells/splits_final.json")
    path.parent.mkdir()
    path.write_text("[{")
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download)), path, "other folds")
