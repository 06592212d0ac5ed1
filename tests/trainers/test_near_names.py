"""Proves: a misspelt name is answered with the one that was meant, but only if no other package can have it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as nnunet_finds

from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import TRAINERS, find_trainer
from nnunet_plugins.trainers.near_names import UnknownTrainer, near_name

MISSPELT = {
    "DCFFSNetTrainr": "DCFFSNetTrainer",
    "dcffsnettrainer": "DCFFSNetTrainer",
    "CONDSEG_pretrained": "ConDSegTrainer_pretrained",
    "MedFusionTransNet": "MedFusionTransNetTrainer",
    "DCFFSNetTrainer_2epoch": "DCFFSNetTrainer_2epochs",
    "DCFFSNetTrainer_1epochs": "DCFFSNetTrainer_1epoch",
    "DCFFSNetTrainer_02epochs": "DCFFSNetTrainer_2epochs",
    "DCFFSNetTrainer_5iterations_2epochs": "DCFFSNetTrainer_2epochs_5iterations",
    "DCFFSNetTrainer_100epochs_pretrained": "DCFFSNetTrainer_pretrained_100epochs",
    "DCSNetTrainer_earlystop_5": "DCSNetTrainer_earlyStop5",
    "DLKUNetTrainer_dynamicloss_5epochs": "DLKUNetTrainer_dynamicLoss_5epochs",
    "nnUNetTrainr_7epochs": "nnUNetTrainer_7epochs",
}


@pytest.fixture
def search_path(monkeypatch):
    def set_to(*folders):
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, folders)))

    set_to(DISCOVERY_FOLDER)
    return set_to


@pytest.fixture
def theirs(tmp_path):
    """A folder of another package, whose trainer is called almost as one of ours."""
    (tmp_path / "their_trainers.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class DCFFSNetTrainr(nnUNetTrainer): ..."
    )
    return tmp_path


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(search_path, name):
    with pytest.raises(UnknownTrainer, match=rf"^There is no trainer {name}: did you mean {MISSPELT[name]}\? '"):
        nnunet_finds(name)
    assert issubclass(UnknownTrainer, UserError) and issubclass(UnknownTrainer, RuntimeError)


@pytest.mark.parametrize("name", ["SomebodysTrainer", "SwinUNETRTrainer_5epoch", "DCFFSNetTrainer_0epochs", "x"])
def test_a_name_unlike_any_other_is_left_to_nnunet(search_path, name):
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer") as error:
        nnunet_finds(name)
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_package_may_call_its_trainer_almost_as_we_do(search_path, theirs, ours_first):
    folders = [DISCOVERY_FOLDER, theirs]
    search_path(*(folders if ours_first else reversed(folders)))
    assert nnunet_finds("DCFFSNetTrainr").__name__ == "DCFFSNetTrainr"
    assert nnunet_finds("DCFFSNetTrainr_3epochs").__name__ == "DCFFSNetTrainr_3epochs"


def test_nnunet_has_the_last_word_if_folders_follow_ours(search_path, theirs):
    search_path(DISCOVERY_FOLDER, theirs, "", "/no/such/folder")
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        nnunet_finds("DCFFSNetTrainer_2epoch")
    search_path(theirs, DISCOVERY_FOLDER + os.sep, "", "/no/such/folder")
    with pytest.raises(UnknownTrainer, match="did you mean DCFFSNetTrainer_2epochs"):
        nnunet_finds("DCFFSNetTrainer_2epoch")


def test_the_package_itself_has_no_trainer_of_a_misspelt_name(search_path):
    for name in MISSPELT:
        with pytest.raises(AttributeError, match="has no trainer"):
            find_trainer(name)


@given(st.sampled_from(sorted(TRAINERS)), st.integers(1, 10**9 - 1))
def test_a_right_name_is_its_own_nearest(name, number):
    for suffix in ("", "_pretrained", f"_earlyStop{number}", f"_{number}iterations"):
        assert near_name(name + suffix) == name + suffix


@given(st.text())
def test_any_text_has_a_nearest_name_or_none(text):
    near = near_name(text)
    assert near is None or near.startswith(("nnUNetTrainer", *TRAINERS))
