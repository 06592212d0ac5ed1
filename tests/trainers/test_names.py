"""Proves: every name of the table, with any suffixes, is a class that behaves like one from a file."""

import contextlib
import os
import pickle
from inspect import getattr_static, signature
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins import trainers
from nnunet_plugins._startup import DISCOVERY_FOLDER
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import TRAINERS, find_trainer
from nnunet_plugins.trainers.early_stopping import EarlyStopping

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


# ---- ImageNet weights and early stopping -----------------------------------------------------------------------------

WITH_TIMM_ENCODER = [
    name
    for name in TRAINERS
    if name.startswith(("DCFFSNet", "ConDSeg", "DCSNet", "TimmUNet")) and name != "ConDSegTrainer_stage2"
]


@pytest.mark.parametrize("name", WITH_TIMM_ENCODER)
def test_every_trainer_with_an_encoder_from_timm_can_be_pretrained(name):
    trainer = find_trainer(f"{name}_pretrained")
    assert trainer.pretrained and not find_trainer(name).pretrained
    assert issubclass(trainer, find_trainer(name)) and trainer.__name__ == f"{name}_pretrained"
    assert any(child == "encoder" for child in names_of_modules(trainer.reference_network()))


def names_of_modules(network):
    return {name.rpartition(".")[2] for name, _ in network.named_modules()}


@pytest.mark.parametrize("name", sorted({*TRAINERS} - {*WITH_TIMM_ENCODER}))
def test_every_other_trainer_says_that_it_cannot_be_pretrained(name):
    reason = "its network has no encoder from timm"
    if name == "ConDSegTrainer_stage2":
        reason = "its encoder comes from stage 1: let that be ConDSegNet0Trainer_pretrained"
    elif name == "DRGOTrainer":
        reason = "it is no trainer of nnunet_plugins with an encoder from timm"
    with pytest.raises(UserError, match=f"^{name}_pretrained: {name} cannot start from ImageNet weights, for {reason}"):
        find_trainer(f"{name}_pretrained")


@given(st.sampled_from(WITH_TIMM_ENCODER), numbers, numbers, numbers)
def test_all_suffixes_go_together_in_one_order(name, patience, epochs, iterations):
    parts = ["_pretrained", f"_earlyStop{patience}", epochs_suffix(epochs), f"_{iterations}iterations"]
    trainer = find_trainer(name + "".join(parts))
    assert (trainer.pretrained, trainer.early_stopping_patience) == (True, patience)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (epochs, iterations)
    assert trainer.mro()[1] is find_trainer(name)
    for first, second in pairwise(parts):
        with pytest.raises(AttributeError, match="has no trainer"):
            find_trainer(name + second + first)


@given(names | st.sampled_from(["nnUNetTrainer", "nnUNetTrainerNoMirroring"]), numbers)
def test_any_trainer_can_stop_early(name, patience):
    trainer = find_trainer(f"{name}_earlyStop{patience}")
    assert issubclass(trainer, EarlyStopping) and trainer.__name__ == f"{name}_earlyStop{patience}"


def test_trainers_of_nnunet_cannot_be_pretrained():
    with pytest.raises(
        UserError, match="nnUNetTrainer cannot start from ImageNet weights, for it is no trainer of nnu"
    ):
        find_trainer("nnUNetTrainer_pretrained")


OWN = """
from nnunet_plugins.trainers.dcffsnet import DCFFSNetTrainer

class Mine(DCFFSNetTrainer):
    pass

class Theirs_pretrained(DCFFSNetTrainer):
    pass
"""


def test_trainers_of_others_can_be_pretrained_or_be_called_so(monkeypatch, tmp_path, planned):
    (tmp_path / "own_trainers.py").write_text(OWN)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), DISCOVERY_FOLDER]))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    mine, theirs = (make_trainer(f"{name}_pretrained_7epochs", LABELS) for name in ("Mine", "Theirs"))
    assert (mine.pretrained, mine.num_epochs) == (True, 7)
    assert (theirs.pretrained, theirs.num_epochs) == (False, 7)


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
        "_5epochs\n", "_earlyStop0", "_earlyStop", "_earlystop5", "_Pretrained", "_pretrained_pretrained",
        "_earlyStop5_earlyStop6", " ", "_", "__", "_unknown", "_unknown_5epochs",
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
