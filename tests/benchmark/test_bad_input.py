"""Proves that bad input is answered with one sentence, before anything starts or is written."""

import importlib.util

import pytest
import torch
from support.benchmark_commands import refusal

from nnunet_plugins.benchmark import command
from nnunet_plugins.benchmark.checks import faults_of
from nnunet_plugins.benchmark.suite import parse, read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.cli import main
from nnunet_plugins.files import write_json

ACTIONS = ("run", "status", "report", "cost")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("action", ACTIONS)
def test_missing_variable_is_named_with_a_remedy(action, variable, root, suite_file, monkeypatch, nothing_starts):
    path = suite_file()
    monkeypatch.delenv(variable)
    folder = variable.removeprefix("nnUNet_")
    assert refusal(root, action, path) == (
        f'{variable} is not set: say where nnU-Net keeps its files, e.g. export {variable}="$PWD/{folder}"'
    )


@pytest.mark.parametrize("action", ACTIONS)
def test_unknown_dataset_is_named_with_where_it_was_looked_for(action, root, suite_file, nothing_starts):
    sentence = refusal(root, action, suite_file(dataset=502))
    assert sentence.startswith(f"There is no dataset 502 in {root / 'nnUNet_raw'} or {root / 'nnUNet_preprocessed'}")
    assert "nnunet-plugins convert" in sentence


@pytest.mark.parametrize("action", ACTIONS)
def test_missing_suite_is_named(action, root, nothing_starts):
    assert refusal(root, action, root / "none.toml").startswith(f"{root / 'none.toml'} cannot be read (No such file")


def test_dataset_number_of_two_datasets_is_refused(root, suite_file, nothing_starts):
    (root / "nnUNet_preprocessed" / "Dataset501_Other").mkdir()
    sentence = refusal(root, "run", suite_file())
    assert "501 belongs to several datasets (Dataset501_Cells, Dataset501_Other)" in sentence


@pytest.mark.parametrize("action", ["run", "cost"])
def test_dataset_without_description_must_be_converted_or_preprocessed(action, root, suite_file, nothing_starts):
    path = suite_file()
    (root / "nnUNet_raw" / "Dataset501_Cells" / "dataset.json").unlink()
    sentence = refusal(root, action, path)
    assert sentence == f"Dataset501_Cells has no dataset.json in {root / 'nnUNet_raw'}: convert it first"
    receipt = root / "nnUNet_preprocessed" / "Dataset501_Cells" / "bench_nnUNetPlans_2d.json"
    write_json(receipt, {})
    faults_of(survey(read_suite(path)), path).end_command()  # raw files are not needed any more


@pytest.mark.parametrize("action", ["run", "cost"])
@pytest.mark.parametrize(
    ("trainer", "hint"),
    [
        ("nnUNetTrainr", "did you mean nnUNetTrainer?"),
        ("DCFFSNetTrainer_woMSFE", "did you mean DCFFSNetTrainer_woMSF?"),
        ("SomebodysTrainer", "'nnunet-plugins list' prints ours"),
    ],
)
def test_unknown_trainer_is_named(action, trainer, hint, root, suite_file, nothing_starts):
    path = suite_file(("nnUNetTrainer", trainer))
    assert refusal(root, action, path) == f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; {hint}"


@pytest.mark.parametrize("action", ["run", "cost"])
@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_lowres"])
def test_2d_trainer_is_refused_for_a_3d_configuration(action, configuration, root, suite_file, nothing_starts):
    path = suite_file(("nnUNetTrainer", "DCSNetTrainer"), configuration=configuration)
    assert refusal(root, action, path) == (
        f"{path}: DCSNetTrainer works in 2D only, but dataset 501 has configuration {configuration}: leave one out, "
        "or give that dataset a list of trainers"
    )


def test_2d_trainer_is_accepted_beside_3d_datasets_of_other_trainers(root, suite_file):
    path = suite_file(("nnUNetTrainer", "DCSNetTrainer"), configuration="3d_fullres")
    text = path.read_text()
    path.write_text(text.replace('["3d_fullres"]', '["3d_fullres"], trainers = ["nnUNetTrainer"]'))
    faults_of(survey(read_suite(path)), path).end_command()
    path.write_text(text.replace("3d_fullres", "2d"))
    faults_of(survey(read_suite(path)), path).end_command()


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_gpus_are_refused_where_the_suite_uses_none(device, root, suite_file, nothing_starts):
    sentence = refusal(root, "run", suite_file(device=device), "--gpus", "0,1")
    assert sentence == f"--gpus 0,1: the suite trains on resources.device = {device!r}: leave out one"


