"""Proves: folds never divide patients that have folders, names or a table, and it is said which."""

import csv
import json
from pathlib import Path

import pytest
from support.files import save
from support.refusals import assert_says, convert, mask, picture, raw_dataset, refusal_in_one_sentence

pytestmark = pytest.mark.usefixtures("nnunet_folders")
NAMED = ("--dataset-name", "Cells", "-d", "7")
FOLDERS = ("--images", "scans/*/*.png", "--masks", "masks/*/*.png", *NAMED)
PHOTOS = ("--images", "images/*.png", "--masks", "masks/*.png", *NAMED)


@pytest.fixture
def slices(tmp_path) -> Path:
    """Six patients with three slices each, in folders of theirs; slices have the same names."""
    for patient in range(6):
        for index in range(3):
            save(tmp_path / f"download/scans/pat {patient}/{index}.png", picture(index))
            save(tmp_path / f"download/masks/pat {patient}/{index}.png", mask())
    return tmp_path / "download"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Photos 0 to 2 of six patients in one folder."""
    for patient in range(6):
        for index in range(3):
            save(tmp_path / f"download/images/Patient 0{patient} photo {index}.png", picture(index))
            save(tmp_path / f"download/masks/Patient 0{patient} photo {index}.png", mask())
    return tmp_path / "download"


def groups() -> dict[str, str]:
    with (raw_dataset() / "conversion_report.csv").open(newline="") as file:
        return {row["case"]: row["group"] for row in csv.DictReader(file)}


def assert_folds_keep(group_of: dict[str, str], number: int) -> None:
    folds = json.loads((raw_dataset() / "splits_final.json").read_text())
    assert len(folds) == number and len(set(group_of.values())) >= number
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(group_of)
    for fold in folds:
        assert {group_of[case] for case in fold["train"]}.isdisjoint(group_of[case] for case in fold["val"])


def test_slices_in_patients_folders_stay_together_and_that_is_said(slices, capsys):
    convert("folder", slices, *FOLDERS)
    assert_folds_keep({f"pat_{p}_{i}": f"pat {p}" for p in range(6) for i in range(3)}, 5)
    assert groups()["pat_3_1"] == "pat 3"
    assert_says(capsys.readouterr().out, "Each of the 6 folders", "such as pat 0", "--group '.+'", "--groups")


def test_images_are_groups_of_their_own_if_the_expression_finds_all_of_their_paths(slices, capsys):
    convert("folder", slices, *FOLDERS, "--group", ".+")
    assert len(set(groups().values())) == 18
    assert "is one group" not in capsys.readouterr().out


def test_folder_for_each_image_is_no_group(tmp_path, capsys):
    for index in range(5):
        save(tmp_path / f"download/{index}/image.png", picture(index))
        save(tmp_path / f"download/{index}/mask.png", mask())
    convert("folder", tmp_path / "download", "--images", "*/image.png", "--masks", "*/mask.png", *NAMED)
    assert "folders" not in capsys.readouterr().out.replace("Folds", "")
    assert groups() == {str(index): str(index) for index in range(5)}


@pytest.mark.parametrize("expression", ["Patient [0-9]+", "^images/(.*) photo"])
def test_patients_in_names_are_groups_by_an_expression(photos, expression):
    convert("folder", photos, *PHOTOS, "--group", expression)
    assert groups()["Patient_03_photo_1"] == "Patient 03"
    assert_folds_keep(groups(), 5)


@pytest.mark.parametrize(
    "expression, parts",
    [
        ("Patient (", ["no regular expression", "'patient[0-9]+'"]),
        ("photo 1", ["'photo 1'", "finds nothing in 12 paths", "images/Patient 00 photo 0.png"]),
        ("Pat", ["finds 'Pat' in every path", "two groups"]),
    ],
)
def test_expression_that_makes_no_groups_is_refused(photos, expression, parts):
    text = refusal_in_one_sentence("folder", photos, *PHOTOS, "--group", expression)
    assert_says(text, "--group", *parts)


@pytest.mark.parametrize("declared", [(), ("--group", "pat [0-9]+")], ids=["folders", "expression"])
def test_images_that_look_alike_unite_patients_and_never_divide_them(slices, declared):
    save(slices / "scans/pat 5/0.png", picture(50))
    save(slices / "scans/pat 5/1.png", picture(51))
    save(slices / "scans/pat 5/2.png", picture(52))
    convert("folder", slices, *FOLDERS, *declared, "--near-duplicates")
    assert groups() == {f"pat_{p}_{i}": "pat 5" if p == 5 else "pat 0" for p in range(6) for i in range(3)}


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "separator", "header"),
    [
        ("{}", ",", "image,group\n"),
        ("{}.png", ";", "image;group\n"),
        ("images/{}.png", "\t", "image\tgroup\n"),
        ("./images/{}", ",", ""),
        ("images\\{}.png", ";", ""),
    ],
)
def test_table_may_name_images_with_and_without_ending_and_folder(photos, tmp_path, form, separator, header):
    names = [f"Patient 0{p} photo {i}" for p in range(6) for i in range(3)]
    rows = "".join(f"{form.format(name)}{separator}g{name[9]}\n" for name in names)
    (tmp_path / "t.csv").write_text(header + rows)
    convert("folder", photos, *PHOTOS, "--groups", tmp_path / "t.csv")
    assert groups() == {name.replace(" ", "_"): f"g{name[9]}" for name in names}


def test_rows_that_are_no_image_are_counted(photos, tmp_path, capsys):
    names = [f"Patient 0{p} photo {i}" for p in range(8) for i in range(3)]
    (tmp_path / "t.csv").write_text("image,group\n" + "".join(f"{name},g{name[9]}\n" for name in names))
    convert("folder", photos, *PHOTOS, "--groups", tmp_path / "t.csv")
    assert_says(capsys.readouterr().out, "has 6 rows of no image, such as Patient 06 photo 0")


def test_file_name_that_two_images_have_stands_for_none_of_them(slices, tmp_path):
    (tmp_path / "t.csv").write_text("image,group\n0.png,a\n1.png,b\n2.png,c\nscans/pat 0/0.png,a\n")
    text = refusal_in_one_sentence("folder", slices, *FOLDERS, "--groups", tmp_path / "t.csv")
    assert_says(text, "has no row for 17 images, such as pat 0_1, pat 0_2 and pat 1_0")


def test_table_that_names_no_image_is_refused_with_an_example_of_both(photos, tmp_path):
    (tmp_path / "t.csv").write_text("number,group\n0,a\n1,b\n")
    text = refusal_in_one_sentence("folder", photos, *PHOTOS, "--groups", tmp_path / "t.csv")
    assert_says(text, "names none of the 18 images", "has '1'", "'images/Patient 00 photo 0.png'")


def test_table_is_looked_for_in_the_current_folder(photos, monkeypatch):
    (photos / "t.csv").write_text("image,group\n")
    text = refusal_in_one_sentence("folder", photos, *PHOTOS, "--groups", "t.csv")
    assert_says(text, "t.csv does not exist in", str(Path.cwd()), "the current folder")


def test_two_ways_to_group_are_refused(photos, tmp_path):
    text = refusal_in_one_sentence("folder", photos, *PHOTOS, "--groups", "t.csv", "--group", "x")
    assert_says(text, "--group and --groups contradict each other")
