"""Proves: the doctor tells nnU-Net's folders that can be used, that will be made, and that cannot be used."""

import os

import pytest
from support.findings import problems

from nnunet_plugins import doctor


@pytest.mark.parametrize(("value", "remedy"), [("~/data", "write $HOME instead"), ('"/data"', "takes them away")])
def test_a_folder_that_no_shell_has_expanded_is_told_with_its_own_remedy(healthy, monkeypatch, value, remedy):
    monkeypatch.setenv("nnUNet_results", value)
    (problem,) = problems(doctor.folders(minimum_free=0))
    assert value in problem.text + problem.remedy and problem.remedy.endswith(remedy)


def test_folders_must_be_set_and_folders(healthy, monkeypatch):
    (healthy / "file").touch()
    monkeypatch.setenv("nnUNet_raw", "")
    monkeypatch.setenv("nnUNet_results", str(healthy / "file"))
    unset, file = problems(doctor.folders(minimum_free=0))
    assert unset.text == "nnUNet_raw is not set, but others are"
    assert file.text == f"nnUNet_results={healthy / 'file'} is no folder"


def test_folders_that_the_first_command_will_make_are_no_problem(healthy, monkeypatch):
    monkeypatch.chdir(healthy)
    for later in ("not made yet", str(healthy / "deep" / "down")):
        monkeypatch.setenv("nnUNet_results", later)
        *_, results = doctor.folders(minimum_free=0)
        assert results == ("note", f"nnUNet_results={later} is not there yet", results.remedy)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a folder in which not even root can write")
def test_folders_must_be_writable_except_for_the_raw_data(healthy, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, "/proc")
    _, raw, preprocessed, results = doctor.folders(minimum_free=0)
    assert (raw.level, preprocessed.level, results.level) == ("note", "PROBLEM", "ok")
    assert "nnUNet_preprocessed=/proc is not writable" in preprocessed.text
    monkeypatch.setenv("nnUNet_results", "/proc/typo/results")
    *_, results = doctor.folders(minimum_free=0)
    assert results.text == "nnUNet_results=/proc/typo/results is not there, and /proc is not writable"


def test_writing_leaves_nothing_behind(healthy):
    assert not problems(doctor.folders(minimum_free=0))
    assert not list((healthy / "nnUNet_results").iterdir())


def test_a_full_disk_is_a_problem(healthy):
    assert len(problems(doctor.folders(minimum_free=1e18))) == 3
    (problem,) = problems(doctor.folders(minimum_free=0, minimum_temporary=1e18))
    assert "temporary files" in problem.text and "TMPDIR" in problem.remedy
