"""Proves that bad input is answered with one sentence, before anything is written, and that the status is the truth."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from support.cell_datasets import use_nnunet_folders

from nnunet_plugins.benchmark import command
from nnunet_plugins.benchmark.checks import check_suite
from nnunet_plugins.benchmark.jobs import engine
from nnunet_plugins.benchmark.runs import log_file, runs, work_folder
from nnunet_plugins.benchmark.suite import parse, read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.cli import main
from nnunet_plugins.files import write_json

SUITE = """
name = "tiny"
trainers = {trainers}
reference = "nnUNetTrainer"
epochs = 5
folds = [0, 1]
datasets = [{{ id = {dataset}, configurations = ["{configuration}"] }}]
[resources]
device = "{device}"
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """nnU-Net's folders with a raw dataset of a few names."""
    use_nnunet_folders(tmp_path, monkeypatch)
    dataset = {"channel_names": {"0": "R"}, "labels": {"background": 0, "cell": 1}, "numTraining": 6}
    write_json(tmp_path / "nnUNet_raw" / "Dataset501_Cells" / "dataset.json", dataset | {"file_ending": ".png"})
    return tmp_path


@pytest.fixture
def suite_file(root):
    def write(trainers=("nnUNetTrainer",), dataset=501, configuration="2d", device="cpu"):
        path = root / "suite.toml"
        text = SUITE.format(trainers=list(trainers), dataset=dataset, configuration=configuration, device=device)
        path.write_text(text)
        return path

    return write


def everything(root):
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def refusal(root, *arguments):
    """The one sentence that a command ends with, having written nothing."""
    before = everything(root)
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *map(str, arguments)])
    assert everything(root) == before
    sentence = ended.value.code  # text: Python prints it and exits with 1
    assert isinstance(sentence, str) and len(sentence.strip().splitlines()) == 1, sentence
    return sentence


def never(*_, **__):
    raise AssertionError("this must not be reached")


@pytest.fixture
def nothing_starts(monkeypatch):
    monkeypatch.setattr(engine, "run_suite", never)
    monkeypatch.setattr(engine, "dry_run", never)


# ---- bad input -------------------------------------------------------------------------------------------------------


def finish(run):
    write_json(run.training_receipt, {"parts": ["validation"], "sha256": {}})
    write_json(run.validation_receipt, {"tolerance": 1.0, "parts": ["validation"], "cases": []})


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
    check_suite(survey(read_suite(path)), path)  # raw files are not needed any more


@pytest.mark.parametrize("action", ["run", "cost"])
@pytest.mark.parametrize("trainer", ["nnUNetTrainr", "DCFFSNetTrainer_woMSFFE"])
def test_unknown_trainer_is_named(action, trainer, root, suite_file, nothing_starts):
    path = suite_file(("nnUNetTrainer", trainer))
    assert refusal(root, action, path) == (
        f"{path}: trainers = {trainer!r}: nnU-Net finds no such trainer; 'nnunet-plugins list' prints ours"
    )


@pytest.mark.parametrize("action", ["run", "cost"])
@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_lowres"])
def test_trainer_for_images_is_refused_for_volumes(action, configuration, root, suite_file, nothing_starts):
    path = suite_file(("nnUNetTrainer", "DCFFSNetTrainer"), configuration=configuration)
    assert refusal(root, action, path) == (
        f"{path}: DCFFSNetTrainer works in 2D only, but dataset 501 has configuration {configuration}: leave one out, "
        "or give that dataset a list of trainers"
    )


def test_trainer_for_images_is_welcome_beside_volumes_of_others(root, suite_file):
    path = suite_file(("nnUNetTrainer", "DCFFSNetTrainer"), configuration="3d_fullres")
    text = path.read_text()
    path.write_text(text.replace('["3d_fullres"]', '["3d_fullres"], trainers = ["nnUNetTrainer"]'))
    check_suite(survey(read_suite(path)), path)
    path.write_text(text.replace("3d_fullres", "2d"))
    check_suite(survey(read_suite(path)), path)


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
def test_strange_devices_are_refused(gpus, root, suite_file, monkeypatch, nothing_starts):
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
    (folder / "p1_a.png").touch()
    check_suite(survey(read_suite(path)), path)
    (folder / "volunteer.png").touch()
    assert "does not match the case 'volunteer'" in refusal(root, "run", path)


