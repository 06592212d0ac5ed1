"""Proves: polygons of labelme and COCO become the pixels whose centres lie in them, with their classes' names."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib.path
import numpy as np
import pytest
from PIL import Image
from support.files import save
from support.refusals import (
    PNGS,
    SIZE,
    assert_says,
    convert,
    picture,
    raw_dataset,
    refusal_in_one_sentence,
    refusal_text,
    with_source,
)

from nnunet_plugins.files import read_json

pytestmark = pytest.mark.usefixtures("nnunet_folders")
HEIGHT, WIDTH = SIZE
CASES = range(3)
LABELME = [option.replace("masks/*.png", "images/*.json") for option in PNGS]
COCO = [option.replace("masks/*.png", "annotations.json") for option in PNGS]


def outline(seed: int) -> np.ndarray:
    """Points (x, y) around a place in the image, which may lie outside of it in parts."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(3, 9, 9)
    return np.stack([12.3 + radii * np.cos(angles), 9.1 + radii * np.sin(angles)], 1)


def inside(points: np.ndarray) -> np.ndarray:
    """Ask matplotlib which pixels' centres lie in a polygon."""
    rows, columns = np.indices(SIZE) + 0.5
    return matplotlib.path.Path(points).contains_points(np.stack([columns.ravel(), rows.ravel()], 1)).reshape(SIZE)


def shape(label: str, points: np.ndarray, kind: str = "polygon", **further: Any) -> dict[str, Any]:
    return {"label": label, "points": np.asarray(points).tolist(), "shape_type": kind, **further}


def save_labelme(path: Path, *shapes: dict[str, Any], size: tuple[int, int] = SIZE) -> Path:
    content = {"shapes": shapes, "imagePath": f"{path.stem}.png", "imageHeight": size[0], "imageWidth": size[1]}
    path.write_text(json.dumps(content))
    return path


