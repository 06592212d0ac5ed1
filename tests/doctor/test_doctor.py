"""The doctor finds what is wrong, says how to put it right, and is content with an environment in which all is well."""

import math
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from support.findings import problems

from nnunet_plugins import doctor
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.cli import main
from nnunet_plugins.doctor import machine
from nnunet_plugins.doctor.gpus import cuda_device
from nnunet_plugins.files import usable_cores
from nnunet_plugins.trainers import TRAINERS


def test_a_healthy_environment_has_no_problem(healthy, capsys):
    main(["doctor"])
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "note"}
    assert (empty, last) == ("", "No problem found.")
    for found in ("nnunetv2 2.", "torch 2.", "nnU-Net finds DCFFSNetTrainer", "trainers can be imported"):
        assert any(line.startswith("ok ") and found in line for line in lines), found


def test_a_problem_has_a_remedy_in_its_line_and_makes_the_command_fail(healthy, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    output = capsys.readouterr().out
    assert "PROBLEM nnUNet_raw is not set, but others are -> export nnUNet_raw=" in output
    assert output.endswith("1 problem found.\n")


def test_before_a_users_first_data_no_folder_needs_to_be_set(healthy, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable)
    *_, finding = doctor.folders()
    assert finding.level == "ok"
    assert finding.text.endswith("are not set, and demo and selftest do not need them")
    assert 'export nnUNet_raw="$PWD/raw"' in finding.remedy


def test_quiet_leaves_out_what_is_well(healthy, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "")
    main(["doctor", "-q"])
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} <= {"note"}


def test_nobody_is_warned_of_what_other_packages_import():
    code = "from nnunet_plugins import doctor; print(*doctor.discovery())"  # nnU-Net's search imports timm
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nnU-Net finds DCFFSNetTrainer" in result.stdout


