"""Proves that every bad value of a suite file is refused in one sentence with file, key, value and remedy."""

import os
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
from support.suite_files import TOP, lines

from nnunet_plugins.benchmark.suite import BadSuite, Data, Resources, Suite, read_suite
from nnunet_plugins.errors import UserError


def refusal(path):
    with pytest.raises(BadSuite) as error:
        read_suite(path)
    message = str(error.value)
    assert isinstance(error.value, UserError) and "\n" not in message
    assert message.startswith(str(path)) and message.count(str(path)) == 1
    return message.removeprefix(str(path))


def test_suite_that_cannot_be_read_is_refused(tmp_path):
    assert refusal(tmp_path / "none") == " cannot be read (No such file or directory): give the path of a suite file"
    assert refusal(tmp_path) == " cannot be read (Is a directory): give the path of a suite file"
    path = tmp_path / "latin.toml"
    path.write_bytes("name = 'Zürich'".encode("latin-1"))
    assert refusal(path) == " cannot be read (it is not UTF-8 text): give the path of a suite file"
    assert refusal(tmp_path / "latn.toml") == " cannot be read (No such file or directory): did you mean latin.toml?"
    path.write_text("name: cells\n")
    assert refusal(path).startswith(" is not TOML (") and "line 1" in refusal(path)
    assert refusal(path).endswith(": lines are e.g. epochs = 100 or name = 'nuclei'")


def test_suite_is_read_as_utf_8_whatever_the_machine_prefers(short_suite):
    path = short_suite("resources.", "slurm_account", "'Zürich'")
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
def test_value_in_place_of_a_table_is_refused(tmp_path, key, value, shown, expected):
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
def test_missing_key_is_refused(short_suite, section, key):
    expected = f": {section}{key} is missing: add it, e.g. {key} = "
    assert refusal(short_suite(section, key, None)).startswith(expected)


def test_missing_key_of_a_further_dataset_is_refused(short_suite):
    path = short_suite()
    path.write_text(path.read_text() + "\n[[datasets]]\nplans = 'X'\n")
    assert refusal(path).startswith(": datasets[1].id is missing")


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("", "epoch", "did you mean epochs or epochs_of?"),
        ("", "trainer", "did you mean trainers?"),
        ("", "resource", "did you mean resources?"),
        ("datasets[0].", "configuration", "did you mean configurations?"),
        ("datasets[0].", "epochs", f"the keys here are {', '.join(f.name for f in fields(Data))}"),
        ("resources.", "retry", "did you mean retries?"),
        ("resources.", "slurm_", "did you mean slurm_qos or slurm_gpu or slurm_jobs?"),
        ("resources.", "gpus", "did you mean cpus?"),
        ("resources.", "x", f"the keys here are {', '.join(f.name for f in fields(Resources))}"),
    ],
)
def test_unknown_key_is_refused_with_the_one_that_was_meant(short_suite, section, key, hint):
    assert refusal(short_suite(section, key, "1")) == f": {section}{key}: there is no such key; {hint}"


WORDS = {
    int: ("a whole number", ["true", "1.0", "'1'", "[1]"]),
    int | None: ("a whole number", ["true", "1.0", "'1'", "[1]"]),
    float | None: ("a number", ["true", "'24GB'", "[24]"]),
    float: ("a number", ["true", "'1'", "[1.0]", "{x = 1}"]),
    bool: ("true or false", ["1", "0", "'yes'"]),
    str: ("text in quotes", ["1", "true", "['a']", "1979-05-27"]),
    tuple[str, ...]: ("a list of texts in quotes", ["'A'", "1", "[1]", "['A', 1]", "['A', true]", "[['A']]"]),
    tuple[tuple[str, int], ...]: (
        "a table with a whole number for each name",
        ["0", "'A'", "[0]", "{x = 1.0}", "{x = true}", "{x = '1'}"],
    ),
    tuple[int, ...]: ("a list of whole numbers", ["0", "'0'", "['0']", "[0, true]", "[0, 1.0]", "{x = 0}"]),
}
OF_A_TYPE = [
    (section, f.name, f.type)
    for section, record in (("", Suite), ("datasets[0].", Data), ("resources.", Resources))
    for f in fields(record)
    if f.name not in ("datasets", "resources")
]


