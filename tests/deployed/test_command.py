"""Proves: ``predict-exported`` tells in a sentence what it cannot segment, segments the rest, and exits with 1."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import io
from support.deployed import described, trained_model

from nnunet_plugins.cli import main
from nnunet_plugins.deployed import command
from nnunet_plugins.deployed.images import FORMATS
from nnunet_plugins.deployed.preprocessing import prepare
from nnunet_plugins.export.formats import write_network
from nnunet_plugins.files import digest


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of pictures in grey, whose network finds bright pixels."""
    folder = tmp_path_factory.mktemp("model")
    network = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight[:, 0, 0, 0], network.bias[:] = torch.tensor([0.0, 1.0]), torch.tensor([0.0, -100.0])
    write_network("onnx", network.eval(), (1, 8, 8), folder / "fold_0.onnx")
    model = described(trained_model({"background": 0, "cell": 1}, (0, 1), patch_size=[8, 8], spacing=[1.0, 1.0]))
    replace(
        model,
        networks=[{"fold": "0", "file": "fold_0.onnx", "sha256": digest(folder / "fold_0.onnx")}],
        transpose_forward=[0, 1, 2],
        transpose_backward=[0, 1, 2],
        channels=["grey"],
        normalization=[{"scheme": "NoNormalization", "use_mask": False}],
        postprocessing=[[1]],
        file_ending=".png",
        image_reader_writer="NaturalImage2DIO",
    ).write(folder)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """A picture of a large and a small bright spot."""
    pixels = np.full((12, 30), 20, np.uint8)
    pixels[2:9, 3:12], pixels[5, 20:23] = 150, 200
    (tmp_path / "images").mkdir()
    io.imsave(tmp_path / "images" / "good_0000.png", pixels, check_contrast=False)
    return tmp_path / "images"


def predict(model, images, output):
    main(["predict-exported", str(model), "-i", str(images), "-o", str(output)])


def test_bright_pixels_are_segmented_and_postprocessed(model, images, tmp_path, capsys):
    predict(model, images, tmp_path / "out")
    expected = np.zeros((12, 30))
    expected[2:9, 3:12] = 1  # the largest component alone
    assert np.array_equal(io.imread(tmp_path / "out" / "good.png"), expected)
    printed = capsys.readouterr()
    assert printed.out == f"1 of 1 cases were segmented into {tmp_path / 'out'}\n"
    assert "good: 100%" in printed.err and "Note" not in printed.err
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "cell": 1} and description["channel_names"] == {"0": "grey"}


def test_images_of_another_size_than_those_it_was_trained_on_are_noted(model, images, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "resized")
    description = tmp_path / "resized" / "model.json"
    for size, noted in (([12, 30], False), ([12, 12], True)):
        description.write_text(json.dumps(json.loads(description.read_text()) | {"resized_to": size}))
        predict(tmp_path / "resized", images, tmp_path / "out")
        note = "Note: 1 case, such as good, not 12 x 12, to which the training images were resized: convert them"
        assert (note in capsys.readouterr().err) == noted


def test_broken_input_is_told_and_the_rest_segmented(model, images, tmp_path, capsys):
    (images / "bad_0000.png").write_bytes(b"no picture")
    io.imsave(images / "colours_0000.png", np.zeros((9, 9, 3), np.uint8), check_contrast=False)
    with pytest.raises(SystemExit, match="1"):
        predict(model, images, tmp_path / "out")
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if line.startswith(("bad: ", "colours: "))]
    assert len(told) == 2
    assert (
        "bad_0000.png cannot be read" in told[0]
        and "colours_0000.png has 3 channels, but the model takes 1 (grey)" in told[1]
    )
    assert "1 of 3 cases were segmented" in printed.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "good.png"]


def test_an_image_that_the_libraries_cannot_bear_leaves_the_others_alone(model, images, tmp_path, capsys, monkeypatch):
    def bearable(image, model):
        if image.data.shape[-1] == 9:
            raise MemoryError("Unable to allocate 8 EiB")
        return prepare(image, model)

    monkeypatch.setattr(command, "prepare", bearable)
    io.imsave(images / "a_huge_0000.png", np.zeros((9, 9), np.uint8), check_contrast=False)
    with pytest.raises(SystemExit, match="1"):
        predict(model, images, tmp_path / "out")
    printed = capsys.readouterr()
    assert "a_huge: it cannot be segmented (MemoryError: Unable to allocate 8 EiB)\n" in printed.err
    assert "1 of 2 cases were segmented" in printed.out and (tmp_path / "out" / "good.png").is_file()


