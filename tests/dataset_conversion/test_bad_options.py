"""Proves: options that are wrong, contradict each other or do not fit the data are refused in a sentence."""

import pytest
from support.files import save, save_volume
from support.refusals import (
    PNGS,
    VOLUMES,
    assert_says,
    convert,
    mask,
    mask_volume,
    picture,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

from nnunet_plugins.cli import main

pytestmark = pytest.mark.usefixtures("nnunet_folders")


def test_pattern_that_the_shell_has_expanded_is_refused(download):
    options = ("--images", *(str(path) for path in sorted(download.glob("images/*.png"))), *PNGS[3:])
    assert_says(
        refusal_in_one_sentence("folder", download, *options),
        download / "images/0.png",
        "no wildcard",
        f"in quotes, one like '{download}/images/*.png'",
    )


@pytest.mark.parametrize(
    "entries, parts",
    [
        (["0=background", "1=cell", "2=cell"], ["'2=cell'", "repeats a value or a name"]),
        (["0=background", "1=cell", "1=nucleus"], ["'1=nucleus'", "repeats a value or a name"]),
        (["0=cell", "1=nucleus"], ["names no background", "0=background"]),
        (["background"], ["'background'", "VALUE=NAME"]),
        (["zero=background"], ["'zero=background'", "VALUE=NAME"]),
        (["0=background", "1="], ["'1='", "VALUE=NAME"]),
        (["0=background", " --5=cell"], ["--5=cell", "VALUE=NAME"]),
    ],
)
def test_label_map_that_is_no_bijection_or_unclear_is_refused(download, entries, parts):
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), "--label-map", *entries), "--label-map", *parts)


def test_label_map_with_threshold_is_refused(download):
    text = refusal_in_one_sentence(
        *with_source(PNGS, download), "--label-map", "0=background", "255=cell", "--threshold", "127"
    )
    assert_says(text, "--label-map and --threshold", "one of them")


def test_several_patterns_without_names_of_channels_are_refused(download):
    text = refusal_in_one_sentence("folder", download, "--images", "images/*.png", "masks/*.png", *PNGS[3:])
    assert_says(text, "2 patterns", "--channels")


def test_number_of_names_of_channels_that_does_not_fit_is_refused(download):
    text = refusal_text(*with_source(PNGS, download), "--channels", "a", "b")
    assert_says(text, download / "images/0.png", "has 3 channels, but 2 are expected", "--channels")
    two = ("--images", "images/*.png", "masks/*.png", *PNGS[3:])
    assert_says(refusal_in_one_sentence("folder", download, *two, "--channels", "a", "b", "c"), "names 3", "2 patterns")


def test_grey_picture_has_one_channel_and_not_as_many_as_columns(download):
    for index in range(3):
        save(download / f"images/{index}.png", picture(index)[..., 0])
    assert_says(refusal_text(*with_source(PNGS, download), "--channels", "a", "b"), "has 1 channel", "2 are expected")


def test_several_names_of_channels_for_one_file_of_volumes_are_refused(volumes):
    assert_says(refusal_text(*with_source(VOLUMES, volumes), "--channels", "T1", "T2"), "--channels")


@pytest.mark.parametrize("pattern", ["images/{a*.png", "images/{*.png"])
def test_pattern_with_an_open_brace_is_refused(download, pattern):
    assert_says(refusal_in_one_sentence("folder", download, "--images", pattern, *PNGS[3:]), pattern)


@pytest.mark.parametrize("lacking", ["--images", "--masks", "--dataset-name", "-d"])
def test_folder_says_which_options_it_needs(download, lacking):
    index = PNGS.index(lacking)
    text = refusal_in_one_sentence(*with_source((*PNGS[:index], *PNGS[index + 2 :]), download))
    assert_says(text, "--dataset-id" if lacking == "-d" else lacking, "--images 'images/*.png'")


@pytest.mark.parametrize("name", ["../Cells", "a b", "", "a.b", "a/b"])
def test_dataset_name_that_is_no_folder_name_is_refused(download, name):
    options = [name if option == "Cells" else option for option in PNGS]
    assert_says(refusal_in_one_sentence(*with_source(options, download)), repr(name), "letters, digits, _ and -")


@pytest.mark.parametrize(
    "option", [("--images", "*.png"), ("--masks", "*.png"), ("--dataset-name", "a"), ("--label-map", "0=a")]
)
def test_option_of_folder_with_a_named_dataset_is_refused(download, option):
    assert_says(refusal_in_one_sentence("isic2018", download, *option), option[0], "'folder' only", "isic2018")


@pytest.mark.parametrize("fraction", ["0", "-0.1", "1.01", "nan", "inf"])
def test_bad_foreground_fraction_is_refused(download, fraction):
    text = refusal_in_one_sentence(*with_source(PNGS, download), f"--max-foreground-fraction={fraction}")
    assert_says(text, "--max-foreground-fraction", "above 0 and at most 1")