@pytest.mark.parametrize(("section", "key", "kind"), OF_A_TYPE)
def test_value_of_another_type_is_refused(short_suite, section, key, kind):
    words, values = WORDS[kind]
    for value in values:
        message = refusal(short_suite(section, key, value))
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
    *(("", "trainers", f"['A', '{name}']", f"'{name}'", "its plans: 'nnUNetTrainer@") for name in ("B@", "B@a/b")),
    ("", "trainers", "['A', '@nnUNetPlans']", "'@nnUNetPlans'", NO_TRAINER),
    ("", "trainers", "['A', 'B_1epoch@Mine']", "'B_1epoch@Mine'", NO_LENGTH),
    *(
        ("", "gpu_memory_gb", value, f"{float(value)}", "memory of a GPU in GiB")
        for value in ("0", "-8.0", "nan", "inf")
    ),
    ("", "reference", "'C'", "'C'", "it must be one of trainers: A, B"),
    ("", "reference", "''", "''", "it must be one of trainers: A, B"),
    *(("", key, value, value, "from 1") for key in ("epochs", "iterations", "repeats") for value in ("0", "-1")),
    *(("", key, "1000000000", "1000000000", "999") for key in ("epochs", "iterations", "repeats")),
    ("", "epochs_of", "{C = 5}", "'C'", "it must be one of trainers: A, B"),
    ("", "folds", "[]", "[]", FROM_0),
    ("", "folds", "[0, -1]", "[0, -1]", FROM_0),
    ("", "folds", "[0, 1, 0]", "0", TWICE),
    *((DATA, "id", value, value, "nnU-Net's datasets have numbers from 1 to 999") for value in ("0", "-1", "1000")),
    *((DATA, "external", value, value, "nnU-Net's datasets have numbers") for value in ("0", "-1", "1000")),
    (DATA, "external", "501", "501", "this is the dataset itself, whose own test set is 'test = true'"),
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
def test_bad_value_is_refused_with_file_key_value_and_remedy(short_suite, section, key, value, shown, remedy):
    message = refusal(short_suite(section, key, value))
    assert message.startswith(f": {section}{key} = {shown}: ") and remedy in message


@pytest.mark.parametrize("epochs", [0, -1, 1_000_000_000])
def test_epochs_of_a_trainer_have_the_same_limits(short_suite, epochs):
    message = f": epochs_of.A = {epochs}: expected a whole number from 1 to 999999999"
    assert refusal(short_suite("", "epochs_of", f"{{A = {epochs}}}")) == message


@pytest.mark.parametrize(("section", "key"), [("datasets[0].", "tolerance"), ("resources.", "hours")])
def test_number_that_no_float_can_hold_is_refused(short_suite, section, key):
    assert refusal(short_suite(section, key, "1" + 400 * "0")).startswith(f": {section}{key} = ")


def test_trainer_that_is_another_one_on_a_dataset_is_refused(short_suite):
    message = refusal(short_suite("", "trainers", "['A', 'A@nnUNetPlans']"))
    assert message == (
        ": datasets[0].plans = 'nnUNetPlans': A@nnUNetPlans is the same as A on this dataset: leave one out"
    )


def test_dataset_named_twice_is_refused(short_suite):
    path = short_suite()
    path.write_text(path.read_text() + "\n[[datasets]]\nid = 2\n[[datasets]]\nid = 501\n")
    assert refusal(path) == f": datasets = 501: {TWICE}"


def test_bad_value_of_a_further_dataset_is_refused(short_suite):
    path = short_suite()
    path.write_text(path.read_text() + "\n[[datasets]]\nid = 2\ntolerance = -1.0\n")
    assert refusal(path).startswith(": datasets[1].tolerance = -1.0: ")


WRONG = """
name = "a/b"
trainers = ["A", "B_1epoch", 3]
epochs = 0
epoch = 100
[[datasets]]
id = "501"
tolerance = -1.0
trainers = ["C"]
[[datasets]]
id = 2
configuration = ["2d"]
[resources]
cpus = "8"
hours = 0
"""


def test_all_faults_of_a_suite_are_told_at_once(tmp_path):
    path = tmp_path / "cells.toml"
    path.write_text(WRONG)
    with pytest.raises(BadSuite) as error:
        read_suite(path)
    title, *faults = str(error.value).splitlines()
    assert title == f"{path}: 10 things must be corrected:"
    beginnings = [
        "datasets[0].id = '501': expected a whole number",
        "datasets[1].configuration: there is no such key; did you mean configurations?",
        "resources.cpus = '8': expected a whole number",
        "epoch: there is no such key; did you mean epochs or epochs_of?",
        "trainers = ['A', 'B_1epoch', 3]: expected a list of texts in quotes",
        "reference is missing",
        "name = 'a/b': it becomes a folder",
        "epochs = 0: expected a whole number from 1",
        "datasets[0].tolerance = -1.0: ",
        "resources.hours = 0.0: ",
    ]
    for fault, beginning in zip(faults, beginnings, strict=True):
        assert fault.startswith(f"- {beginning}")


def test_one_fault_does_not_bring_others_that_are_none(short_suite):
    """Without trainers, no reference can be one of them."""
    assert refusal(short_suite("", "trainers", "[]")).startswith(": trainers = []: ")
    assert refusal(short_suite("", "trainers", "[3]")).startswith(": trainers = [3]: ")