def test_files_with_other_names_are_named(model, images, tmp_path, capsys):
    for name in ("scan.png", "other_0000.PNG"):
        (images / name).write_bytes((images / "good_0000.png").read_bytes())
    with pytest.raises(SystemExit, match="1"):
        predict(model, images, tmp_path / "out")
    told = capsys.readouterr().err
    assert all(f"{name} is not called CASE_0000.png: rename it\n" in told for name in ("scan.png", "other_0000.PNG"))
    assert (tmp_path / "out" / "good.png").is_file()


def test_channels_with_a_gap_are_named(model, images, tmp_path, capsys):
    (images / "good_0000.png").rename(images / "good_0001.png")
    with pytest.raises(SystemExit, match="1"):
        predict(model, images, tmp_path / "out")
    assert "good: good_0001.png is there, but no file _0000.png: add it" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_told_before_anything_is_computed(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_network", lambda *_: pytest.fail("a network was loaded"))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit, match=r"out cannot be written \(File exists\): give -o another folder"):
        predict(model, images, tmp_path / "out")


WRONG = [
    ("networks", []),
    ("networks", [{"file": "../fold_0.onnx", "sha256": ""}]),
    ("networks", [{"file": "/etc/passwd", "sha256": ""}]),
    ("networks", [{"fold": "0"}]),
    ("patch_size", [8, "8"]),
    ("patch_size", [8]),
    ("spacing", [1.0, 0.0]),
    ("spacing", [1.0, float("nan")]),
    ("transpose_forward", [0, 1]),
    ("channels", []),
    ("normalization", []),
    ("normalization", [{"scheme": "CTNormalization", "use_mask": False}]),
    ("normalization", [{"scheme": ["NoNormalization"], "use_mask": False}]),
    ("resampling", {}),
    (
        "resampling",
        {
            name: {"function": "resample_data_or_seg_to_shape", "kwargs": {"is_seg": True}}
            for name in ("data", "probabilities")
        },
    ),
    ("num_segmentation_heads", True),
    ("regions_class_order", [1]),
    ("bytes_of_labels", 3),
    ("mirror_axes", [7]),
    ("mirror_axes", [0, 0]),
    ("tile_step_size", 1e-9),
    ("tile_step_size", 2),
    ("postprocessing", [1]),
    ("file_ending", "png"),
    ("image_reader_writer", ["NaturalImage2DIO"]),
    ("resized_to", [128]),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_wrong_description_is_refused_in_one_sentence(model, images, tmp_path, name, value):
    shutil.copytree(model, tmp_path / "wrong")
    description = tmp_path / "wrong" / "model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {name: value}))
    with pytest.raises(SystemExit, match=rf"^\S+model.json has {name} = .+: expected [^\n]+; export the model again$"):
        predict(tmp_path / "wrong", images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_for_other_images_is_refused(model, images, tmp_path):
    shutil.copytree(model, tmp_path / "wrong")
    description = tmp_path / "wrong" / "model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"patch_size": [8, 9]}))
    with pytest.raises(SystemExit, match=r"fold_0.onnx computes .+, but model.json has .+: export the model again"):
        predict(tmp_path / "wrong", images, tmp_path / "out")


def test_no_half_written_segmentation_is_left(model, images, tmp_path, capsys, monkeypatch):
    def write(labels, path, geometry):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setitem(FORMATS, "NaturalImage2DIO", FORMATS["NaturalImage2DIO"]._replace(write=write))
    with pytest.raises(SystemExit, match="1"):
        predict(model, images, tmp_path / "out")
    assert "good.png cannot be written (No space left on device): make room" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_folder_without_images_is_refused(model, tmp_path):
    with pytest.raises(
        SystemExit, match=r"has no images CASE_0000\.png: .+ nnunet-plugins convert folder IMAGES -d \d+ "
    ):
        predict(model, tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit, match="nowhere is no folder: give -i the folder of the images"):
        predict(model, tmp_path / "nowhere", tmp_path / "out")


def test_missing_onnxruntime_is_named(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match=r"onnxruntime cannot be imported .+: pip install onnxruntime"):
        predict(model, images, tmp_path / "out")