def test_fold_that_the_split_does_not_have_is_named_before_anything_starts(root, suite_file, nothing_starts):
    path = suite_file()
    splits = root / "nnUNet_preprocessed" / "Dataset501_Cells" / "splits_final.json"
    write_json(splits, [{"train": ["a"], "val": ["b"]}] * 2)
    check_suite(survey(read_suite(path)), path)
    write_json(splits, [{"train": ["a"], "val": ["b"]}])
    assert refusal(root, "run", path) == (
        f"{splits} has 1 folds, numbered from 0, and the suite asks for fold 1: leave it out of the suite's folds"
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


# ---- what actions do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_run_hands_over_the_suite_and_says_when_not_everything_succeeded(executor, root, suite_file, monkeypatch):
    path = suite_file(device="cuda")
    given = []
    monkeypatch.setattr(engine, "run_suite", lambda survey, *arguments: given.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: executor == "local")
    monkeypatch.setattr(command, "report_to", never)
    options = ("--gpus", "1") if executor == "local" else ("--executor", "slurm")
    sentence = refusal(root, "run", path, *options)
    assert given == [(path.resolve(), executor, ("1",) if executor == "local" else ())]
    logs = root / "nnUNet_results" / "benchmarks" / "tiny" / "logs"
    assert sentence == (f"Not everything succeeded: see the messages above and the logs in {logs}; then run this again")


@pytest.mark.parametrize("succeeded", [True, False])
def test_what_is_done_is_reported_even_if_something_failed(succeeded, root, suite_file, monkeypatch):
    path = suite_file()
    for run in runs(read_suite(path))[: None if succeeded else 1]:
        finish(run)
    reported = []
    monkeypatch.setattr(engine, "run_suite", lambda *_: succeeded)
    monkeypatch.setattr(command, "report_to", lambda suite, folder: reported.append(folder))
    if succeeded:
        main(["benchmark", "run", str(path)])
    else:
        assert refusal(root, "run", path).startswith("Not everything succeeded")
    assert reported == [root / "nnUNet_results" / "benchmarks" / "tiny" / "report"]


def test_run_of_which_nothing_is_done_has_not_succeeded_and_has_no_report(root, suite_file, monkeypatch):
    """Whatever Snakemake says: another suite may have meddled with the folds."""
    monkeypatch.setattr(engine, "run_suite", lambda *_: True)
    monkeypatch.setattr(command, "report_to", never)
    assert refusal(root, "run", suite_file()).startswith("Not everything succeeded")


def test_dry_run_checks_and_runs_nothing(root, suite_file, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "run_suite", never)
    monkeypatch.setattr(engine, "dry_run", asked.append)
    path = suite_file()
    main(["benchmark", "run", str(path), "--dry-run"])
    assert [survey.suite.name for survey in asked] == ["tiny"]
    assert "finds no such trainer" in refusal(root, "run", suite_file(("nnUNetTrainer", "NoTrainer")), "--dry-run")


def test_report_goes_where_it_is_wanted_with_cases_or_without(root, suite_file, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "report_to", lambda suite, folder, with_cases: asked.append((folder, with_cases)))
    path = suite_file()
    main(["benchmark", "report", str(path)])
    main(["benchmark", "report", str(path), "--output", "here", "--no-cases"])
    assert [(str(folder), with_cases) for folder, with_cases in asked] == [
        (str(root / "nnUNet_results" / "benchmarks" / "tiny" / "report"), True),
        ("here", False),
    ]


# ---- status ----------------------------------------------------------------------------------------------------------


def states(path, capsys):
    """State of each training, by its name; the last line."""
    main(["benchmark", "status", str(path)])
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert empty == ""
    found = dict(re.fullmatch(r"(.*?\S) {2,}(.*)", line).groups() for line in lines)
    assert len({line.index("  ") for line in lines} | {0}) <= 3
    return found, last


def write_log(suite, run, text):
    path = log_file(suite, "train", run.training_receipt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


TRACEBACK = "Traceback (most recent call last):\n  File ...\nRuntimeError: CUDA out of memory\n"


def test_status_of_a_suite_that_has_not_begun(root, suite_file, capsys):
    path = suite_file(("nnUNetTrainer", "DCFFSNetTrainer"))
    before = everything(root)
    found, last = states(path, capsys)
    names = [
        f"Dataset501_Cells 2d {trainer}_5epochs fold {fold}"
        for fold in (0, 1)
        for trainer in ("nnUNetTrainer", "DCFFSNetTrainer")
    ]
    assert found == dict.fromkeys(names, "waiting")
    assert last == f"0 of 4 trainings done. Logs: {root / 'nnUNet_results' / 'benchmarks' / 'tiny' / 'logs'}"
    assert everything(root) == before


@pytest.fixture
def first(suite_file):
    """A suite of two trainings on a preprocessed dataset, and the first one."""
    path = suite_file()
    suite = read_suite(path)
    run = runs(suite)[0]
    write_json(run.plan_receipt, {})
    write_json(run.preprocessing_receipt, {})
    return path, suite, run


def state_of_first(first, capsys):
    found, last = states(first[0], capsys)
    assert list(found.values())[1] == "waiting"
    return next(iter(found.values())), last


def test_training_with_metrics_is_done(first, capsys):
    _, suite, run = first
    finish(run)
    state, last = state_of_first(first, capsys)
    assert state == "done" and last.startswith("1 of 2 trainings done.")
    write_json(run.validation_receipt, {"tolerance": 2.0, "cases": []})  # the suite wants another
    assert state_of_first(first, capsys)[0] != "done"
    write_log(suite, run, TRACEBACK)  # of a training before the one that succeeded
    run.validation_receipt.unlink()
    log = log_file(suite, "validate", run.validation_receipt)
    assert state_of_first(first, capsys)[0] == "waiting"
    log.write_text("\n==== validate\n")
    assert state_of_first(first, capsys)[0] == "waiting to validate"
    log.write_text(f"\n==== validate\n{TRACEBACK}")
    assert state_of_first(first, capsys)[0] == f"failed to validate, see {log}"


@pytest.mark.parametrize("step", ["plan", "preprocess"])
def test_dataset_that_cannot_be_prepared_is_why_nothing_is_trained(step, first, capsys):
    path, suite, run = first
    receipt = run.plan_receipt if step == "plan" else run.preprocessing_receipt
    receipt.unlink()
    log = log_file(suite, step, receipt)
    log.parent.mkdir(parents=True)
    log.write_text("\n==== working\n")
    assert set(states(path, capsys)[0].values()) == {f"waiting to {step}"}
    log.write_text(f"\n==== working\n{TRACEBACK}")
    assert set(states(path, capsys)[0].values()) == {f"failed to {step}, see {log}"}


@pytest.fixture
def locked(first):
    """Another process holds the training's lock."""
    script = (
        "import sys; from pathlib import Path; from nnunet_plugins.benchmark.jobs.locks import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command_line = [sys.executable, "-c", script, str(first[2].folder / ".bench.lock")]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_training_that_another_process_works_on_is_running(first, locked, capsys):
    write_log(first[1], first[2], TRACEBACK)
    assert state_of_first(first, capsys)[0] == "running, epoch 0 of 5"
    log = first[2].folder / "training_log_2026_1_1_10_00_00.txt"
    log.write_text("2026: Epoch 0 \n2026: Epoch time: 3.1 s\n2026: \n2026: Epoch 1 \n2026: Epoch time: 3.1 s\n")
    assert state_of_first(first, capsys)[0] == "running, epoch 2 of 5"
    with log.open("a") as file:
        file.write("2026: Epoch 2 \n2026: train_loss -0.5\n")
    assert state_of_first(first, capsys)[0] == "running, epoch 2 of 5"


def test_lock_of_a_process_that_has_ended_is_none(first, capsys):
    first[2].folder.mkdir(parents=True)
    (first[2].folder / ".bench.lock").touch()
    write_log(first[1], first[2], "\n==== train\nUsing device: cpu\n")
    assert state_of_first(first, capsys)[0] == "stopped after epoch 0 of 5"


def test_training_whose_last_attempt_ended_with_a_traceback_has_failed(first, capsys):
    log = write_log(first[1], first[2], f"\n==== train (1)\nfine\n\n==== train (2)\n{TRACEBACK}")
    assert state_of_first(first, capsys)[0] == f"failed to train, see {log}"
    write_log(first[1], first[2], f"\n==== train (1)\n{TRACEBACK}\n==== train (2)\nepoch after epoch\n")
    assert state_of_first(first, capsys)[0] == "stopped after epoch 0 of 5"


def test_epochs_are_counted_on_after_a_restart(first, capsys):
    """The second attempt goes on from the checkpoint of epoch 1."""
    write_log(first[1], first[2], "")
    first[2].folder.mkdir(parents=True)
    epochs = "2026: Epoch {} \n2026: Epoch time: 3.1 s\n"
    (first[2].folder / "training_log_2026_1_1_10_00_00.txt").write_text("".join(map(epochs.format, (0, 1, 2))))
    (first[2].folder / "training_log_2026_1_1_11_00_00.txt").write_text(epochs.format(1))
    assert state_of_first(first, capsys)[0] == "stopped after epoch 2 of 5"


def test_verified_report_says_so(root, capsys, monkeypatch):
    from nnunet_plugins.benchmark.report import page

    monkeypatch.setattr(page, "verify", lambda _: [])
    main(["benchmark", "verify", str(root)])
    assert (
        capsys.readouterr().out
        == f"{root}: the tables and the page are those that its data and figures give, to the byte.\n"
    )
    monkeypatch.setattr(page, "verify", lambda _: ["results.md", "results.tex"])
    sentence = refusal(root, "verify", root)
    assert sentence.startswith(f"{root}: results.md, results.tex differ from what its data give:")


def test_work_folder_is_named_after_the_suite(first, root):
    assert work_folder(first[1]) == root / "nnUNet_results" / "benchmarks" / "tiny"
    assert json.loads(json.dumps(str(first[2]))) == "Dataset501_Cells 2d nnUNetTrainer_5epochs fold 0"