def test_fraction_that_no_case_is_below_is_refused(download):
    text = refusal_in_one_sentence(*with_source(PNGS, download), "--max-foreground-fraction", "0.001")
    assert_says(text, "0.1000%", "give a higher --max-foreground-fraction")


@pytest.mark.parametrize("number", ["0", "-2"])
def test_fewer_than_one_process_is_refused(download, number):
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), f"-np={number}", "-np", number),
        f"-np {number}",
        "at least 1",
    )


@pytest.mark.parametrize("number", ["0", "1000", "-1"])
def test_number_outside_1_to_999_is_refused(download, number):
    text = refusal_in_one_sentence("folder", download, *PNGS[1:-2], f"--dataset-id={number}")
    assert_says(text, f"--dataset-id {number}", "from 1 to 999")


def test_number_that_is_no_number_is_refused_by_the_parser(download, capsys):
    with pytest.raises(SystemExit) as exit:
        convert("folder", download, *PNGS[1:-1], "seven")
    assert exit.value.code == 2 and "'seven'" in capsys.readouterr().err


def test_regions_and_paper_split_where_there_are_none_are_refused(download):
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), "--regions"), "leave it out")
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--paper-split"),
        "no published split",
        "leave out --paper-split",
    )


@pytest.mark.parametrize("name, similar", [("kvasir", "kvasir_seg"), ("ISIC2018", "isic2018"), ("xyz", "folder")])
def test_wrong_name_of_a_dataset_gets_suggestions(download, name, similar):
    assert_says(refusal_text(name, download), repr(name), "Did you mean", similar)


def test_no_name_and_no_source_are_refused():
    for arguments in ([], ["isic2018"]):
        with pytest.raises(SystemExit) as exit:
            main(["convert", *arguments])
        assert_says(str(exit.value.code), "--list", "convert NAME SOURCE")


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_table_of_groups_that_is_missing_is_named(download):
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--groups", download / "g.csv"),
        download / "g.csv",
        "does not exist",
        "CSV file",
    )


@pytest.mark.parametrize("text", ["", "case,group\n0\n", "case\n0\n1\n2\n", "case,group\n0,\n"])
def test_table_of_groups_that_is_broken_is_named(download, text):
    path = download / "g.csv"
    path.write_text(text)
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--groups", path),
        path,
        "an image and its group in each row",
        "'image,group' and then 'img00.png,p1'",
    )


def test_table_of_groups_that_is_no_text_is_named(download):
    path = download / "images/0.png"
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--groups", path),
        path,
        "no table of images and their group",
    )


def test_case_with_two_groups_is_named(download):
    path = download / "g.csv"
    path.write_text("case,group\n0,a\n1,a\n2,b\n1,b\n")
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--groups", path),
        path,
        "two groups for '1'",
        "'a' and 'b'",
        "keep one",
    )


def test_glands_without_the_table_of_patients_are_refused(tmp_path):
    for part in ("train_1", "train_1_anno"):
        save(tmp_path / f"download/{part}.bmp", mask())
    text = refusal_in_one_sentence("glas", tmp_path / "download")
    assert_says(text, tmp_path / "download/train_1.bmp", "has no patient", "Grade.csv must lie with the images")


@pytest.mark.parametrize("text", ["", "name, grade\ntrain_1, 1\n", "name, patient ID\ntrain_1\n"])
def test_broken_table_of_patients_is_named(tmp_path, text):
    for part in ("train_1", "train_1_anno"):
        save(tmp_path / f"download/{part}.bmp", mask())
    table = tmp_path / "download/Grade.csv"
    table.write_text(text)
    assert_says(refusal_text("glas", table.parent), table, "'name' and 'patient ID'", "download it again")


def test_test_set_alone_is_refused(tmp_path):
    for part in ("testA_1", "testA_1_anno"):
        save(tmp_path / f"download/{part}.bmp", mask())
    (tmp_path / "download/Grade.csv").write_text("name, patient ID\ntestA_1, 1\n")
    assert_says(
        refusal_in_one_sentence("glas", tmp_path / "download"), "test set", "no training case", "complete the download"
    )


def test_published_split_without_any_of_its_cases_is_refused(tmp_path):
    for part in ("", "_gt"):
        path = tmp_path / f"download/testing/patient101/patient101_frame01{part}.nii.gz"
        save_volume(path, mask_volume())
    text = refusal_in_one_sentence("acdc", tmp_path / "download", "--paper-split")
    assert_says(text, tmp_path / "download", "no case of the published acdc split", "leave out --paper-split")


def test_case_without_group_is_named(download):
    path = download / "g.csv"
    path.write_text("case,group\n0,a\n2,b\n")
    assert_says(
        refusal_in_one_sentence(*with_source(PNGS, download), "--groups", path), "no row for 1 image, such as 1: add"
    )
