"""Proves: a suite file is read completely, and every bad value is refused in one sentence that helps."""

import os
import subprocess
import sys
from dataclasses import MISSING, fields, replace

import pytest

from nnunet_plugins.benchmark.suite import BadSuite, Data, Resources, Suite, read_suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import find_trainer

TOP = {"name": "'cells'", "trainers": "['A', 'B']", "reference": "'A'", "epochs": "100"}
MINIMAL = Suite("cells", ("A", "B"), "A", 100, (Data(501),))

COMPLETE = """
name = "cells_2026.1-b"
trainers = ["nnUNetTrainer", "DCFFSNetTrainer", "DLKUNetTrainer"]
reference = "nnUNetTrainer"
epochs = 200
iterations = 100
folds = [0, 2]
repeats = 3

[[datasets]]
id = 1
configurations = ["2d", "3d_fullres"]
plans = "nnUNetResEncUNetMPlans"
tolerance = 2
cluster_regex = "^(P\\\\d+)_"
test = true
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
slurm_extra = "--constraint=a100"
"""


def lines(table):
    return "".join(f"{key} = {value}\n" for key, value in table.items() if value is not None)


@pytest.fixture
def suite_file(tmp_path):
    """``suite_file(section, key, value)``: a short valid suite, but for one value (as TOML; None: left out)."""

    def write(section="", key="", value=None):
        parts = {"": TOP, "datasets[0].": {"id": "501"}, "resources.": {}}
        if key:
            parts[section] = parts[section] | {key: value}
        top, data, resources = map(lines, parts.values())
        path = tmp_path / "cells.toml"
        path.write_text(f"{top}\n[[datasets]]\n{data}\n[resources]\n{resources}", encoding="utf-8")
        return path

    return write


def refusal(path):
    with pytest.raises(BadSuite) as error:
        read_suite(path)
    message = str(error.value)
    assert isinstance(error.value, UserError) and "\n" not in message
    assert message.startswith(str(path)) and message.count(str(path)) == 1
    return message.removeprefix(str(path))


# ---- what is read ----------------------------------------------------------------------------------------------------


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
        folds=(0, 2),
        repeats=3,
        datasets=(
            Data(
                id=1,
                configurations=("2d", "3d_fullres"),
                plans="nnUNetResEncUNetMPlans",
                tolerance=2.0,
                cluster_regex=r"^(P\d+)_",
                test=True,
                trainers=("DCFFSNetTrainer", "nnUNetTrainer"),
            ),
            Data(id=999),
        ),
        resources=Resources("cpu", 4, 16, 1.5, 0, "gpu", "lab", "--constraint=a100"),
    )
    assert type(suite.datasets[0].tolerance) is float


def test_what_is_left_out_has_sensible_values(suite_file):
    suite = read_suite(suite_file())
    assert suite == MINIMAL and hash(suite) == hash(MINIMAL)  # a key: nobody can change it
    assert (suite.iterations, suite.folds, suite.repeats) == (None, (0, 1, 2, 3, 4), 1)
    assert suite.datasets == (Data(501, ("2d",), "nnUNetPlans", 1.0, "", False, ()),)
    assert suite.resources == Resources("cuda", 8, 32, 24.0, 2, "", "", "")


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
def test_extreme_values_are_read(suite_file, section, key, value):
    assert read_suite(suite_file(section, key, value)).name


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_suite_that_cannot_be_read_is_refused(tmp_path):
    assert refusal(tmp_path / "none") == " cannot be read (No such file or directory): give the path of a suite file"
    assert refusal(tmp_path) == " cannot be read (Is a directory): give the path of a suite file"
    path = tmp_path / "latin.toml"
    path.write_bytes("name = 'Zürich'".encode("latin-1"))
    assert refusal(path) == " cannot be read (it is not UTF-8 text): give the path of a suite file"
    path.write_text("name: cells\n")
    assert refusal(path).startswith(" is not TOML (") and "line 1" in refusal(path)
    assert refusal(path).endswith(": see suites for examples")


def test_suite_is_read_as_utf_8_whatever_the_machine_prefers(suite_file):
    path = suite_file("resources.", "slurm_account", "'Zürich'")
    read = (
        "import sys, pathlib; from nnunet_plugins.benchmark import suite; suite.read_suite(pathlib.Path(sys.argv[1]))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", read, path], env=os.environ | ascii_only, check=True)


DATASETS, RESOURCES = (
    "at least one [[datasets]] with an id, e.g. id = 501",
    "a table, [resources], with keys such as cpus",
)


