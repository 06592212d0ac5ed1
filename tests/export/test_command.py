"""Proves: an exported model is whole and described in full, or is refused in one sentence and leaves nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.cell_datasets import LABELS, REGIONS_IGNORE, VOLUMES
from support.trained_models import write_model

from nnunet_plugins.cli import main
from nnunet_plugins.deployed.model import read_model
from nnunet_plugins.errors import UserError
from nnunet_plugins.export import command
from nnunet_plugins.export.command import export_model
from nnunet_plugins.export.description import KEEP_LARGEST, postprocessing
from nnunet_plugins.export.trained_model import find_folds
from nnunet_plugins.files import digest

pytestmark = pytest.mark.usefixtures("results", "narrow")


@pytest.fixture
def quick_networks(monkeypatch):
    """Write something else than the networks, which takes less time."""

    def write(name, network, shape, path):
        path.write_text(f"{name} {shape}")
        return 1e-6

    monkeypatch.setattr(command, "write_network", write)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.usefixtures("quick_networks")
def test_description_has_all_that_inference_needs(tmp_path, capsys):
    model, output = write_model("nnUNetTrainer", REGIONS_IGNORE, folds=(0, 3)), tmp_path / "new" / "exported"
    main(["export", str(model), "-o", str(output)])
    assert f"{output}: nnUNetTrainer, folds 0 3, 0 steps of postprocessing" in capsys.readouterr().out
    description = read_model(output)
    assert sorted(path.name for path in output.iterdir()) == ["fold_0.onnx", "fold_3.onnx", "model.json"]
    assert [network["sha256"] for network in description.networks] == [
        digest(output / "fold_0.onnx"),
        digest(output / "fold_3.onnx"),
    ]
    assert description.channels == ["R", "G", "B"] and description.regions_class_order == [1, 2]
    assert description.labels["ignore"] == 3 and description.num_segmentation_heads == 2
    assert description.mirror_axes == [0, 1] and description.spacing == [1.0, 1.0]
    assert (output / "fold_0.onnx").read_text() == f"onnx (3, {', '.join(map(str, description.patch_size))})"
    assert [list(channel["intensities"]) for channel in description.normalization] == [[*command_statistics()]] * 3


def command_statistics():
    return ("mean", "std", "percentile_00_5", "percentile_99_5")


@pytest.mark.usefixtures("quick_networks")
def test_postprocessing_of_these_folds_goes_along(tmp_path):
    model = write_model("nnUNetTrainer", LABELS, folds=(0, 1))
    steps = {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * 2}
    steps["postprocessing_kwargs"] = [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 2}]
    folder = model / "crossval_results_folds_0_1"
    folder.mkdir()
    (folder / "postprocessing.pkl").write_bytes(b"never read")
    with pytest.raises(UserError, match="run nnUNetv2_determine_postprocessing, which writes it beside"):
        export_model(model, tmp_path / "a", "onnx", (), "checkpoint_final.pth")
    (folder / "postprocessing.json").write_text(json.dumps(steps))
    export_model(model, tmp_path / "a", "onnx", (), "checkpoint_final.pth")
    assert read_model(tmp_path / "a").postprocessing == [[1, 2], [2]]
    export_model(model, tmp_path / "b", "onnx", ["1"], "checkpoint_final.pth")
    assert read_model(tmp_path / "b").postprocessing == []


WRONG = {
    "checkpoint": r"fold_0/checkpoint_best.pth is not there: .+ file with --checkpoint \(checkpoint_final.pth\)$",
    "unfinished": r"fold_1/checkpoint_final.pth is not there: train that fold .+, or choose another with -f \(0\)$",
    "fold": r"fold_0 is the folder of a fold: give \S+__2d, with -f 0$",
    "elsewhere": r"is no folder: give Trainer__Plans__configuration .+ has nnUNetTrainer__nnUNetPlans__2d$",
    "folder": "has no fold_0/checkpoint_final.pth: train it to the end, or choose folds and checkpoint",
    "output": "is there already: give -o another folder, or move it away",
    "reader": "The model needs the image reader NibabelIO, which only nnU-Net has: predict with nnUNetv2_predict",
    "preprocessor": "The plans have the preprocessor_name MyPreprocessor: only models with nnU-Net's Default",
    "weights": "The weights of fold 0 in .+ do not fit the network of nnUNetTrainer",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.usefixtures("quick_networks")
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(wrong, tmp_path):
    model, output, options = write_model("nnUNetTrainer", LABELS), tmp_path / "exported", []
    match wrong:
        case "checkpoint":
            options = ["-f", "0", "--checkpoint", "checkpoint_best.pth"]
        case "unfinished":
            options = ["-f", "1"]
        case "fold":
            model = model / "fold_0"
        case "elsewhere":
            model = model.with_name("DCFFSNetTrainer__nnUNetPlans__2d")
        case "folder":
            shutil.rmtree(model / "fold_0")
        case "output":
            output.mkdir()
        case "reader":
            edit(model / "plans.json", lambda plans: plans.update(image_reader_writer="NibabelIO"))
        case "preprocessor":
            own = {"preprocessor_name": "MyPreprocessor"}
            edit(model / "plans.json", lambda plans: plans["configurations"]["2d"].update(own))
        case "weights":
            path = model / "fold_0" / "checkpoint_final.pth"
            checkpoint = torch.load(path, weights_only=False)
            checkpoint["network_weights"].popitem()
            torch.save(checkpoint, path)
    with pytest.raises(SystemExit, match=WRONG[wrong]):
        main(["export", str(model), "-o", str(output), *options])
    assert [path.name for path in tmp_path.glob("*exported*")] == (["exported"] if wrong == "output" else [])


@pytest.mark.usefixtures("quick_networks")
def test_second_stage_of_a_cascade_is_refused(tmp_path):
    model = write_model("nnUNetTrainer", VOLUMES)
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["init_args"]["configuration"] = "3d_cascade_fullres"
    torch.save(checkpoint, path)
    with pytest.raises(
        UserError, match=r"3d_cascade_fullres needs the segmentations of 3d_lowres as input.+ export 3d_f"
    ):
        export_model(model, tmp_path / "exported", "onnx", (), "checkpoint_final.pth")


@pytest.mark.usefixtures("quick_networks")
def test_exported_model_that_has_changed_is_refused(tmp_path):
    export_model(write_model("nnUNetTrainer", LABELS), tmp_path / "a", "onnx", (), "checkpoint_final.pth")
    (tmp_path / "a" / "fold_0.onnx").write_text("something else")
    with pytest.raises(UserError, match=r"fold_0.onnx is not the file that was exported: copy the model again"):
        read_model(tmp_path / "a")
    edit(tmp_path / "a" / "model.json", lambda model: model.update(format=2))
    with pytest.raises(UserError, match="has not format 1: export the model again"):
        read_model(tmp_path / "a")
    with pytest.raises(UserError, match="give the folder that 'nnunet-plugins export' has written"):
        read_model(tmp_path)


@pytest.mark.usefixtures("quick_networks")
def test_networks_that_only_torch_can_run_are_refused(tmp_path):
    export_model(write_model("nnUNetTrainer", LABELS), tmp_path / "a", "pt2", (), "checkpoint_final.pth")
    with pytest.raises(SystemExit, match="in the format pt2, which only torch can run: export the model with --format"):
        main(["predict-exported", str(tmp_path / "a"), "-i", str(tmp_path), "-o", str(tmp_path / "b")])


def test_folds_are_the_numbered_ones_in_order_and_postprocessing_is_theirs_in_any(tmp_path):
    for fold in ("0", "1", "2", "10", "0_old", "all"):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "checkpoint_final.pth").touch()
    assert find_folds(tmp_path, "checkpoint_final.pth") == ["0", "1", "2", "10"]
    found = tmp_path / "crossval_results_folds_1_0"
    found.mkdir()
    steps = {"postprocessing_fns": [KEEP_LARGEST], "postprocessing_kwargs": [{"labels_or_regions": 1}]}
    (found / "postprocessing.json").write_text(json.dumps(steps))
    assert postprocessing(tmp_path, ["0", "1"]) == [[1]] and postprocessing(tmp_path, ["0", "2"]) == []