def test_a_missing_dependency_is_to_be_installed(monkeypatch):
    requirements = ["torch>=2", "nnunetv2>=2.8", "no-such-dependency", "no-such-tool; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: requirements)
    *_, torch, problem = doctor.versions()
    assert torch.text.startswith("torch 2.")
    assert problem == ("PROBLEM", "no-such-dependency is not installed", "pip install no-such-dependency")


def test_a_version_that_is_not_required_is_to_be_replaced(monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch<2,>=1", "numpy!=1.*"])
    *_, torch, numpy = doctor.versions()
    assert torch.level == "PROBLEM" and torch.text.startswith("torch 2.") and torch.text.endswith(" is not torch<2,>=1")
    assert torch.remedy == "pip install 'torch<2,>=1'"
    assert numpy.level == "ok"


def test_versions_that_nnunet_itself_requires_are_looked_at_too(monkeypatch):
    requirements = {"nnunetv2": ["torch<2", "numpy"]}
    monkeypatch.setattr("importlib.metadata.requires", requirements.get)
    (problem,) = problems(doctor.nnunet_installation())
    assert problem.remedy == "pip install 'torch<2'"


def test_an_older_installation_of_the_same_clone_is_told(monkeypatch):
    monkeypatch.setattr("nnunet_plugins.__version__", "99.0")
    notes = [finding.text for finding in doctor.versions() if finding.level == "note"]
    assert notes == [f"pip has installed nnunet-plugins {version('nnunet-plugins')}: what it requires may have changed"]


def test_a_python_without_distutils_cannot_preprocess(monkeypatch):
    monkeypatch.setitem(sys.modules, "distutils", None)
    (problem,) = problems(doctor.nnunet_installation())
    assert "distutils" in problem.text and problem.remedy == "pip install setuptools"


def test_a_benchmark_without_its_packages_is_worth_a_note(monkeypatch):
    assert [finding.level for finding in doctor.benchmark_software()] == ["ok"]
    old = ["numpy", "snakemake-executor-plugin-slurm>=99; extra == 'benchmark'", "pytest<1; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: old)
    (note,) = doctor.benchmark_software()
    assert note.level == "note" and "is not snakemake-executor-plugin-slurm>=99" in note.text
    assert "pytest" not in note.text and "[benchmark]" in note.remedy


def test_the_dependencies_are_those_of_the_package():
    names = {finding.text.split()[0] for finding in doctor.versions()}
    assert {"torch", "timm", "scikit-image", "connected-components-3d"} <= names
    assert not {"nnunetv2", "pytest", "snakemake"} & names


def test_a_clone_that_is_not_installed_has_unknown_dependencies(monkeypatch):
    def not_found(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", not_found)
    *_, note = doctor.versions()
    assert (note.level, note.text) == ("note", "nnunet-plugins is not installed by pip: its dependencies are unknown")


def test_settings_of_the_workers_must_be_numbers(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "auto")
    (problem,) = problems(doctor.processes())
    assert problem.text == "nnUNet_n_proc_DA=auto is not a number"


def test_no_workers_at_all_is_worth_a_note(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert not problems(doctor.processes())
    assert any("planning" in finding.text for finding in doctor.processes())


def test_a_search_path_without_our_folder_is_a_problem(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    (problem,) = problems(doctor.discovery())
    assert "is not in nnUNet_extTrainer" in problem.text
    assert 'eval "$(nnunet-plugins env)"' in problem.remedy


def test_a_disabled_start_is_told_from_one_that_failed(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    monkeypatch.setenv("NNUNET_PLUGINS_DISABLE_AUTOLOAD", "1")
    (problem,) = problems(doctor.discovery())
    assert "NNUNET_PLUGINS_DISABLE_AUTOLOAD is set" in problem.text


def test_a_file_of_the_user_that_stops_nnunets_search_is_named(healthy, monkeypatch):
    mine, gone = healthy / "mine", healthy / "gone"
    mine.mkdir()
    (mine / "my_trainer.py").write_text("import a_module_that_is_not_installed")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, (gone, mine, DISCOVERY_FOLDER))))
    findings = list(doctor.discovery())
    assert (findings[0].level, findings[0].text) == ("note", f"nnUNet_extTrainer names {gone}, which is no folder")
    entry, search = problems(findings)
    assert f"nnU-Net's search stops in {mine}" in entry.text
    assert "a_module_that_is_not_installed" in entry.text
    assert "search for DCFFSNetTrainer fails" in search.text


@pytest.mark.parametrize(
    ("place", "text", "summary"),
    [
        ("mine.py", "import a_module_that_is_not_installed", "ModuleNotFoundError: No module named 'a_module_that"),
        ("mine.py", "def", "SyntaxError: "),
        ("mine.py", "raise SystemExit('bye')", "SystemExit: bye"),
        ("mine.py", "from torch import no_such_name", "ImportError: cannot import name"),
        ("package/mine.py", "1 / 0", "ZeroDivisionError: "),
        ("package/mine.py", "from .other import Trainer", "ModuleNotFoundError: "),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_cannot_be_imported_is_named_with_its_file_and_what_it_hides(
    healthy, monkeypatch, place, text, summary, before
):
    file = healthy / "mine" / place
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").touch()
    file.write_text(text)
    entries = [str(healthy / "mine"), DISCOVERY_FOLDER]
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(entries if before else reversed(entries)))
    problem, *others = problems(doctor.discovery())
    assert problem.text.startswith(f"nnU-Net's search stops in {healthy / 'mine'}, an entry of nnUNet_extTrainer, and ")
    assert ("finds none of our trainers: " if before else "finds no trainer of folders behind it: ") in problem.text
    assert summary in problem.text and problem.text.endswith(f" in {file}")
    assert len(others) == before  # our trainers are found if their folder comes first


def test_a_class_of_the_user_with_the_name_of_ours_is_named(healthy, monkeypatch):
    mine = healthy / "mine"
    mine.mkdir()
    (mine / "copy_of_a_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class DCFFSNetTrainer(nnUNetTrainer): ..."
    )
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, (mine, DISCOVERY_FOLDER))))
    (problem,) = problems(doctor.discovery())
    assert problem.text.startswith("nnU-Net finds another DCFFSNetTrainer")
    assert "copy_of_a_trainer" in problem.text


def test_a_trainer_that_cannot_be_imported_does_not_hide_the_others(monkeypatch):
    table = TRAINERS
    broken = table["DCFFSNetTrainer"]._replace(base="no_such_module.Trainer")
    monkeypatch.setitem(table, "BrokenTrainer", broken)
    findings = list(doctor.trainers())
    assert [finding.text.split()[0] for finding in problems(findings)] == ["BrokenTrainer"]
    assert findings[-1].text == f"{len(table) - 1} of {len(table)} trainers can be imported"


@pytest.mark.parametrize(("left", "expected"), [(math.inf, 2048000), (100000, 100000), (9000000, 2048000)])
def test_memory_is_that_of_a_container_if_it_has_less(left, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "memory_left", lambda: left)
    meminfo = tmp_path / "meminfo"
    assert machine.available_memory(meminfo) is None
    meminfo.write_text("MemTotal:  4000 kB\nMemAvailable:  2000 kB\n")
    assert machine.available_memory(meminfo) == expected


def test_little_memory_is_worth_a_note(monkeypatch):
    monkeypatch.setattr(machine, "SMALL_MEMORY", 1e18)
    monkeypatch.setattr(machine, "SMALL_SHARED_MEMORY", 1e18)
    memory, shared = doctor.memory()
    assert memory.level == shared.level == "note"
    assert "may be killed" in memory.text and "nnUNet_n_proc_DA" in memory.remedy
    assert shared.text.startswith("/dev/shm has") and "--shm-size" in shared.remedy


def test_a_limit_of_threads_that_makes_trainings_on_the_cpu_hang_is_a_problem(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr("os.cpu_count", lambda: usable_cores() + 1)
    monkeypatch.setenv("OMP_THREAD_LIMIT", str(usable_cores()))
    problem, *_ = doctor.threads(without_gpu=True)
    assert problem.level == "PROBLEM" and "wait for ever" in problem.text and problem.remedy == "unset OMP_THREAD_LIMIT"
    assert [finding.level for finding in doctor.threads(without_gpu=False)] == ["note"]
    monkeypatch.setenv("OMP_THREAD_LIMIT", str(usable_cores() + 1))
    assert not list(doctor.threads(without_gpu=False))


def test_active_waiting_on_the_cpu_is_worth_a_note(monkeypatch):
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    monkeypatch.setattr("os.cpu_count", usable_cores)
    for policy, level in (("", "note"), ("ACTIVE", "note"), ("PASSIVE", "ok")):
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        (finding,) = doctor.threads(without_gpu=True)
        assert finding.level == level
    assert not list(doctor.threads(without_gpu=False))


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_a_gpu_that_torch_cannot_use_is_a_problem(tmp_path, monkeypatch):
    assert not problems(doctor.gpus())  # a machine without GPU is none
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 470.00\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (problem,) = problems(doctor.gpus())
    assert "driver 470.00" in problem.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not problems(doctor.gpus())


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "note"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "note"),
        (RuntimeError("CUDA error: no kernel image is available"), "PROBLEM"),
    ],
)
def test_a_gpu_that_others_use_is_no_problem(monkeypatch, error, level):
    def ones(*_, **__):
        raise error

    monkeypatch.setattr(torch, "ones", ones)
    finding = cuda_device(0, "torch")
    assert finding.level == level
    assert finding.remedy.startswith("nvidia-smi shows" if level == "note" else "install a torch")