def save_coco(path: Path, segmentations: dict[str, list[tuple[int, Any]]], **further: Any) -> Path:
    """Write the category and the segmentation of each object in each image."""
    content = {
        "images": [
            {"id": 40 + i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(segmentations)
        ],
        "categories": [{"id": 5, "name": "polyp"}, {"id": 9, "name": "instrument"}],
        "annotations": [
            {"image_id": 40 + i, "category_id": category, "segmentation": segmentation}
            for i, objects in enumerate(segmentations.values())
            for category, segmentation in objects
        ],
    }
    path.write_text(json.dumps(content | further))
    return path


def written(case: str) -> np.ndarray:
    return np.asarray(Image.open(raw_dataset() / f"labelsTr/{case}.png"))


def test_polygons_of_labelme_arrive_by_name(download):
    for index in CASES:
        save_labelme(
            download / f"images/{index}.json",
            shape("polyp", outline(index)),
            shape("instrument", outline(index + 9) / 2),
        )
    convert(*with_source(LABELME, download))
    assert read_json(raw_dataset() / "dataset.json")["labels"] == {"background": 0, "instrument": 1, "polyp": 2}
    for index in CASES:
        expected = np.where(inside(outline(index + 9) / 2), 1, np.where(inside(outline(index)), 2, 0))
        assert np.array_equal(written(str(index)), expected)


def test_other_shapes_background_and_ignored_areas_of_labelme_arrive(download):
    data = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    for index in CASES:
        save_labelme(
            download / f"images/{index}.json",
            shape("polyp", np.array([(20.2, 17.6), (3.1, 2.4)]), "rectangle"),
            shape("_background_", np.array([(12.1, 9.2), (15.3, 9.2)]), "circle"),
            shape("__ignore__", np.array([(5, 4), (8, 6)]), "mask", mask=text),
        )
    convert(*with_source(LABELME, download))
    assert read_json(raw_dataset() / "dataset.json")["labels"] == {"background": 0, "polyp": 1, "ignore": 2}
    rows, columns = np.indices(SIZE) + 0.5
    expected = ((rows > 2.4) & (rows < 17.6) & (columns > 3.1) & (columns < 20.2)).astype(int)
    expected[np.hypot(columns - 12.1, rows - 9.2) <= 3.2] = 0
    expected[4:7, 5:9] = 2
    assert np.array_equal(written("0"), expected)


def test_coco_arrives_with_parts_run_lengths_and_empty_images(download):
    parts = [outline(1).ravel().tolist(), (outline(2) / 3).ravel().tolist()]
    counts = [0 * HEIGHT + 5, 10, *[10, 10] * 3, SIZE[0] * SIZE[1] - 75]
    save_coco(
        download / "annotations.json",
        {"old/0.png": [(5, parts)], "old/1.png": [(9, {"counts": counts, "size": SIZE})], "old/2.png": []},
    )
    convert(*with_source(COCO, download))
    assert read_json(raw_dataset() / "dataset.json")["labels"] == {"background": 0, "instrument": 1, "polyp": 2}
    assert np.array_equal(written("0"), 2 * (inside(outline(1)) | inside(outline(2) / 3)))
    columns = np.zeros(SIZE, int)
    columns[5:15, :4] = 1
    assert np.array_equal(written("1"), columns) and not written("2").any()
    convert(*with_source(COCO, download))  # recognised as the same


@pytest.mark.parametrize(("meaning", "cases"), [("background", {"0", "1", "2"}), ("skip", {"0", "1"})])
def test_images_that_coco_does_not_list_are_background_or_left_out(download, capsys, meaning, cases):
    square = [[2, 2, 9, 2, 9, 9]]
    save_coco(download / "annotations.json", {"0.png": [(5, square)], "1.png": [(9, square)]})
    convert(*with_source(COCO, download), "--missing-masks", meaning)
    assert {path.stem for path in (raw_dataset() / "labelsTr").iterdir()} == cases
    assert "1 image without a mask" in capsys.readouterr().out
    assert meaning == "skip" or not written("2").any()


def test_coco_that_would_lose_objects_is_refused(download):
    square = [[2, 2, 9, 2, 9, 9]]
    save_coco(download / "annotations.json", {"0.png": [(5, square)], "1.png": [(9, [])], "2.png": []})
    assert_says(refusal_text(*with_source(COCO, download)), "'instrument'", "a box alone", "outline it")
    content = read_json(save_coco(download / "annotations.json", {f"{i}.png": [(5, square)] for i in CASES}))
    content["images"].append(content["images"][0] | {"id": 77})
    (download / "annotations.json").write_text(json.dumps(content))
    assert_says(refusal_text(*with_source(COCO, download)), "lists 0.png twice")


@pytest.mark.parametrize("further", [("images", "others/*.png"), ("masks", "more.json")])
def test_coco_beside_other_channels_or_files_is_refused(download, further):
    option, pattern = further
    save_coco(download / "annotations.json", {f"{i}.png": [(5, [[1, 1, 9, 1, 9, 9]])] for i in CASES})
    arguments = list(with_source(COCO, download))
    arguments.insert(arguments.index(f"--{option}") + 2, pattern)
    assert_says(refusal_in_one_sentence(*arguments, "--channels", "a", "b"), "annotations.json", "unite annotations")


def test_images_and_entries_of_coco_without_each_other_are_refused(download):
    save_coco(download / "annotations.json", {"0.png": [], "1.png": [(5, [[1, 1, 9, 1, 9, 9]])], "gone.png": []})
    text = refusal_text(*with_source(COCO, download))
    assert_says(
        text, f"{download / 'images/2.png'} is not among the images", "lists gone.png, which no file of", "2 problems"
    )


def test_files_of_one_name_in_several_folders_are_told_apart_and_a_folder_is_a_group(tmp_path):
    names = [f"{folder}/{number}.png" for folder in "ab" for number in (1, 2)]
    for index, name in enumerate(names):
        save(tmp_path / f"download/{name}", picture(index))
    triangle = [[2.0, 2.0, 18.0, 2.0, 2.0, 15.0]]
    save_coco(tmp_path / "download/annotations.json", {name: [(5, triangle)] * (name == names[0]) for name in names})
    options = [option.replace("images/*.png", "*/*.png") for option in COCO]
    convert(*with_source(options, tmp_path / "download"))
    assert written("a_1").any() and not any(written(case).any() for case in ("a_2", "b_1", "b_2"))
    folds = read_json(raw_dataset() / "splits_final.json")
    assert sorted(fold["val"] for fold in folds) == [["a_1", "a_2"], ["b_1", "b_2"]]


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ([shape("polyp", outline(0), "linestrip")], "has an object 'polyp' that cannot be drawn (a linestrip encloses"),
        ([shape("polyp", outline(0)[:2])], "has an object 'polyp' that cannot be drawn (2 points enclose nothing)"),
        ([shape("a", outline(0)), shape("b", outline(0))], "has 'a' only below objects of other classes"),
    ],
)
def test_objects_that_would_be_lost_are_refused(download, shapes, sentence):
    for index in CASES:
        save_labelme(download / f"images/{index}.json", *(shapes if index == 1 else [shape("polyp", outline(0))]))
    assert_says(refusal_in_one_sentence(*with_source(LABELME, download)), download / "images/1.json", sentence)


def test_annotations_for_another_size_are_refused(download):
    for index in CASES:
        save_labelme(download / f"images/{index}.json", shape("polyp", outline(0)), size=SIZE if index else (40, 48))
    text = refusal_in_one_sentence(*with_source(LABELME, download))
    assert_says(text, f"{download / 'images/0.json'} is for an image of 48x40 pixels, but its image has 24x20")


def test_compressed_run_lengths_are_refused(download):
    objects = [(5, {"counts": "abc", "size": SIZE})]
    save_coco(download / "annotations.json", {f"{index}.png": objects if index == 0 else [] for index in CASES})
    assert_says(refusal_in_one_sentence(*with_source(COCO, download)), "compressed run lengths", "pycocotools")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"shapes": [{}], "imageHeight": 20, "imageWidth": 24}'])
def test_other_json_is_refused(download, content):
    (download / "annotations.json").write_text(content)
    assert_says(refusal_in_one_sentence(*with_source(COCO, download)), download / "annotations.json")


def test_names_need_no_label_map(download):
    save_coco(download / "annotations.json", {f"{index}.png": [] for index in CASES})
    text = refusal_in_one_sentence(*with_source(COCO, download), "--threshold", "3")
    assert_says(text, "names its classes itself: leave out --label-map and --threshold")


def test_annotations_without_objects_are_refused(download):
    save_coco(download / "annotations.json", {f"{index}.png": [] for index in CASES})
    text = refusal_in_one_sentence(*with_source(COCO, download))
    assert_says(text, download / "annotations.json", "objects of 0 classes are annotated")
