"""The command line says what it should, in one sentence where the user can help it, and leaves the rest to nnU-Net."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
import torch

import nnunet_plugins
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.cli import main
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.trainers import TRAINERS, find_trainer


@pytest.fixture(scope="module")
def listed() -> str:
    """Output of ``list``."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(["list"])
    return output.getvalue()


def test_list_has_every_trainer_with_its_size(listed):
    header, *rows = listed.partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == list(TRAINERS)
    start, end = header.index("PARAMETERS"), header.index("WHAT IT VARIES")
    for name, row in zip(TRAINERS, rows, strict=True):
        trainer = find_trainer(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in trainer.reference_network().parameters())
        assert row[start:end].split() == [f"{parameters / 1e6:.2f}", "M"]
        assert trainer.method in row
        assert row.endswith(TRAINERS[name].varies)
        assert all(f"{dimensions}D" in row for dimensions in trainer.supported_dimensions)


def test_list_ends_with_papers_and_suffixes(listed):
    for paper in {find_trainer(name).paper for name in TRAINERS}:
        assert listed.count(paper) == 1
    assert "_<N>epochs" in listed
    assert "_<M>iterations" in listed
    assert "_pretrained" in listed and "_earlyStop<N>" in listed


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
    [("trian", "train"), ("nnUNetv2_predict", "predict"), ("docter", "doctor"), ("plan_and_preproces", "plan_and")],
)
def test_an_unknown_command_is_answered_with_the_closest_ones(wrong, right):
    with pytest.raises(SystemExit, match=rf"^There is no command '{wrong}'\. Did you mean .*{right}.*\?$"):
        main([wrong, "1"])


def test_a_command_unlike_any_other_is_answered_with_all_of_them():
    with pytest.raises(SystemExit, match=r"list or env or doctor or demo or selftest or convert or .*train"):
        main(["x"])


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
    arguments = ("Dataset001_Volumes", "3d_fullres", "0", "-tr", "DCFFSNetTrainer_5epochs", "-device", "cpu")
    variables = {"nnUNet_preprocessed": str(tmp_path), "nnUNet_extTrainer": "", "NNUNET_PLUGINS_DISABLE_AUTOLOAD": "1"}
    result = command_line("train", *arguments, **variables)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "DCFFSNetTrainer_5epochs works in 2D only, but configuration 3d_fullres is 3D: train 2d instead."
    )
    assert "Traceback" not in result.stderr


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
