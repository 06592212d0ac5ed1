"""Proves: test sets, images without masks, folds of one's own and new images are converted as told."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.files import save
from support.refusals import (
    PNGS,
    SIZE,
    assert_says,
    convert,
    everything_below,
    mask,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")
FOLD = {"train": [0, 1], "val": [2, 3]}
TEST = ("--test-images", "test/*.jpg")
TEST_MASKS = ("--test-masks", "test_masks/*.png")
LABELS = ("--label-map", "0=background", "128=cell", "255=tool")


@pytest.fixture
def download(tmp_path) -> Path:
    """Six images with masks, and two JPEGs for testing of which one has the name of a training image."""
    for index in range(6):
        save(tmp_path / f"download/images/{index}.png", picture(index))
        save(tmp_path / f"download/masks/{index}.png", np.roll(mask(), index, axis=0))
    for name in ("0", "x"):
        save(tmp_path / f"download/test/{name}.jpg", picture(7))
        save(tmp_path / f"download/test_masks/{name}.png", np.roll(mask(), 3, axis=1))
    return tmp_path / "download"


def files_of(part: str) -> list[str]:
    return sorted(path.name for path in (raw_dataset() / part).glob("*"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def folds() -> list[dict[str, list[str]]]:
    return json.loads((raw_dataset() / "splits_final.json").read_text())


# ---- test sets -------------------------------------------------------------------------------------------------------


def test_test_set_with_masks(download):
    convert(*with_source(PNGS, download), *TEST, *TEST_MASKS)
    assert files_of("imagesTs") == ["test_0_0000.png", "test_x_0000.png"]
    assert files_of("labelsTs") == ["test_0.png", "test_x.png"]
    np.testing.assert_array_equal(pixels(raw_dataset() / "labelsTs/test_x.png"), np.roll(mask(1), 3, axis=1))
    np.testing.assert_array_equal(pixels(raw_dataset() / "imagesTs/test_x_0000.png"), pixels(download / "test/x.jpg"))
    assert sorted(case for fold in folds() for case in fold["val"]) == list("012345")
    assert json.loads((raw_dataset() / "dataset.json").read_text())["numTraining"] == 6


def test_test_images_that_are_not_there_are_named(download):
    text = refusal_in_one_sentence(*with_source(PNGS, download), "--test-images", "new/*.jpg")
    assert_says(text, "No file in", "matches 'new/*.jpg'")


def test_training_images_are_no_test_set(download):
    text = refusal_text(*with_source(PNGS, download), "--test-images", "images/*.png")
    assert_says(text, "0.png is found by --images and by --test-images: a test set has images of its own")


def test_test_images_need_no_masks(download, capsys):
    (download / "test/0.jpg").unlink()
    convert(*with_source(PNGS, download), *TEST)
    assert files_of("imagesTs") == ["x_0000.png"] and not (raw_dataset() / "labelsTs").exists()
    assert "No foreground" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [("a=test_masks/*.png", ["--masks and --test-masks", "different classes"]), ("x.png", ["'x.png'", "no wildcard"])],
)
def test_test_masks_of_another_kind_are_refused(download, pattern, parts):
    text = refusal_in_one_sentence(*with_source(PNGS, download), *TEST, "--test-masks", pattern)
    assert_says(text, *parts)


# ---- images without a mask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("meaning", "number"), [("background", 6), ("skip", 4)])
def test_images_without_a_mask_are_background_or_left_out_and_counted(download, capsys, meaning, number):
    for index in (1, 4):
        (download / f"masks/{index}.png").unlink()
    assert_says(refusal_text(*with_source(PNGS, download)), "images/1.png has no mask", "--missing-masks")
    convert(*with_source(PNGS, download), "--missing-masks", meaning)
    done = "all background" if meaning == "background" else "left out"
    assert_says(capsys.readouterr().out, f"2 images without a mask, {done}, such as images/1.png and images/4.png")
    assert len(files_of("labelsTr")) == len(files_of("imagesTr")) == number
    if meaning == "background":
        labels = pixels(raw_dataset() / "labelsTr/4.png")
        assert labels.shape == SIZE and not labels.any()


# ---- folds of one's own ----------------------------------------------------------------------------------------------


def test_folds_of_nnunets_file_are_kept(download):
    own = [{"train": ["0", "1.png"], "val": ["images/2.png"]}, {"train": ["2", "3"], "val": ["0", "5"]}]
    (download / "own.json").write_text(json.dumps(own))
    convert(*with_source(PNGS, download), "--splits", download / "own.json")
    assert folds() == [{"train": ["0", "1"], "val": ["2"]}, {"train": ["2", "3"], "val": ["0", "5"]}]


def test_table_of_parts_makes_a_fold_and_a_test_set(download):
    (download / "own.csv").write_text("image;part\n0;train\n1;Train\n2;validation\n3;test\n4.png;train\n5;val\n")
    convert(*with_source(PNGS, download), "--splits", download / "own.csv")
    assert folds() == [{"train": ["0", "1", "4"], "val": ["2", "5"]}]
    assert files_of("imagesTs") == ["3_0000.png"] and files_of("labelsTs") == ["3.png"]


def test_table_without_validation_leaves_the_folds_to_us(download):
    (download / "own.csv").write_text("image,part\n0,train\n1,train\n2,train\n3,test\n4,train\n5,train\n")
    convert(*with_source(PNGS, download), "--splits", download / "own.csv")
    assert len(folds()) == 5 and {case for fold in folds() for case in fold["val"]} == set("01245")


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.json", "{}", ["has no folds", '"train"']),
        ("a.json", '[{"train": ["0"]}]', ["has no folds"]),
        ("a.json", '[{"train": ["0"], "val": ["0.png"]}]', ["'0' in training and validation of fold 0"]),
        ("a.json", '[{"train": ["0"], "val": []}]', ["empty training or validation set in fold 0"]),
        ("a.json", '[{"train": ["0", "1"], "val": ["9"]}]', ["names 1 image that are not there: 9"]),
        ("a.json", '[{"train": ["0", "1"], "val": ["2", "9"]}]', ["names 1 image that are not there: 9"]),
        ("a.csv", "0,train\n1,train\n2,val\n3,test\n4,dev\n5,train\n", ["part 'dev'", "train, val or test"]),
        ("a.csv", "0,train\n1,val\n", ["no row for 4 images"]),
    ],
)
def test_folds_that_are_none_are_refused(download, name, text, parts):
    (download / name).write_text(text)
    assert_says(refusal_in_one_sentence(*with_source(PNGS, download), "--splits", download / name), name, *parts)


@pytest.mark.parametrize("names", ["exact", "nnU-Net's"])
def test_folds_may_have_the_names_of_cases_that_other_names_share(download, names):
    """A case's own name is also the file name of a test image, and nnU-Net's name of a case is no file name."""
    for index in range(6):
        for folder in ("images", "masks"):
            (download / folder / f"{index}.png").rename(download / folder / f"{index}{' x' * (names != 'exact')}.png")
    own = [{part: [f"{i}{'_x' * (names != 'exact')}" for i in part_cases] for part, part_cases in FOLD.items()}]
    (download / "own.json").write_text(json.dumps(own))
    convert(*with_source(PNGS, download), *TEST, *TEST_MASKS, "--splits", download / "own.json")
    assert folds() == own


def test_folds_with_test_images_or_without_any_left_are_refused(download):
    (download / "own.json").write_text(json.dumps([{"train": ["0", "1"], "val": ["2", "x"]}]))
    splits = ("--splits", download / "own.json")
    text = refusal_in_one_sentence(*with_source(PNGS, download), *TEST, *TEST_MASKS, *splits)
    assert_says(text, "'test_x' in fold 0", "--test-images", "a test image is in no fold")
    save(download / "masks/2.png", np.full(SIZE, 255, np.uint8))
    (download / "own.json").write_text(json.dumps([{"train": ["0", "1"], "val": ["2"]}]))
    text = refusal_in_one_sentence(*with_source(PNGS, download), *splits, "--max-foreground-fraction", "0.5")
    assert_says(text, "fold 0", "too much foreground alone")


# ---- new images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    """New photos without masks, and masks of them in a folder beside."""
    for index in range(2):
        save(tmp_path / f"photos/IMG {index}.jpg", picture(index))
        save(tmp_path / f"masks/IMG {index}.png", np.where(mask() > 0, 128, 0).astype(np.uint8))
    return tmp_path / "photos"


def new_images(photos: Path, *options: object) -> tuple[object, ...]:
    return ("folder", photos, "-d", 7, "--test-images", "*.jpg", "-o", photos.parent / "new", *options)


def test_grey_image_of_a_coloured_dataset_becomes_rgb_and_is_noted(download, photos, capsys):
    note = "1 grey image, such as {}, became RGB by repeating the channel"
    save(download / "images/1.png", picture(1)[..., 0])
    convert(*with_source(PNGS, download))
    assert note.format("1") in capsys.readouterr().out
    save(photos / "IMG 0.jpg", picture(0)[..., 0])
    convert(*new_images(photos))
    assert note.format("IMG_0") in capsys.readouterr().out
    assert pixels(photos.parent / "new/imagesTs/IMG_0_0000.png").shape == (20, 24, 3)


def test_new_images_are_converted_as_the_dataset_was(download, photos, capsys):
    convert(*with_source(PNGS, download), "--resize", "16", "16")
    convert(*new_images(photos))
    out = photos.parent / "new"
    assert sorted(path.name for path in out.rglob("*.png")) == ["IMG_0_0000.png", "IMG_1_0000.png"]
    assert pixels(out / "imagesTs/IMG_1_0000.png").shape == (16, 16, 3)
    assert not (out / "labelsTs").exists()
    assert_says(
        capsys.readouterr().out,
        "resized to 16 x 16",
        f"nnUNetv2_predict -d 7 -c 2d -tr TRAINER -f FOLDS -i {out}/imagesTs",
    )


def test_command_that_predicts_has_the_model_that_was_trained_last_and_its_folds(download, photos, capsys):
    convert(*with_source(PNGS, download))
    results = Path(os.environ["nnUNet_results"]) / raw_dataset().name
    for place, (model, fold) in enumerate(
        [("A__p__2d", 0), ("B__p__2d", 3), ("B__p__2d", 1), ("B__p__2d", "0_old"), ("B__p__2d__old", 0)]
    ):
        checkpoint = results / model / f"fold_{fold}" / "checkpoint_final.pth"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint, (place, place))
    convert(*new_images(photos))
    assert "nnUNetv2_predict -d 7 -c 2d -tr B -p p -f 1 3 -i " in capsys.readouterr().out


def test_masks_of_new_images_get_the_labels_of_the_dataset(download, photos, capsys):
    for index in range(6):
        save(download / f"masks/{index}.png", np.where(mask() > 0, 128 + 127 * (index % 2), 0).astype(np.uint8))
    convert(*with_source(PNGS, download), *LABELS)
    (photos.parent / "masks").rename(photos / "masks")
    convert(*new_images(photos, "--test-masks", "masks/*.png"))
    np.testing.assert_array_equal(pixels(photos.parent / "new/labelsTs/IMG_0.png"), mask(1))
    assert_says(capsys.readouterr().out, "nnunet-plugins evaluate")


def test_new_images_fit_the_channels_of_the_dataset(download, photos):
    for index in range(6):
        save(download / f"images/{index}.png", picture(index)[..., 0])
    convert(*with_source(PNGS, download))
    text = refusal_text(*new_images(photos))
    assert_says(text, "IMG 0.jpg", "is coloured")


def test_arrays_become_pngs_as_the_dataset_has(download, photos):
    convert(*with_source(PNGS, download))
    np.save(photos / "a.npy", picture(3).astype(np.int64))
    convert("folder", photos, "-d", 7, "--test-images", "*.npy", "-o", photos.parent / "new")
    for channel in range(3):
        written = pixels(photos.parent / f"new/imagesTs/a_{channel:04}.png")
        np.testing.assert_array_equal(written, picture(3)[..., channel])


def test_new_images_are_refused_where_nothing_tells_how(download, photos):
    assert_says(refusal_text(*new_images(photos)), "There is no dataset 7")
    convert(*with_source(PNGS, download))
    assert_says(
        refusal_text(*new_images(photos, "--images", "*.jpg")), "--output is for new images", "--test-images '*.jpg'"
    )
    convert(*new_images(photos))
    assert_says(refusal_text(*new_images(photos)), "is there already", "--overwrite")
    convert(*new_images(photos), "--overwrite")
    assert not list(photos.parent.glob(".new*"))


def test_only_converted_images_are_overwritten(download, photos):
    convert(*with_source(PNGS, download))
    convert(*new_images(photos))
    (photos.parent / "new/predictions").mkdir()
    (photos.parent / "new/.DS_Store").touch()
    save(photos.parent / "challenge/imagesTs/1_0000.png", picture())
    for output, reason in (
        (photos.parent / "new", "holds predictions besides converted images"),
        (raw_dataset(), "labelsTr and more besides converted images"),
        (photos, "holds IMG 0.jpg and IMG 1.jpg besides"),
        (photos / "IMG 0.jpg", "is there already, and not from this converter"),
        (photos.parent / "challenge", "is there already, and not from this converter"),
    ):
        before = everything_below(photos.parent)
        text = refusal_text(*new_images(photos, "--overwrite")[:-2], output, "--overwrite")
        assert_says(text, output, reason, "give another --output")
        assert everything_below(photos.parent) == before
    source = photos.parent / "new"
    (source / "predictions").rmdir()
    convert(*new_images(photos, "--overwrite"))
    text = refusal_text("folder", source, "-d", 7, "--test-images", "imagesTs/*_0000.png", "-o", source, "--overwrite")
    assert_says(text, "which this conversion would replace")


def test_dry_run_of_new_images_writes_nothing(download, photos, capsys):
    convert(*with_source(PNGS, download))
    convert(*new_images(photos), "--dry-run")
    assert not (photos.parent / "new").exists() and "2 images" in capsys.readouterr().out
