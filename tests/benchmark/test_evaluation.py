"""Any two folders are measured as the benchmark measures, and what does not fit is named in one sentence."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from support.dying_reader import DyingReader
from support.refusals import truncate

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER, score
from nnunet_plugins.benchmark.pool import Task, measured
from nnunet_plugins.cli import main
from nnunet_plugins.errors import UserError

CELL, NUCLEUS, IGNORED = 1, 2, 3


def square(label: int, first: int = 4, size: int = 8, shape: tuple[int, ...] = (24, 32)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(first, first + size) for _ in shape)] = label
    return array


def write_png(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def write_volume(path: Path, array: np.ndarray, spacing=(0.5, 1.0, 2.0), origin=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


MASKS = {
    "a": (square(CELL), square(CELL, 6)),
    "b": (square(CELL) + square(NUCLEUS, 14, 6), square(CELL, 5)),
    "c": (np.zeros((24, 32), np.uint8), square(NUCLEUS)),
    "d": (np.zeros((24, 32), np.uint8), np.zeros((24, 32), np.uint8)),
}
"""Reference and prediction of each case."""


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Predictions and references of four images with two labels."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for folder in (predictions, references):
        folder.mkdir()
    for case, (reference, prediction) in MASKS.items():
        write_png(references / f"{case}.png", reference)
        write_png(predictions / f"{case}.png", prediction)
    return predictions, references


def evaluated(folders: tuple[Path, Path], *options: object) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of the file that the command writes, by case and label."""
    output = folders[0].parent / "metrics.csv"
    main(["evaluate", *map(str, folders), "-o", str(output), *map(str, options)])
    with output.open(newline="") as file:
        return {(row.pop("case"), row.pop("label")): row for row in csv.DictReader(file)}


