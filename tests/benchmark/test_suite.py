"""Proves that a suite file is read completely, and names trainers, patients and folds as nnU-Net does."""

from dataclasses import replace

import pytest
from support.suite_files import TOP, lines

from nnunet_plugins.benchmark.suite import BadSuite, Data, Resources, Suite, read_suite
from nnunet_plugins.trainers import find_trainer

MINIMAL = Suite("cells", ("A", "B"), "A", 100, (Data(501),))

COMPLETE = """
name = "cells_2026.1-b"
trainers = ["nnUNetTrainer", "DCFFSNetTrainer", "DLKUNetTrainer"]
reference = "nnUNetTrainer"
epochs = 200
iterations = 100
gpu_memory_gb = 24
folds = [0, 2]
repeats = 3
epochs_of = { DCFFSNetTrainer = 150, DLKUNetTrainer = 1 }

[[datasets]]
id = 1
configurations = ["2d", "3d_fullres"]
plans = "nnUNetResEncUNetMPlans"
tolerance = 2
cluster_regex = "^(P\\\\d+)_"
test = true
external = 2
trainers = ["DCFFSNetTrainer", "nnUNetTrainer"]

[[datasets]]
id = 999

[resources]
device = "cpu"
cpus = 4
memory_gb = 16
hours = 1.5
retries = 0
slurm_partition = "gpu"
slurm_account = "lab"
slurm_extra = "--requeue"
slurm_constraint = "a100"
slurm_qos = "long"
slurm_gpu = "a100"
slurm_jobs = 20
"""


def test_complete_suite_is_read_completely(tmp_path):
    path = tmp_path / "complete.toml"
    path.write_text(COMPLETE)
    suite = read_suite(path)
    assert suite == Suite(
        name="cells_2026.1-b",
        trainers=("nnUNetTrainer", "DCFFSNetTrainer", "DLKUNetTrainer"),
        reference="nnUNetTrainer",
        epochs=200,
        iterations=100,
        gpu_memory_gb=24.0,
        folds=(0, 2),
        repeats=3,
        epochs_of=(("DCFFSNetTrainer", 150), ("DLKUNetTrainer", 1)),
        datasets=(
            Data(
                id=1,
                configurations=("2d", "3d_fullres"),
                plans="nnUNetResEncUNetMPlans",
                tolerance=2.0,
                cluster_regex=r"^(P\d+)_",
                test=True,
                external=2,
                trainers=("DCFFSNetTrainer", "nnUNetTrainer"),
            ),
            Data(id=999),
        ),
        resources=Resources("cpu", 4, 16, 1.5, 0, "gpu", "lab", "a100", "long", "a100", "--requeue", 20),
    )
    assert type(suite.datasets[0].tolerance) is float


def test_missing_keys_have_sensible_defaults(short_suite):
    suite = read_suite(short_suite())
    assert suite == MINIMAL and hash(suite) == hash(MINIMAL)  # a key: nobody can change it
    assert (suite.iterations, suite.folds, suite.repeats) == (None, (0, 1, 2, 3, 4), 1)
    assert suite.datasets == (Data(501, ("2d",), "nnUNetPlans", 1.0, "", False, ()),)
    assert suite.resources == Resources("cuda", 8, 32, 24.0, 2, "", "", "", "", "", "", 100)


def test_tables_can_be_written_inline(tmp_path):
    path = tmp_path / "inline.toml"
    path.write_text(lines(TOP | {"datasets": "[{id = 501}]", "resources": "{cpus = 2}"}))
    assert read_suite(path).datasets == (Data(501),) and read_suite(path).resources == Resources(cpus=2)
    path.write_text(lines(TOP | {"datasets": "[{id = 501}]"}))
    assert read_suite(path).resources == Resources()


EDGES = [
    *(("", key, value) for key in ("epochs", "iterations", "repeats") for value in ("1", "999999999")),
    *(("datasets[0].", "id", value) for value in ("1", "999")),
    *(("datasets[0].", "tolerance", value) for value in ("0", "0.0", "1e9")),
    *(("resources.", "device", value) for value in ("'cuda'", "'cpu'", "'mps'")),
    *(("resources.", key, "1") for key in ("cpus", "memory_gb", "hours")),
    ("resources.", "hours", "0.01"),
    ("resources.", "retries", "0"),
    ("", "folds", "[0]"),
    ("", "folds", "[7, 0]"),
    ("", "name", "'9'"),
    ("", "trainers", "['A']"),
    ("", "trainers", "['A_1epoch_more', 'A', 'A_epochs', 'A10epochs', 'A_1500ep']"),
    ("datasets[0].", "configurations", "['2d', '3d_fullres', '3d_lowres', '2d_bs-4.x']"),
    ("datasets[0].", "trainers", "['A']"),
    ("datasets[0].", "trainers", "[]"),
]


@pytest.mark.parametrize(("section", "key", "value"), EDGES)
def test_extreme_values_are_read(short_suite, section, key, value):
    assert read_suite(short_suite(section, key, value)).name


# ---- what a suite answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "iterations", "ending"),
    [
        (1, None, "_1epoch"),
        (2, None, "_2epochs"),
        (1000, None, "_1000epochs"),
        (1, 1, "_1epoch_1iterations"),
        (10, 50, "_10epochs_50iterations"),
        (999_999_999, 999_999_999, "_999999999epochs_999999999iterations"),
    ],
)
def test_name_of_a_trainer_is_one_that_nnunet_finds(epochs, iterations, ending):
    suite = replace(MINIMAL, epochs=epochs, iterations=iterations)
    others = replace(suite, epochs=7, epochs_of=(("nnUNetTrainer@Mine", epochs), ("DCFFSNetTrainer_woDS", epochs)))
    for trainer in ("nnUNetTrainer", "DCFFSNetTrainer_woDS"):
        name = suite.trainer_name(trainer)
        assert name == trainer + ending == others.trainer_name(trainer.replace("nnUNetTrainer", "nnUNetTrainer@Mine"))
        assert find_trainer(name).__name__ == name


def test_trainers_of_a_dataset_are_its_own_or_all_in_the_order_of_the_suite():
    some, others = Data(1, trainers=("C", "A")), Data(2)
    suite = replace(MINIMAL, trainers=("A", "B", "C"), datasets=(some, others))
    assert suite.trainers_of(some) == ("A", "C") and suite.trainers_of(others) == ("A", "B", "C")
    assert suite.data(1) is some and suite.data(2) is others


@pytest.mark.parametrize(
    ("expression", "case", "patient"),
    [
        ("", "P01_slice3", "P01_slice3"),
        (r"P\d+", "site_P01_slice3", "P01"),
        (r"_(P\d+)_", "site_P01_slice3", "P01"),
        (r"^(\w+?)_(P\d+)", "site_P01_slice3", "site"),
        (r"(?:site|lab)_P\d+", "lab_P01_slice3", "lab_P01"),
    ],
)
def test_patient_is_the_first_group_or_all_that_matches(expression, case, patient):
    assert Data(501, cluster_regex=expression).cluster(case) == patient


@pytest.mark.parametrize("expression", [r"^P\d+", r"(P\d+)?site", r"\d*"])
def test_case_without_a_patient_is_refused(expression):
    with pytest.raises(BadSuite) as error:
        Data(501, cluster_regex=expression).cluster("site_7")
    message = str(error.value)
    assert "501" in message and f"cluster_regex {expression!r}" in message and "'site_7'" in message
    assert "correct the expression" in message and "leave the key out" in message and "\n" not in message
