"""The command line says what it should, in one sentence where the user can help it, and leaves the rest to nnU-Net."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from support.repository import REPOSITORY

import nnunet_plugins
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.benchmark.command import ACTIONS
from nnunet_plugins.cli import main
from nnunet_plugins.cli.commands import COMMANDS, explain_missing_file
from nnunet_plugins.cli.parser import make_parser
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.errors import UserError


def test_convert_lists_every_dataset_with_what_its_owners_ask(capsys):
    main(["convert", "--list"])
    header, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert header.split() == ["NAME", "ID", "MODALITY", "CLASSES", "CASES", "LICENCE", "PAGE"]
    assert [row.split()[0] for row in rows] == list(CONVERTERS)
    assert len(rows) == 17
    for dataset, row in zip(CONVERTERS.values(), rows, strict=True):
        classes = ", ".join(list(dataset.labels)[1:])
        assert all(f" {text} " in f"{row} " for text in (dataset.modality, classes, dataset.licence, dataset.page))
        assert str(dataset.num_cases or "any") in row.split()
    ids = [dataset.dataset_id for dataset in CONVERTERS.values() if dataset.dataset_id]
    assert len(set(ids)) == 16


def test_convert_without_a_download_says_what_it_needs():
    with pytest.raises(SystemExit, match=r"^Give the name of a dataset and your download, or --list for all names"):
        main(["convert", "isic2018"])


@pytest.mark.parametrize(
    ("arguments", "command", "fault"),
    [
        (["list", "--jsn"], "list", "unrecognized arguments: --jsn"),
        (["benchmark", "run", "a.toml", "--drie"], "benchmark run", "unrecognized arguments: --drie"),
        (["doctor", "twice"], "doctor", "unrecognized arguments: twice"),
        (["--loud"], "", "unrecognized arguments: --loud"),
        (["convert", "folder", "-d", "Polyps"], "convert", "argument -d/--dataset-id: invalid int value: 'Polyps'"),
    ],
)
def test_wrong_argument_is_told_in_a_sentence_with_its_command(arguments, command, fault, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    command = f"nnunet-plugins {command}".strip()
    assert capsys.readouterr().err == f"{command}: {fault}; '{command} --help' has all options and an example\n"


def test_benchmark_alone_prints_its_help(capsys):
    main(["benchmark"])
    output = capsys.readouterr().out
    assert output.startswith("usage: nnunet-plugins benchmark") and all(action in output for action in ACTIONS)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("preprocessed/Dataset501_A/nnUNetPlans.json", "plan_and_preprocess -d 501 --verify_dataset_integrity"),
        ("preprocessed/Dataset501_A/nnUNetResEncUNetLPlans.json", "_integrity -pl nnUNetPlannerResEncL"),
        ("preprocessed/Dataset501_A/MyPlans.json", "_integrity -pl PLANNER -overwrite_plans_name MyPlans"),
        ("preprocessed/Dataset501_A/nnUNetPlans_80G.json", "-pl PLANNER -overwrite_plans_name nnUNetPlans_80G"),
        ("preprocessed/Dataset501_A/nnUNetPlans_DRGOTrainer_8G.json", "plan -d 501 -tr DRGOTrainer --gpu-memory 8"),
        ("results/Dataset501_A/X__nnUNetPlans__2d/dataset.json", "-c; there are Y__nnUNetPlans__2d"),
        ("results/Dataset501_A/Y__nnUNetPlans__2d/fold_3/checkpoint_final.pth", "or correct -f (folds) or -chk"),
        ("elsewhere/dataset.json", None),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_file_that_an_earlier_step_would_have_written_is_explained(missing, sentence, absolute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path if absolute else Path()
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
    (tmp_path / "results" / "Dataset501_A" / "Y__nnUNetPlans__2d").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as raised:
        (root / missing).read_text()
    found = explain_missing_file(raised.value)
    assert found is None if sentence is None else sentence in found and str(tmp_path) in found
    assert (
        explain_missing_file(FileNotFoundError("no such thing")) is None and explain_missing_file(ValueError()) is None
    )


def environment_lines(capsys) -> dict[str, str]:
    """Assignments that ``env`` prints, as a shell reads them."""
    main(["env"])
    (line,) = capsys.readouterr().out.splitlines()
    export, *assignments = shlex.split(line)
    assert export == "export"
    return dict(assignment.split("=", 1) for assignment in assignments)


def test_env_appends_to_the_users_own_folders(capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/my trainers; it's mine")
    assert environment_lines(capsys)["nnUNet_extTrainer"] == f"/my trainers; it's mine:{DISCOVERY_FOLDER}"


def test_env_adds_nothing_twice(capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", f":{DISCOVERY_FOLDER}:/mine:")
    assert environment_lines(capsys)["nnUNet_extTrainer"] == f"{DISCOVERY_FOLDER}:/mine"


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"nnunet-plugins {nnunet_plugins.__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("trian", "train"),
        ("nnUNetv2_predict", "predict-exported or predict or predict_from_modelfolder"),
        ("docter", "doctor"),
        ("plan_and_preproces", "plan_and_preprocess"),
        ("bench", "benchmark"),
        ("eval", "evaluate or evaluate_folder or evaluate_simple"),
    ],
)
def test_an_unknown_command_is_answered_with_the_closest_ones(wrong, right):
    with pytest.raises(SystemExit, match=rf"^There is no command '{wrong}'\. Did you mean {right}\?$"):
        main([wrong, "1"])


@pytest.mark.parametrize("name", ["x", "segment", "run", "help"])
def test_a_command_unlike_any_other_is_answered_with_the_way_to_all(name):
    with pytest.raises(SystemExit, match=rf"^There is no command '{name}'\. 'nnunet-plugins --help' lists all\.$"):
        main([name])


def test_without_a_command_the_help_is_printed(capsys):
    main([])
    without = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out == without
    for name in COMMANDS:
        assert f"\n    {name}" in without
    names = {point.name.removeprefix("nnUNetv2_") for point in distribution("nnunetv2").entry_points}
    assert len(names) > 20 and names <= set(without.replace(",", "").split())


@pytest.mark.parametrize("name", [*COMMANDS, *(f"benchmark {action}" for action in ACTIONS)])
def test_the_help_of_a_command_has_an_example_that_it_understands(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    example = capsys.readouterr().out.partition("\nexample:\n")[2]
    calls = re.findall(r"nnunet-plugins ([^\n)|]+)", example)
    assert calls
    for call in calls:
        arguments = shlex.split(call, comments=True)
        assert call.startswith(name)
        assert make_parser().parse_args(arguments).command == name.split()[0]
        assert all((REPOSITORY / word).is_file() for word in arguments if word.startswith("suites/"))
        assert max(map(len, example.splitlines())) <= 120


@pytest.mark.parametrize("arguments", [["-v", "benchmark", "status"], ["benchmark", "status", "--verbose"]])
def test_tracebacks_are_shown_on_request_before_or_after_the_command(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_TRACEBACK", "0")
    with pytest.raises(UserError, match=r"is not there|cannot be read"):
        main([*arguments, str(tmp_path / "no_suite.toml")])
    assert os.environ["NNUNET_PLUGINS_TRACEBACK"] == "1"


def test_no_progress_is_shown_on_request(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    code = "from nnunet_plugins.cli import main; main(['env', '-q']); from tqdm import tqdm; list(tqdm(range(3)))"
    for option in ("-q", "--quiet"):
        result = subprocess.run([sys.executable, "-c", code.replace("-q", option)], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
    loud = subprocess.run([sys.executable, "-c", code.replace(", '-q'", "")], capture_output=True, text=True)
    assert "3/3" in loud.stderr


def test_options_before_one_of_nnunets_commands_are_ours(monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_TRACEBACK", "0")
    with pytest.raises(UserError, match="There is no command 'x'"):
        main(["-v", "x"])


def test_loud_and_quiet_exclude_each_other(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["list", "-q", "-v"])
    assert "not allowed with argument -q" in capsys.readouterr().err


def command_line(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnunet_plugins", *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


def test_a_3d_configuration_of_a_2d_trainer_is_refused_in_one_sentence(tmp_path):
    architecture = {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []}
    configurations = {
        "2d": {"patch_size": [64, 64], "architecture": architecture},
        "3d_fullres": {"patch_size": [32, 32, 32], "architecture": architecture},
    }
    dataset = tmp_path / "Dataset001_Volumes"
    dataset.mkdir()
    (dataset / "nnUNetPlans.json").write_text(json.dumps({"configurations": configurations}))
    (dataset / "dataset.json").write_text("{}")
    arguments = ("Dataset001_Volumes", "3d_fullres", "0", "-tr", "DCSNetTrainer_5epochs", "-device", "cpu")
    variables = {"nnUNet_preprocessed": str(tmp_path), "nnUNet_extTrainer": "", "NNUNET_PLUGINS_DISABLE_AUTOLOAD": "1"}
    result = command_line("train", *arguments, **variables)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "DCSNetTrainer_5epochs works in 2D only, but configuration 3d_fullres is 3D: train 2d instead."
    )
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_nnunets_commands_say_which_trainer_was_meant_here_too(tmp_path):
    variables = {key: str(tmp_path / key) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in variables.values():
        (Path(folder) / "Dataset001_Volumes").mkdir(parents=True)
    arguments = shlex.split("-i . -o predicted -d 1 -c 2d -f 0 -device cpu -tr DCFFSNetTrainr")
    result = command_line("predict", *arguments, **variables)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        "There is no trainer DCFFSNetTrainr: did you mean DCFFSNetTrainer?"
    )
    assert "Traceback" not in result.stderr and "FutureWarning" not in result.stderr


def test_nnunets_help_names_the_command_as_it_was_typed(capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setattr(sys, "argv", ["nnunet-plugins"])
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--help"])
    help_text = capsys.readouterr().out
    assert "-tr TR" in help_text
    assert "predict [-h]" in help_text


def test_an_unusable_nnunet_is_told_before_it_is_started(tmp_path):
    (tmp_path / "nnunetv2").mkdir()
    (tmp_path / "nnunetv2" / "__init__.py").write_text("raise ImportError('a fork that was never installed')")
    for command in ("train", "list"):
        result = command_line(command, PYTHONPATH=str(tmp_path))
        assert result.returncode == 1
        (sentence,) = result.stderr.splitlines()
        assert f"nnunetv2 is imported from {tmp_path / 'nnunetv2'}" in sentence


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["written at the end", "written line by line"])
def test_output_that_nobody_reads_to_its_end_is_no_error(unbuffered):
    command = [sys.executable, "-m", "nnunet_plugins", "convert", "--list"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