def refusal(folders: tuple[Path, Path], *options: object) -> str:
    """Sentence with which the command refuses to measure, after which no file was written."""
    before = sorted(folders[0].parent.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        evaluated(folders, *options)
    assert sorted(folders[0].parent.rglob("*")) == before
    sentence = stopped.value.code
    assert isinstance(sentence, str) and "\n" not in sentence
    return sentence


def write_description(folder: Path, labels: dict[str, object], **others: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": labels, **others}))
    return path


def test_every_case_and_label_has_the_scores_of_the_benchmark(folders):
    rows = evaluated(folders)
    assert list(rows) == [(case, label) for case in MASKS for label in ("1", "2")]
    for (case, label), row in rows.items():
        reference, prediction = (array == int(label) for array in MASKS[case])
        expected = score(reference, prediction, (1.0, 1.0), 1.0)
        assert row.pop("outcome") == expected.outcome
        assert list(row) == list(HIGHER_IS_BETTER)
        for metric, text in row.items():
            value = getattr(expected, metric)
            assert text == ("" if value is None else repr(value)), metric
    assert [rows[key]["Dice"] for key in (("c", "1"), ("c", "2"), ("b", "2"), ("d", "1"))] == ["", "0.0", "0.0", ""]
    assert float(rows["c", "2"]["HD95"]) == float(rows["b", "2"]["ASSD"]) == math.hypot(24, 32)


def test_the_table_has_the_means_and_what_was_missed_and_hallucinated(folders, capsys):
    evaluated(folders)
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[1].splitlines()]
    assert rows[0][:2] == ["LABEL", "CASES"] and rows[0][-8:] == list(HIGHER_IS_BETTER)
    dice = [[2 * 36 / 128, 2 * 49 / 128], [0.0, 0.0]]
    assert [row[:6] for row in rows[1:3]] == [
        ["1", "4", "2", "0", "0", f"{np.mean(dice[0]):.4f}"],
        ["2", "4", "2", "1", "1", f"{np.mean(dice[1]):.4f}"],
    ]
    means_of_cases = [dice[0][0], np.mean([dice[0][1], 0.0]), 0.0]
    assert rows[3][:3] == ["mean", "4", f"{np.mean(means_of_cases):.4f}"]


def test_several_processes_measure_the_same(folders):
    assert evaluated(folders, "-np", 2) == evaluated(folders, "-np", 1)


def test_cases_are_printed_on_request(folders, capsys, monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_TRACEBACK", "")
    main(["evaluate", "-v", *map(str, folders)])
    output = capsys.readouterr().out
    assert [line.split()[:3] for line in output.splitlines() if line.startswith("c  ")] == [
        ["c", "1", "both"],
        ["c", "2", "hallucinated"],
    ]
    assert "metrics.csv" not in output


def test_progress_goes_to_stderr_and_can_be_switched_off(folders):
    command = [sys.executable, "-m", "nnunet_plugins", "evaluate", *map(str, folders)]
    loud, quiet = (subprocess.run([*command, *q], capture_output=True, text=True) for q in ([], ["-q"]))
    assert "Cases: " in loud.stderr and (quiet.returncode, quiet.stderr) == (0, "")
    assert loud.stdout == quiet.stdout


def test_volumes_are_measured_in_millimetres_by_nnunets_readers(folders):
    reference, prediction = square(1, shape=(16, 16, 16)), square(1, 5, shape=(16, 16, 16))
    for folder, array in zip(folders, (prediction, reference), strict=True):
        for file in folder.iterdir():
            file.unlink()
        write_volume(folder / "v.nii.gz", array)
    (row,) = evaluated(folders, "--tolerance", 1.5).values()
    expected = score(reference == 1, prediction == 1, (2.0, 1.0, 0.5), 1.5)
    assert row == {metric: str(value) for metric, value in expected._asdict().items()}


def test_labels_have_the_names_of_the_dataset_json_among_the_predictions(folders, capsys):
    path = write_description(folders[0], {"background": 0, "cell": 1, "nucleus": 2, "other": 3})
    rows = evaluated(folders)
    assert [label for _, label in rows][:3] == ["cell", "nucleus", "other"]
    assert rows["d", "other"]["outcome"] == "both empty"
    assert f"labels of {path}" in capsys.readouterr().out


def test_regions_are_measured_without_what_is_ignored(folders):
    labels = {"background": 0, "whole": [1, 2], "nucleus": 2, "ignore": 3}
    path = write_description(folders[0].parent, labels, regions_class_order=[1, 2], file_ending=".png")
    reference = MASKS["b"][0].copy()
    reference[:6] = IGNORED
    write_png(folders[1] / "b.png", reference)
    rows = evaluated(folders, "-djfile", path)
    assert {label for _, label in rows} == {"whole", "nucleus"}
    kept = (MASKS["b"][1] > 0) & (reference != IGNORED)
    expected = score((reference > 0) & (reference != IGNORED), kept, (1.0, 1.0), 1.0)
    assert rows["b", "whole"] == {name: str(value) for name, value in expected._asdict().items()}


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_files_without_partner_are_named_or_left_out(folders, capsys):
    predictions, references = folders
    (predictions / "a.png").unlink()
    for number in range(7):
        write_png(predictions / f"extra{number}.png", MASKS["a"][1])
    extra = ", ".join(f"extra{number}.png" for number in range(5))
    sentence = f"{predictions} has no a.png and {references} has no {extra} and 2 more"
    assert refusal(folders) == f"{sentence}: add what is missing, or leave these cases out with --chill"
    assert {case for case, _ in evaluated(folders, "--chill")} == {"b", "c", "d"}
    left_out = f"Left out: {predictions} has no a.png.\nLeft out: {references} has no {extra} and 2 more.\n"
    assert capsys.readouterr().err.startswith(left_out)


def test_folders_that_share_no_file_are_refused_even_if_files_may_be_left_out(folders):
    for file in folders[0].iterdir():
        file.rename(file.with_suffix(".tif"))
    assert refusal(folders, "--chill").startswith(f"{folders[0]} and {folders[1]} share no file *.png: ")


def test_a_folder_without_segmentations_and_none_at_all_are_told(folders):
    predictions, references = folders
    nowhere = predictions.parent / "nowhere"
    assert refusal((nowhere, references)).startswith(f"{nowhere} is no folder: ")
    (empty := predictions.parent / "empty").mkdir()
    assert refusal((predictions, empty)).startswith(f"{empty} has no segmentations: expected files that end with .nii")


def test_another_size_is_told_with_all_files_that_have_one(folders):
    for case in "bd":
        write_png(folders[0] / f"{case}.png", np.zeros((12, 32), np.uint8))
    sentence = refusal(folders)
    assert f"{folders[0] / 'b.png'} has the size 1 x 12 x 32, {folders[1] / 'b.png'} 1 x 24 x 32: " in sentence
    assert sentence.endswith(" (and 1 more: d)")


@pytest.mark.parametrize(
    ("other", "aspect"), [({"spacing": (1.0, 1.0, 2.0)}, "spacing"), ({"origin": (0.0, 0.0, 30.0)}, "origin")]
)
def test_another_place_in_space_is_told(tmp_path, other, aspect):
    folders = tmp_path / "predictions", tmp_path / "references"
    for folder, geometry in zip(folders, (other, {}), strict=True):
        folder.mkdir()
        write_volume(folder / "v.nii.gz", square(1, shape=(16, 16, 16)), **geometry)
    assert f"v.nii.gz has the {aspect} " in refusal(folders)


def test_pictures_and_photographs_are_no_label_maps(folders):
    write_png(folders[1] / "b.png", np.dstack([MASKS["b"][0]] * 3))
    assert "b.png has 3 channels: expected one" in refusal(folders)
    write_png(folders[1] / "b.png", np.arange(24 * 32, dtype=np.uint16).reshape(24, 32))
    assert "b.png has 768 different values, e.g. 767: expected numbers of labels" in refusal(folders)


def test_damaged_files_are_named(folders):
    truncate(folders[0] / "c.png")
    assert refusal(folders).startswith(f"{folders[0] / 'c.png'} cannot be read (")
    (folders[1] / "a.png").write_text("no picture")
    assert refusal(folders).startswith(f"{folders[1] / 'a.png'} cannot be read")


def test_the_same_things_need_the_same_numbers(folders):
    for file in folders[1].iterdir():
        write_png(file, np.uint8(255) * (np.asarray(Image.open(file)) > 0))
    assert refusal(folders).startswith("References have the labels 255, predictions 1, 2: give both the same numbers")
    path = write_description(folders[0], {"background": 0, "cell": 1, "nucleus": 2})
    assert "a.png has 255, and the labels of dataset.json are 0, 1, 2: " in refusal(folders, "-djfile", path)


def test_nothing_but_background_has_no_metrics(folders):
    for folder in folders:
        for file in folder.iterdir():
            write_png(file, np.zeros((8, 8), np.uint8))
    assert refusal(folders).startswith("All files are empty: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "has no labels"),
        ('{"labels": {}}', "has no labels"),
        (
            '{"labels": {"0": "background", "1": "cell"}}',
            "has the label '0': 'background': expected names with numbers",
        ),
        ('{"labels": {"background": 0, "cell": []}}', "has the label 'cell': []"),
        ('{"labels": {"background": 0, "cell": [1, 2]}}', "has regions but no regions_class_order"),
    ],
)
def test_a_dataset_json_without_usable_labels_is_told(folders, text, sentence):
    path = folders[0].parent / "dataset.json"
    path.write_text(text)
    assert refusal(folders, "-djfile", path).startswith(f"{path} {sentence}")


def test_a_killed_process_is_told():
    tasks = [Task(case, Path(case), Path(case), DyingReader(), None, None, 1.0) for case in "abc"]
    cases = measured(tasks, 2)
    assert next(cases).scores["1"].Dice == 1.0
    with pytest.raises(UserError, match="One of 2 processes was killed, most likely for want of memory: take fewer"):
        list(cases)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--tolerance", "-1"), "--tolerance -1.0: expected a distance"),
        (("--tolerance", "nan"), "--tolerance nan: expected a distance"),
        (("-np", "0"), "-np 0: expected a number of processes from 1"),
        (("-o", "metrics.xlsx"), "-o metrics.xlsx: expected the name of a file that ends with .csv"),
        (("-djfile", "nowhere.json"), "nowhere.json cannot be read"),
    ],
)
def test_options_that_cannot_be_are_told(folders, options, sentence):
    assert refusal(folders, *options).startswith(sentence)
