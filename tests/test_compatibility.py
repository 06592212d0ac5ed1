"""Proves: an nnU-Net in which our trainers cannot run is recognised, and its sentence holds the right remedy.

Each case is a package nnunetv2 on disk, imported by an interpreter that sees nothing else.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_plugins
from nnunet_plugins.compatibility import nnunet_problem, trainer_problem


@pytest.fixture
def verdict(tmp_path):
    """``verdict(*folders)``: what an interpreter with only these folders on its path says about nnunetv2."""
    ours = tmp_path / "nnunet_plugins_alone"
    ours.mkdir()
    (ours / "nnunet_plugins").symlink_to(Path(nnunet_plugins.__file__).parent)

    def ask(*folders: Path, function: str = "nnunet_problem") -> str:
        code = f"from nnunet_plugins.compatibility import {function}; print({function}())"
        path = os.pathsep.join(map(str, [*folders, ours]))
        command = [sys.executable, "-S", "-P", "-c", code]
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    return ask


def add_package(folder: Path, *, find_objects: bool = True) -> None:
    (folder / "nnunetv2" / "utilities").mkdir(parents=True)
    (folder / "nnunetv2" / "__init__.py").touch()
    if find_objects:
        (folder / "nnunetv2" / "utilities" / "find_objects.py").touch()


def add_distribution(folder: Path, name: str, version: str, files: tuple[str, ...] = ("nnunetv2/__init__.py",)) -> None:
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.mark.parametrize("version", ["2.8", "2.8.0rc1", "2.8.1", "2.10", "2.99.3.post1"])
def test_a_fitting_nnunet_has_no_problem(version, tmp_path, verdict):
    add_package(tmp_path)
    add_distribution(tmp_path, "nnunetv2", version)
    assert verdict(tmp_path) == "None"
    assert verdict(tmp_path, function="overwriting_problem") == "None"


def test_the_installed_nnunet_has_no_problem():
    assert nnunet_problem() is None
    assert trainer_problem(nnUNetTrainer) is None


def test_an_editable_installation_of_nnunet_has_no_problem(tmp_path, verdict):
    add_package(tmp_path / "clone")
    add_distribution(tmp_path / "site-packages", "nnunetv2", "2.8.1", files=("__editable__.nnunetv2.pth",))
    assert verdict(tmp_path / "site-packages", tmp_path / "clone") == "None"


def test_a_missing_nnunet_is_to_be_installed(verdict):
    assert verdict() == "nnunetv2 is not installed in this environment: pip install --upgrade 'nnunetv2>=2.8,<3'"


@pytest.mark.parametrize("version", ["2.0", "2.7.9", "3.0", "1.7.0"])
def test_an_nnunet_of_an_unsupported_version_is_to_be_replaced(version, tmp_path, verdict):
    add_package(tmp_path)
    add_distribution(tmp_path, "nnunetv2", version)
    problem = verdict(tmp_path)
    assert f"nnunetv2 {version} at {tmp_path / 'nnunetv2'} is not at least 2.8 and below 3" in problem
    assert problem.endswith("pip install --upgrade 'nnunetv2>=2.8,<3'")


def test_a_fork_under_another_name_is_to_be_uninstalled(tmp_path, verdict):
    add_package(tmp_path)
    add_distribution(tmp_path, "umamba", "1.0")
    problem = verdict(tmp_path)
    assert f"the package nnunetv2 at {tmp_path / 'nnunetv2'} is not nnU-Net's" in problem
    assert problem.endswith("pip uninstall umamba and pip install --upgrade 'nnunetv2>=2.8,<3'")


def test_a_fork_that_overwrote_nnunets_files_is_found_by_the_thorough_check(tmp_path, verdict):
    add_package(tmp_path)
    add_distribution(tmp_path, "nnunetv2", "2.8.1")
    add_distribution(tmp_path, "umamba", "1.0")
    problem = verdict(tmp_path, function="overwriting_problem")
    assert problem.startswith("umamba also installed a package nnunetv2, over nnU-Net's files: pip uninstall umamba")
    assert "--force-reinstall" in problem


def test_a_fork_under_nnunets_own_name_is_recognised_by_a_missing_module(tmp_path, verdict):
    add_package(tmp_path, find_objects=False)
    add_distribution(tmp_path, "nnunetv2", "2.8.1")
    assert "calls itself 2.8.1 but cannot find trainers elsewhere" in verdict(tmp_path)


def test_a_folder_that_shadows_the_installed_nnunet_is_named(tmp_path, verdict):
    add_package(tmp_path / "site-packages")
    add_distribution(tmp_path / "site-packages", "nnunetv2", "2.8.1")
    shadow = tmp_path / "experiments"
    add_package(shadow)
    problem = verdict(shadow, tmp_path / "site-packages")
    assert f"imported from {shadow / 'nnunetv2'}, which is not the installed nnU-Net 2.8.1" in problem
    assert problem.endswith(f"take {shadow} off PYTHONPATH, or leave that directory")


def test_a_distribution_that_shadows_the_installed_nnunet_is_named(tmp_path, verdict):
    add_package(tmp_path / "site-packages")
    add_distribution(tmp_path / "site-packages", "nnunetv2", "2.8.1")
    add_package(tmp_path / "editable fork")
    add_distribution(tmp_path / "editable fork", "umamba", "1.0")
    assert verdict(tmp_path / "editable fork", tmp_path / "site-packages").endswith(": pip uninstall umamba")


def test_a_folder_that_pip_does_not_know_is_no_nnunet(tmp_path, verdict):
    add_package(tmp_path)
    problem = verdict(tmp_path)
    assert "is not nnU-Net's" in problem
    assert f"take {tmp_path} off PYTHONPATH, or leave that directory and pip install" in problem


def test_a_trainer_with_another_constructor_is_of_another_nnunet():
    class OldTrainer:
        def __init__(self, plans, configuration, fold, dataset_json, unpack_dataset=True, device=None): ...

    class OpenTrainer:
        def __init__(self, *args, **kwargs): ...

    assert "unpack_dataset" in trainer_problem(OldTrainer)
    assert __file__ in trainer_problem(OpenTrainer)
