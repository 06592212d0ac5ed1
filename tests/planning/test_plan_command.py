"""Proves: ``nnunet-plugins plan`` writes plans that nnU-Net trains from, beside those that are there, and only then."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.cell_datasets import NNUNET_FOLDERS
from support.described_datasets import IMAGES, LARGE_VOLUMES, VOLUMES
from support.refusals import everything_below

from nnunet_plugins.cli import main

STOCK = ("-tr", "nnUNetTrainer")


def plan(capsys, *arguments: object) -> str:
    main(["plan", *map(str, arguments)])
    return capsys.readouterr().out


def refusal(*arguments: object) -> str:
    """Sentence with which the command refuses, having written nothing."""
    before = everything_below()
    with pytest.raises(SystemExit) as ended:
        main(["plan", *map(str, arguments)])
    assert everything_below() == before
    sentence = ended.value.code
    assert isinstance(sentence, str) and "\n" not in sentence  # the interpreter prints it and exits with 1
    return sentence


def folder(root: Path, dataset) -> Path:
    return root / "nnUNet_preprocessed" / f"Dataset{dataset.id}_Described"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_prints_before_and_after_and_what_to_type(root, capsys):
    output = plan(capsys, "-d", IMAGES.id, *STOCK, "--gpu-memory", "4")
    name = "nnUNetPlans_nnUNetTrainer_4G"
    after = read(folder(root, IMAGES) / f"{name}.json")["configurations"]["2d"]
    assert re.search(r"2d +nnUNetPlans +512 x 512 +12 +4\.\d +cannot +6\.\d +does not fit\n", output)
    assert re.search(rf"2d +{name} +512 x 512 +{after['batch_size']} +2\.\d +cannot +[34]\.\d +fits\n", output)
    assert f"{folder(root, IMAGES) / name}.json is written" in output
    assert output.splitlines()[-2:] == [
        f"nnUNetv2_preprocess -d 921 -plans_name {name} -c 2d",
        f"nnUNetv2_train 921 2d FOLD -tr nnUNetTrainer -p {name}",
    ]


def test_preprocessed_data_are_shared(root, capsys):
    data = folder(root, IMAGES) / "nnUNetPlans_2d"
    data.mkdir()
    (data / "case.pkl").touch()
    output = plan(capsys, "-d", IMAGES.id, *STOCK, "--gpu-memory", "4.5")
    assert "nnUNetv2_preprocess" not in output
    before, after = (read(folder(root, IMAGES) / f"nnUNetPlans{end}.json") for end in ("", "_nnUNetTrainer_4.5G"))
    for key in ("data_identifier", "spacing", "normalization_schemes", "preprocessor_name"):
        assert after["configurations"]["2d"][key] == before["configurations"]["2d"][key]


def test_the_same_command_again_changes_nothing(root, capsys):
    arguments = ("-d", IMAGES.id, "-tr", "nnUNetTrainer", "--gpu-memory", "4")
    plan(capsys, *arguments)
    path = folder(root, IMAGES) / "nnUNetPlans_nnUNetTrainer_4G.json"
    before = everything_below(), path.stat().st_mtime_ns
    assert f"{path} is there already, unchanged" in plan(capsys, *arguments)
    assert (everything_below(), path.stat().st_mtime_ns) == before


def test_a_length_in_the_trainers_name_gives_the_same_plans(root, capsys):
    plan(capsys, "-d", IMAGES.id, "-tr", "nnUNetTrainer", "--gpu-memory", "4")
    output = plan(capsys, "-d", IMAGES.id, "-tr", "nnUNetTrainer_7epochs_3iterations", "--gpu-memory", "4.0")
    assert "nnUNetPlans_nnUNetTrainer_4G.json is there already, unchanged" in output
    assert output.splitlines()[-1].endswith("-tr nnUNetTrainer_7epochs_3iterations -p nnUNetPlans_nnUNetTrainer_4G")


def test_nothing_else_is_changed(root, capsys):
    before = everything_below()
    plan(capsys, "-d", VOLUMES.id, *STOCK, "--gpu-memory", "3")
    new = {path for path in everything_below() if path not in before}
    assert new == {folder(root, VOLUMES) / "nnUNetPlans_nnUNetTrainer_3G.json"}
    assert {path: content for path, content in everything_below().items() if path not in new} == before


def test_keys_that_nnunet_does_not_know_stay(root, capsys):
    path = folder(root, IMAGES) / "nnUNetPlans.json"
    plans = read(path)
    plans["mine"] = plans["configurations"]["2d"]["mine"] = {"any": [1, None]}
    path.write_text(json.dumps(plans))
    plan(capsys, "-d", IMAGES.id, *STOCK, "--gpu-memory", "4")
    after = read(path.with_name("nnUNetPlans_nnUNetTrainer_4G.json"))
    assert after["mine"] == after["configurations"]["2d"]["mine"] == plans["mine"]


def test_a_second_configuration_joins_the_first(root, capsys):
    path = folder(root, VOLUMES) / "nnUNetPlans_nnUNetTrainer_3G.json"
    plan(capsys, "-d", VOLUMES.id, *STOCK, "--gpu-memory", "3", "-c", "3d_fullres")
    first = read(path)["configurations"]
    assert list(first) == ["3d_fullres"]
    plan(capsys, "-d", VOLUMES.id, *STOCK, "--gpu-memory", "3", "-c", "2d")
    both = read(path)["configurations"]
    assert list(both) == ["2d", "3d_fullres"]
    assert both["3d_fullres"] == first["3d_fullres"]


@pytest.mark.parametrize("asked", ["3d_lowres", "3d_cascade_fullres"])
def test_the_configurations_of_a_cascade_stay_together(root, capsys, asked):
    output = plan(capsys, "-d", LARGE_VOLUMES.id, *STOCK, "--gpu-memory", "3", "-c", asked)
    path = folder(root, LARGE_VOLUMES) / "nnUNetPlans_nnUNetTrainer_3G.json"
    assert list(read(path)["configurations"]) == ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert "-c 3d_lowres 3d_fullres\n" in output  # the cascade has the data of 3d_fullres
    before, after = PlansManager(str(folder(root, LARGE_VOLUMES) / "nnUNetPlans.json")), PlansManager(str(path))
    lowres, cascade = (after.get_configuration(name) for name in ("3d_lowres", "3d_cascade_fullres"))
    assert lowres.next_stage_names == ["3d_cascade_fullres"] and cascade.previous_stage_name == "3d_lowres"
    for name in after.available_configurations:
        assert after.get_configuration(name).data_identifier == before.get_configuration(name).data_identifier
        assert after.get_configuration(name).spacing == before.get_configuration(name).spacing


@pytest.mark.slow
def test_plans_of_a_residual_encoder_are_planned_by_its_own_planner(root, capsys):
    options = ("-c", "3d_fullres", "-p", "nnUNetResEncUNetMPlans")
    plan(capsys, "-d", VOLUMES.id, *STOCK, "--gpu-memory", "3", *options)
    plans = read(folder(root, VOLUMES) / "nnUNetResEncUNetMPlans_nnUNetTrainer_3G.json")
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert plans["experiment_planner_used"] == "nnUNetPlannerResEncM"
    assert len(kwargs["n_blocks_per_stage"]) == len(kwargs["strides"]) == kwargs["n_stages"]


@pytest.mark.parametrize(
    ("trainer", "dataset", "name"),
    [
        ("DLKUNetSTrainer", IMAGES, "2d"),
        pytest.param("CASNetTrainer", VOLUMES, "3d_fullres", marks=pytest.mark.slow),
    ],
)
def test_nnunet_makes_the_trainer_and_its_network_from_the_plans(root, capsys, trainer, dataset, name):
    plan(capsys, "-d", dataset.id, "-tr", trainer, "--gpu-memory", "3", "-c", name)
    (folder(root, dataset) / f"nnUNetPlans_{name}").mkdir(exist_ok=True)
    (folder(root, dataset) / f"nnUNetPlans_{name}" / "case.b2nd").touch()
    plans_name = f"nnUNetPlans_{trainer}_3G"
    made = get_trainer_from_args(str(dataset.id), name, 0, trainer, plans_name, device=torch.device("cpu"))
    made.initialize()
    assert Path(made.output_folder).parent.name == f"{trainer}__{plans_name}__{name}"


def test_the_raw_data_are_not_needed(root, capsys, monkeypatch):
    shutil.rmtree(root / "nnUNet_raw")
    monkeypatch.delenv("nnUNet_raw")
    assert "is written" in plan(capsys, "-d", IMAGES.id, *STOCK, "--gpu-memory", "4")


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["24GB", "0", "-8", "nan", "inf", ""])
def test_memory_that_is_no_number_above_0_is_refused(root, given):
    sentence = refusal("-d", IMAGES.id, *STOCK, f"--gpu-memory={given}")
    assert sentence == f"--gpu-memory {given}: expected the GPU's memory in GiB, a number above 0, e.g. 24"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-d", 998, *STOCK), "There is no dataset 998 in .*: convert it first"),
        (("-d", 921, *STOCK, "-p", "Mine"), "Mine.json is not there: make it with nnUNetv2_plan_experiment -d 921"),
        (("-d", 921, "-tr", "NoTrainer"), "nnU-Net finds no trainer 'NoTrainer': correct the name"),
        (("-d", 921, *STOCK, "-c", "3d_fullres"), "has no configuration '3d_fullres': choose from 2d"),
        (("-d", 922, "-tr", "DCSNetTrainer", "-c", "3d_fullres"), "works in 2D only, but 3d_fullres .* is 3D: -c 2d"),
        (("-d", 921, *STOCK, "--gpu-memory", "1.001"), "nnUNetTrainer does not fit 1.001 GiB on 2d of Dataset921"),
    ],
    ids=["dataset", "plans", "trainer", "configuration", "dimensions", "too little memory"],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(root, arguments, expected):
    assert re.search(expected, refusal(*arguments, *(() if "--gpu-memory" in arguments else ("--gpu-memory", 8))))


def test_a_dataset_without_fingerprint_is_refused(root):
    (folder(root, IMAGES) / "dataset_fingerprint.json").unlink()
    sentence = refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 8)
    assert "dataset_fingerprint.json is not there: make it with nnUNetv2_extract_fingerprint -d 921" in sentence


def change_plans(root: Path, **changes: object) -> None:
    path = folder(root, IMAGES) / "nnUNetPlans.json"
    path.write_text(json.dumps(read(path) | changes))


def test_plans_of_an_unknown_planner_are_refused(root):
    change_plans(root, experiment_planner_used="MyPlanner")
    assert "were made by the planner 'MyPlanner', which this" in refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 8)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"configurations": {"2d": {"inherits_from": "2D"}}}, "cannot be read .*2D.*: correct the plans"),
        ({"configurations": {"2d": {"batch_size": 2, "architecture": {}}}}, "has no patch_size: correct the plans"),
        ({"plans_name": "Other"}, "its plans_name is 'Other', which must be the file's"),
    ],
)
def test_damaged_plans_are_refused(root, changes, expected):
    change_plans(root, **changes)
    assert re.search(expected, refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 8))


def test_a_file_that_is_not_the_commands_own_or_was_edited_is_left_alone(root, capsys):
    path = folder(root, IMAGES) / "nnUNetPlans_nnUNetTrainer_4G.json"
    shutil.copy(folder(root, IMAGES) / "nnUNetPlans.json", path)
    assert f"{path} was not made by 'nnunet-plugins plan'" in refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 4)
    path.unlink()
    plan(capsys, "-d", IMAGES.id, *STOCK, "--gpu-memory", 4)
    plans = read(path)
    plans["configurations"]["2d"]["batch_size"] = 3
    path.write_text(json.dumps(plans))
    assert "or was edited since, and stays: move it away" in refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 4)
    path.write_text("{")
    assert f"{path} cannot be read" in refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 4)


def test_folders_must_be_set(root, monkeypatch):
    for variable in NNUNET_FOLDERS:
        monkeypatch.delenv(variable)
    assert "nnUNet_preprocessed is not set" in refusal("-d", IMAGES.id, *STOCK, "--gpu-memory", 4)
