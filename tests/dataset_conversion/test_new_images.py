"""Proves: new images for a trained dataset are converted by its labels, whatever kinds of files they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.files import save
from support.refusals import PNGS, SIZE, assert_says, convert, mask, picture, refusal_in_one_sentence, with_source

pytestmark = pytest.mark.usefixtures("nnunet_folders")
NEW = ("-d", 7, "--test-images", "images/*.png")


@pytest.fixture
def new(tmp_path) -> Path:
    """A new photo, and a folder for the converted ones."""
    save(tmp_path / "new photos/images/a.png", picture(5))
    return tmp_path / "new photos"


def annotate(folder: Path, *names: str) -> None:
    """Write labelme's file for each image, with a rectangle for each name."""
    for path in folder.glob("images/*.png"):
        shapes = [
            {"label": name, "points": [[2 + 6 * place, 3], [6 + 6 * place, 9]], "shape_type": "rectangle"}
            for place, name in enumerate(names)
        ]
        content = {"shapes": shapes, "imagePath": path.name, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        path.with_suffix(".json").write_text(json.dumps(content))


def labels_of(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "labelsTs/a.png"))


def test_photos_for_a_dataset_whose_stacks_were_images(tmp_path, new):
    for index in range(3):
        stack = np.random.default_rng(index).integers(0, 255, (2, *SIZE), np.uint8)
        for name, array in (("images", stack), ("masks", np.stack([mask()] * 2))):
            path = tmp_path / f"download/{name}/{index}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, photometric="minisblack")
    tiffs = [option.replace(".png", ".tif") for option in PNGS]
    convert(*with_source(tiffs, tmp_path / "download"), "--pages", "images")
    save(new / "images/a.png", picture(5)[..., 0])
    convert("folder", new, *NEW, "-o", tmp_path / "out")
    np.testing.assert_array_equal(Image.open(tmp_path / "out/imagesTs/a_0000.png"), picture(5)[..., 0])


def test_annotations_get_the_datasets_labels_even_if_some_do_not_occur(download, new, tmp_path):
    annotate(download, "tumour", "liver")
    convert(*with_source([option.replace("masks/*.png", "images/*.json") for option in PNGS], download))
    annotate(new, "tumour")
    masks = ("--test-masks", "images/*.json")
    convert("folder", new, *NEW, *masks, "-o", tmp_path / "out")
    assert set(np.unique(labels_of(tmp_path / "out"))) == {0, 2}
    annotate(new, "instrument")
    text = refusal_in_one_sentence("folder", new, *NEW, *masks, "-o", tmp_path / "other")
    assert_says(text, "'instrument' is none of the dataset's labels, which are background, liver, tumour")


def test_annotations_of_one_class_are_the_foreground_of_a_dataset_without_a_name_for_it(download, new, tmp_path):
    convert(*with_source(PNGS, download))
    annotate(new, "polyp")
    convert("folder", new, *NEW, "--test-masks", "images/*.json", "-o", tmp_path / "out")
    assert set(np.unique(labels_of(tmp_path / "out"))) == {0, 1}


@pytest.mark.parametrize(("options", "value"), [(("masks/*.png", "--threshold", "9"), 255), (("cell=masks/*.png",), 1)])
def test_masks_of_another_form_than_the_datasets_are_taken_as_told(download, new, tmp_path, options, value):
    convert(*with_source(PNGS, download), "--label-map", "0=background", "255=cell")
    save(new / "masks/a.png", np.where(mask() > 0, value, 0).astype(np.uint8))
    convert("folder", new, *NEW, "--test-masks", *options, "-o", tmp_path / "out")
    np.testing.assert_array_equal(labels_of(tmp_path / "out"), mask(1))


def test_commands_to_type_next_are_quoted_and_folders_that_cannot_be_are_told(download, new, tmp_path, capsys):
    convert(*with_source(PNGS, download))
    convert("folder", new, *NEW, "-o", tmp_path / "my out")
    assert f"-i '{tmp_path}/my out/imagesTs' -o '{tmp_path}/my out/predictions'" in capsys.readouterr().out
    (tmp_path / "file").touch()
    for place in ("file/out", "file/below/out"):
        text = refusal_in_one_sentence("folder", new, *NEW, "-o", tmp_path / place)
        assert_says(text, tmp_path / "file", "cannot be made", "give another --output")
