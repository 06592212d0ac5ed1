"""Proves: every name of the table, with any length, is a class that behaves like one from a file."""

import contextlib
import pickle
from inspect import getattr_static, signature

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins import trainers
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.trainers import TRAINERS, find_trainer

names = st.sampled_from(sorted(TRAINERS))
numbers = st.integers(1, 10**9 - 1)


def epochs_suffix(epochs: int) -> str:
    return f"_{epochs}epoch{'s' * (epochs > 1)}"


@given(names, numbers)
def test_any_number_of_epochs_can_be_asked_for(name, epochs):
    trainer = find_trainer(name + epochs_suffix(epochs))
    assert trainer.num_epochs == epochs
    assert issubclass(trainer, nnUNetTrainer)


@given(names, numbers)
def test_any_number_of_iterations_can_be_asked_for_and_a_fifth_validates(name, iterations):
    trainer = find_trainer(f"{name}_{iterations}iterations")
    assert trainer.num_iterations_per_epoch == iterations
    assert iterations <= 5 * trainer.num_val_iterations_per_epoch < iterations + 5
    assert not hasattr(trainer, "num_epochs")


@given(names, numbers, numbers)
def test_a_length_changes_nothing_else(name, epochs, iterations):
    trainer = find_trainer(f"{name}{epochs_suffix(epochs)}_{iterations}iterations")
    base = getattr(trainers, name)
    public = {attribute for attribute in dir(trainer) if not attribute.startswith("__")}
    changed = {a for a in public if getattr_static(trainer, a) is not getattr_static(base, a, None)}
    assert changed == {"num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch"}


@given(names, numbers, numbers)
def test_a_class_bears_its_name_and_is_always_the_same_object(name, epochs, iterations):
    full_name = f"{name}{epochs_suffix(epochs)}_{iterations}iterations"
    trainer = find_trainer(full_name)
    assert trainer.__name__ == trainer.__qualname__ == full_name  # nnU-Net names its folders and checkpoints by it
    assert trainer is find_trainer(full_name) is getattr(trainers, full_name) is pickle.loads(pickle.dumps(trainer))


@pytest.mark.parametrize("name", TRAINERS)
def test_rows_of_the_table_bear_their_name_and_have_its_attributes(name):
    trainer = find_trainer(name)
    assert trainer.__name__ == name
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    for attribute, value in TRAINERS[name].overrides.items():
        assert getattr(trainer, attribute) == value


def test_a_row_with_a_misspelt_attribute_is_refused():
    row = TRAINERS["DCSNetTrainer_earlyStop"]._replace(overrides={"early_stoping_patience": 20})
    message = "DCSNetTrainer_earlyStop sets early_stoping_patience, which DCSNetTrainer does not have"
    with pytest.raises(AssertionError, match=message):
        trainers.class_of(row)


@pytest.mark.parametrize(
    "suffix",
    [
        "_0epochs", "_0epoch", "_1epochs", "_2epoch", "_05epochs", "_-5epochs", "_5.5epochs", "_5Epochs", "_epochs",
        "_0iterations", "_02iterations", "_iterations", "_2iterations_5epochs", "_5epochs_5epochs", "_5epochs_",
        "_5epochs\n", " ", "_", "__", "_unknown", "_unknown_5epochs",
    ],
)  # fmt: skip
def test_other_suffixes_are_refused(suffix):
    with pytest.raises(AttributeError, match="has no trainer"):
        find_trainer("DCFFSNetTrainer" + suffix)


@pytest.mark.parametrize(
    "name",
    [
        "", "nnUNetTrainer", "DCFFSNet", "dcffsnettrainer", "find_trainer", "_5epochs", "Unknown_5epochs",
        "nnUNetTrainer_2epochs_5epochs", "find_trainer_5epochs",
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_and_without_a_length(name):
    with pytest.raises(AttributeError, match="has no trainer"):
        find_trainer(name)


@given(names | st.just(""), st.text())
def test_no_text_leads_to_another_error(name, text):
    with contextlib.suppress(AttributeError):
        find_trainer(name + text)


LENGTHS = st.tuples(numbers, numbers)


@given(st.sampled_from(["nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainer_250epochs_NoMirroring"]), LENGTHS)
def test_trainers_of_nnunet_can_be_asked_for_in_any_length(name, length):
    full_name = f"{name}{epochs_suffix(length[0])}_{length[1]}iterations"
    trainer = find_trainer(full_name)
    assert trainer.__name__ == trainer.__qualname__ == full_name
    assert trainer is find_trainer(full_name) is pickle.loads(pickle.dumps(trainer))
    assert issubclass(trainer, nnUNetTrainer) and name in {base.__name__ for base in trainer.__mro__}
    assert signature(trainer) == signature(nnUNetTrainer)


def test_a_trainer_of_nnunet_in_another_length_trains_that_long_and_is_found_by_nnunet(planned, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY_FOLDER)
    trainer = make_trainer("nnUNetTrainer_7epochs_11iterations", LABELS)
    assert type(trainer) is find_trainer("nnUNetTrainer_7epochs_11iterations")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (7, 11, 3)
    assert trainer.my_init_kwargs.keys() == signature(nnUNetTrainer).parameters.keys()