@pytest.mark.parametrize(
    ("key", "value", "shown", "expected"),
    [
        ("datasets", "[]", "[]", DATASETS),
        ("datasets", "501", "501", DATASETS),
        ("datasets", "[501]", "[501]", DATASETS),
        ("datasets", "{id = 501}", "{'id': 501}", DATASETS),
        ("resources", "8", "8", RESOURCES),
        ("resources", "'cuda'", "'cuda'", RESOURCES),
        ("resources", "[{cpus = 8}]", "[{'cpus': 8}]", RESOURCES),
    ],
)
def test_table_that_is_none_is_refused(tmp_path, key, value, shown, expected):
    path = tmp_path / "cells.toml"
    path.write_text(lines(TOP | {"datasets": "[{id = 501}]"} | {key: value}))
    assert refusal(path) == f": {key} = {shown}: expected {expected}"


def test_suite_without_datasets_is_refused(tmp_path):
    path = tmp_path / "cells.toml"
    path.write_text(lines(TOP))
    assert refusal(path) == f": datasets: expected {DATASETS}"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (section, f.name)
        for section, record in (("", Suite), ("datasets[0].", Data))
        for f in fields(record)
        if f.default is MISSING and f.default_factory is MISSING and f.name != "datasets"
    ],
)
def test_missing_key_is_refused(suite_file, section, key):
    expected = f": {section}{key} is missing: add it, as the examples in suites do"
    assert refusal(suite_file(section, key, None)) == expected


def test_missing_key_of_a_further_dataset_is_refused(suite_file):
    path = suite_file()
    path.write_text(path.read_text() + "\n[[datasets]]\nplans = 'X'\n")
    assert refusal(path).startswith(": datasets[1].id is missing")


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("", "epoch", "did you mean epochs?"),
        ("", "trainer", "did you mean trainers?"),
        ("", "resource", "did you mean resources?"),
        ("datasets[0].", "configuration", "did you mean configurations?"),
        ("datasets[0].", "epochs", f"the keys here are {', '.join(f.name for f in fields(Data))}"),
        ("resources.", "retry", "did you mean retries?"),
        ("resources.", "slurm_", "did you mean slurm_extra or slurm_account?"),
        ("resources.", "gpus", "did you mean cpus?"),
        ("resources.", "x", f"the keys here are {', '.join(f.name for f in fields(Resources))}"),
    ],
)
def test_unknown_key_is_refused_with_the_one_that_was_meant(suite_file, section, key, hint):
    assert refusal(suite_file(section, key, "1")) == f": {section}{key}: there is no such key; {hint}"


WORDS = {
    int: ("a whole number", ["true", "1.0", "'1'", "[1]"]),
    int | None: ("a whole number", ["true", "1.0", "'1'", "[1]"]),
    float: ("a number", ["true", "'1'", "[1.0]", "{x = 1}"]),
    bool: ("true or false", ["1", "0", "'yes'"]),
    str: ("text in quotes", ["1", "true", "['a']", "1979-05-27"]),
    tuple[str, ...]: ("a list of texts in quotes", ["'A'", "1", "[1]", "['A', 1]", "['A', true]", "[['A']]"]),
    tuple[int, ...]: ("a list of whole numbers", ["0", "'0'", "['0']", "[0, true]", "[0, 1.0]", "{x = 0}"]),
}
OF_A_TYPE = [
    (section, f.name, f.type)
    for section, record in (("", Suite), ("datasets[0].", Data), ("resources.", Resources))
    for f in fields(record)
    if f.name not in ("datasets", "resources")
]


@pytest.mark.parametrize(("section", "key", "kind"), OF_A_TYPE)
def test_value_of_another_type_is_refused(suite_file, section, key, kind):
    words, values = WORDS[kind]
    for value in values:
        message = refusal(suite_file(section, key, value))
        assert message.startswith(f": {section}{key} = ") and message.endswith(f": expected {words}")
        shown = message.removeprefix(f": {section}{key} = ").removesuffix(f": expected {words}")
        assert shown == {"1979-05-27": "datetime.date(1979, 5, 27)"}.get(
            value, value.replace("true", "True").replace("x = ", "'x': ")
        )


