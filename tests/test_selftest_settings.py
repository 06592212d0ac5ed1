"""Proves: the processes of the self-test, which run in a folder of their own, have the user's settings all the same."""

import os

from nnunet_plugins.architectures.layers.encoders import WEIGHTS_FOLDER_VARIABLE
from nnunet_plugins.selftest.command import environment_of
from nnunet_plugins.trainers.condseg import STAGE_1_VARIABLE


def test_relative_paths_among_the_users_settings_stay_those_of_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "nnUNet_extTrainer": f"mine{os.pathsep}/theirs",
        WEIGHTS_FOLDER_VARIABLE: "weights",
        STAGE_1_VARIABLE: "a/b",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = environment_of(tmp_path / "elsewhere")
    assert found["nnUNet_extTrainer"].split(os.pathsep)[:2] == [str(tmp_path / "mine"), "/theirs"]
    assert (found[WEIGHTS_FOLDER_VARIABLE], found[STAGE_1_VARIABLE]) == (
        str(tmp_path / "weights"),
        str(tmp_path / "a/b"),
    )