@pytest.mark.parametrize("action", ["run", "cost"])
def test_missing_gpu_is_pointed_out_with_a_way_out(action, root, suite_file, monkeypatch, nothing_starts):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sentence = refusal(root, action, suite_file(device="cuda"))
    assert sentence.startswith("There is no GPU here: set device = 'cpu' in the suite's [resources]")


@pytest.mark.parametrize("gpus", ["", ",", "0,", "0,0", "-1", "0 1", "0;1", "all,"])
def test_malformed_gpus_are_refused(gpus, root, suite_file, monkeypatch, nothing_starts):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sentence = refusal(root, "run", suite_file(device="cuda"), f"--gpus={gpus}")
    assert sentence == f"--gpus {gpus}: expected different numbers with commas between them, e.g. 0,1"


@pytest.mark.parametrize(
    ("given", "visible", "expected"),
    [
        ("0", None, ("0",)),
        ("3,1", "0,1,2,3", ("3", "1")),
        ("GPU-8f-3,MIG-1", None, ("GPU-8f-3", "MIG-1")),
        (None, "2,5", ("2", "5")),
        (None, None, ("0", "1", "2")),
    ],
)
def test_devices_are_those_given_or_all_that_are_visible(given, visible, expected, monkeypatch):
    suite = parse(
        {"name": "x", "trainers": ["nnUNetTrainer"], "reference": "nnUNetTrainer", "epochs": 1}
        | {"datasets": [{"id": 501}]}
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert command.local_gpus(suite, given) == expected


@pytest.mark.parametrize("package", command.NEEDED)
@pytest.mark.parametrize("action", [*ACTIONS, "verify"])
def test_missing_package_is_named_with_how_to_install_it(action, package, root, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    sentence = refusal(root, action, root / "suite.toml")
    assert sentence == f"The benchmark needs {package}: in a clone, pip install '.[benchmark]'"


def test_case_without_a_patient_is_named_before_anything_starts(root, suite_file, nothing_starts):
    path = suite_file()
    path.write_text(path.read_text().replace("id = 501,", "id = 501, cluster_regex = 'p(\\d)',"))
    folder = root / "nnUNet_raw" / "Dataset501_Cells" / "labelsTr"
    folder.mkdir()
    (folder / "1.2.840_p1_a.png").touch()
    faults_of(survey(read_suite(path)), path).end_command()
    (folder / "volunteer.png").touch()
    assert "does not match the case 'volunteer'" in refusal(root, "run", path)


def test_published_dataset_without_figures_is_named_with_those_that_have_some(root, suite_file, nothing_starts):
    path = suite_file()
    text = path.read_text()
    path.write_text(text.replace("id = 501,", "id = 501, published = 'kvasir_seg',"))
    faults_of(survey(read_suite(path)), path).end_command()
    path.write_text(text.replace("id = 501,", "id = 501, published = 'kvasir',"))
    sentence = refusal(root, "run", path)
    assert (
        sentence.startswith("datasets: id 501: published = 'kvasir': no paper's figures") and "kvasir_seg" in sentence
    )


def test_fold_that_the_split_does_not_have_is_named_before_anything_starts(root, suite_file, nothing_starts):
    path = suite_file()
    splits = root / "nnUNet_preprocessed" / "Dataset501_Cells" / "splits_final.json"
    write_json(splits, [{"train": ["a"], "val": ["b"]}] * 2)
    faults_of(survey(read_suite(path)), path).end_command()
    write_json(splits, [{"train": ["a"], "val": ["b"]}])
    assert refusal(root, "run", path) == (
        f"{splits} has 1 fold, numbered from 0, and the suite asks for fold 1: leave it out of the suite's folds"
    )


@pytest.mark.parametrize("steps", [0, -3])
def test_number_of_steps_is_at_least_one(steps, root, suite_file):
    assert refusal(root, "cost", suite_file(), f"--steps={steps}") == f"--steps {steps} must be at least 1"


def test_cost_of_a_dataset_that_is_not_preprocessed_says_how_to_do_it(root, suite_file):
    sentence = refusal(root, "cost", suite_file())
    assert sentence == ("Dataset501_Cells is not preprocessed: run nnUNetv2_plan_and_preprocess -d 501 -c 2d")


def test_report_of_nothing_writes_nothing(root, suite_file):
    path = suite_file()
    expected = "No training of tiny is done yet: see 'nnunet-plugins benchmark status'"
    assert refusal(root, "report", path) == expected
    assert refusal(root, "report", path, "--output", root / "elsewhere") == expected


def test_report_into_a_folder_with_something_else_is_refused(root, suite_file):
    (root / "thesis").mkdir()
    (root / "thesis" / "thesis.tex").write_text("three years of work")
    sentence = refusal(root, "report", suite_file(), "--output", root / "thesis")
    assert sentence.startswith(f"{root / 'thesis'} holds 'thesis.tex', which is no part of a report")


def test_report_in_the_place_of_a_file_is_refused(root, suite_file):
    assert str(root / "suite.toml") in refusal(root, "report", suite_file(), "--output", root / "suite.toml")


@pytest.mark.parametrize("name", ["empty", "none", "suite.toml"])
def test_verify_wants_a_report(name, root, suite_file):
    suite_file()
    (root / "empty").mkdir()
    sentence = refusal(root, "verify", root / name)
    assert sentence.startswith(f"{root / name} holds no report (") and "'benchmark report'" in sentence


def test_unknown_executor_is_refused_by_the_parser(root, suite_file, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", "run", str(suite_file()), "--executor", "cloud"])
    assert "invalid choice: 'cloud'" in capsys.readouterr().err


def test_all_that_a_suite_lacks_is_told_at_once(root, suite_file, monkeypatch, nothing_starts):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = suite_file(("nnUNetTrainer", "NoTrainer", "NoTrainerEither"), device="cuda", configuration="3d_mine")
    for options in ((), ("--dry-run",)):
        with pytest.raises(SystemExit) as ended:
            main(["benchmark", "run", str(path), *options])
        title, *faults = ended.value.code.splitlines()
        assert title == "4 things must be corrected:"
        for fault, expected in zip(faults, ("3d_mine", "'NoTrainer'", "'NoTrainerEither'", "no GPU"), strict=True):
            assert fault.startswith("- ") and expected in fault
    two = path.read_text().replace("datasets = [{ id = 501", "datasets = [{ id = 502 }, { id = 503 }, { id = 501")
    path.write_text(two.replace("epochs = 5", "epoch = 6"))
    for action in ("run", "cost"):
        with pytest.raises(SystemExit) as ended:
            main(["benchmark", action, str(path)])
        title, *faults = ended.value.code.splitlines()
        expected = [
            f"{path}: epoch: there is no such key",
            f"{path}: epochs is missing: add it, e.g. epochs = 100",
            "There is no dataset 502",
            "There is no dataset 503",
            *("3d_mine", f"{path}: trainers = 'NoTrainer'", f"{path}: trainers = 'NoTrainerEither'", "no GPU"),
        ]
        del expected[8 if action == "run" else 7 :]  # the costs are asked for a GPU later
        assert title == f"{len(expected)} things must be corrected:"
        for fault, words in zip(faults, expected, strict=True):
            assert fault.startswith("- ") and words in fault


def test_missing_dataset_of_two_tables_hides_no_other_fault(root, suite_file, nothing_starts):
    path = suite_file(("nnUNetTrainer", "NoTrainer"))
    path.write_text(path.read_text().replace("[{ id = 501", "[{ id = 502 }, { id = 501, external = 502"))
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "run", str(path)])
    title, *faults = ended.value.code.splitlines()
    assert title == "2 things must be corrected:"
    assert [fault[:25] for fault in faults] == ["- There is no dataset 502", f"- {path}: trainers = 'NoTrainer'"[:25]]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("epochs = 5", "epochs = -5"),
        ("folds = [0, 1]", "folds = []"),
        ("folds = [0, 1]", "folds = 3"),
        ("epochs = 5", "epochs = 5\niterations = 0"),
        ("epochs = 5", "epochs = 5\ngpu_memory_gb = -1"),
        ("epochs = 5", "epochs = 5\nrepeats = 0"),
        ("id = 501,", "id = 501, cluster_regex = '(',"),
        ("id = 501,", "id = 501, trainers = ['nnUNetTrainer', 'nnUNetTrainr'],"),
        ("['nnUNetTrainer']", "['nnUNetTrainer', 'nnUNetTrainer_5epochs']"),
        ("['nnUNetTrainer']", "3"),
    ],
)
def test_wrong_key_brings_no_fault_that_is_none(right, wrong, root, suite_file, nothing_starts):
    path = suite_file()
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    assert refusal(root, "run", path).startswith(f"{path}: ")