IN_A_FOLDER = "it becomes a folder: use letters, digits, '_', '-' and '.'"
AS_FOR_TRAIN = "expected a name as for nnUNetv2_train"
NO_TRAINER = "this is no name of a trainer; 'nnunet-plugins list' prints ours"
NO_LENGTH = "leave the length out of the name: epochs and iterations set it for all"
TWICE = "it is named twice: remove one"
IN_MM = "expected a distance in mm (pixels where images have no spacing)"
ABOVE_0 = "expected a number above 0"
FROM_0 = "expected fold numbers from 0, e.g. [0, 1, 2, 3, 4]"
DATA = "datasets[0]."
REFUSED = [  # section, key, value; what the message shows of it, and what it says
    *(("", "name", name, name, IN_A_FOLDER) for name in ("''", "'..'", "'a/b'", "'/tmp'", "'.hidden'", "'a b'")),
    ("", "name", r"'a\b'", r"'a\\b'", IN_A_FOLDER),
    ("", "name", r'"a\n"', r"'a\n'", IN_A_FOLDER),
    ("", "trainers", "[]", "[]", "name at least one trainer, e.g. 'nnUNetTrainer'"),
    ("", "trainers", "['A', 'B', 'A']", "'A'", TWICE),
    ("", "trainers", "['A', 'a/b']", "'a/b'", NO_TRAINER),
    ("", "trainers", "['A', '']", "''", NO_TRAINER),
    *(
        ("", "trainers", f"['A', 'B{length}']", f"'B{length}'", NO_LENGTH)
        for length in ("_1epoch", "_100epochs", "_5iterations", "_2epochs_5iterations")
    ),
    ("", "reference", "'C'", "'C'", "it must be one of trainers: A, B"),
    ("", "reference", "''", "''", "it must be one of trainers: A, B"),
    *(("", key, value, value, "from 1") for key in ("epochs", "iterations", "repeats") for value in ("0", "-1")),
    *(("", key, "1000000000", "1000000000", "999") for key in ("epochs", "iterations", "repeats")),
    ("", "folds", "[]", "[]", FROM_0),
    ("", "folds", "[0, -1]", "[0, -1]", FROM_0),
    ("", "folds", "[0, 1, 0]", "0", TWICE),
    *((DATA, "id", value, value, "nnU-Net's datasets have numbers from 1 to 999") for value in ("0", "-1", "1000")),
    (DATA, "configurations", "[]", "[]", "name at least one, e.g. ['2d']"),
    (DATA, "configurations", "['2d', '2d']", "'2d'", TWICE),
    (DATA, "configurations", "['2d', '../2d']", "'../2d'", AS_FOR_TRAIN),
    (DATA, "configurations", "['']", "''", AS_FOR_TRAIN),
    (
        *(DATA, "configurations", "['2d', '3d_cascade_fullres']", "'3d_cascade_fullres'"),
        "the cascade needs all folds of 3d_lowres first: not supported",
    ),
    (DATA, "plans", "''", "''", AS_FOR_TRAIN),
    (DATA, "plans", "'a/b'", "'a/b'", AS_FOR_TRAIN),
    *((DATA, "tolerance", value, value, IN_MM) for value in ("-1.0", "nan", "inf", "-inf")),
    (DATA, "tolerance", "-1", "-1.0", IN_MM),
    (DATA, "cluster_regex", "'('", "'('", "this is no regular expression (missing ), unterminated subpattern"),
    (DATA, "cluster_regex", "'[a'", "'[a'", ": correct it"),
    (DATA, "cluster_regex", "'a{9999999999}'", "'a{9999999999}'", "this is no regular expression"),
    (DATA, "trainers", "['A', 'C']", "'C'", "it must be one of the suite's trainers too"),
    (DATA, "trainers", "['B']", "['B']", "the reference, A, must be among them"),
    (DATA, "trainers", "['A', 'B', 'B']", "'B'", TWICE),
    ("resources.", "device", "'gpu'", "'gpu'", "expected 'cuda', 'cpu' or 'mps'"),
    *(("resources.", key, value, value, ABOVE_0) for key in ("cpus", "memory_gb") for value in ("0", "-8")),
    *(("resources.", "hours", value, value, ABOVE_0) for value in ("0.0", "nan", "-1.5", "-inf")),
    ("resources.", "hours", "inf", "inf", "expected"),
    ("resources.", "retries", "-1", "-1", "expected 0 or more"),
]


@pytest.mark.parametrize(("section", "key", "value", "shown", "remedy"), REFUSED)
def test_bad_value_is_refused_with_file_key_value_and_remedy(suite_file, section, key, value, shown, remedy):
    message = refusal(suite_file(section, key, value))
    assert message.startswith(f": {section}{key} = {shown}: ") and remedy in message


@pytest.mark.parametrize(("section", "key"), [("datasets[0].", "tolerance"), ("resources.", "hours")])
def test_number_that_no_float_can_hold_is_refused(suite_file, section, key):
    assert refusal(suite_file(section, key, "1" + 400 * "0")).startswith(f": {section}{key} = ")


def test_dataset_named_twice_is_refused(suite_file):
    path = suite_file()
    path.write_text(path.read_text() + "\n[[datasets]]\nid = 2\n[[datasets]]\nid = 501\n")
    assert refusal(path) == f": datasets = 501: {TWICE}"


def test_bad_value_of_a_further_dataset_is_refused(suite_file):
    path = suite_file()
    path.write_text(path.read_text() + "\n[[datasets]]\nid = 2\ntolerance = -1.0\n")
    assert refusal(path).startswith(": datasets[1].tolerance = -1.0: ")


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
    for trainer in ("nnUNetTrainer", "DCFFSNetTrainer_woDS"):
        name = suite.trainer_name(trainer)
        assert name == trainer + ending
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
