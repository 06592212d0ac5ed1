"""Proves: suites, plans, receipts and folders made to break the benchmark are answered in a sentence; nothing starts.

``run --dry-run`` says the same as ``run``.
"""

import json

import pytest
from support.benchmark_commands import refusal
from support.suite_files import TOP, lines, write_short_suite

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.report.record import read_record
from nnunet_plugins.benchmark.suite import BadSuite, read_suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, write_json

DEEP = "[" * 100_000 + "]" * 100_000
TABLES = "{a=" * 1000 + "1" + "}" * 1000
DECIMAL, HEXADECIMAL = "9" * 10_000, "0x" + "f" * 10_000


def sentence_on(path):
    with pytest.raises(BadSuite) as error:
        read_suite(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "folds", DEEP),
        ("", "datasets", DEEP),
        ("", "anything", TABLES),
        ("datasets[0].", "trainers", "[" * 1000 + "]" * 1000),
        ("resources.", ".".join("a" * 2000), "1"),
        *(("", key, number) for key in ("epochs", "iterations", "repeats") for number in (DECIMAL, HEXADECIMAL)),
        *(("", key, f"[{number}]") for key in ("folds", "trainers") for number in (DECIMAL, HEXADECIMAL)),
        *(("datasets[0].", key, HEXADECIMAL) for key in ("id", "tolerance", "configurations", "plans", "test")),
        *(("resources.", key, HEXADECIMAL) for key in ("cpus", "memory_gb", "hours", "retries", "device")),
        *(("resources.", key, "1000000") for key in ("cpus", "memory_gb", "hours", "retries")),
        ("resources.", "hours", "1e300"),
        ("", "gpu_memory_gb", "1e300"),
        ("", "name", f"'{'n' * 101}'"),
        ("", "trainers", f"['A', '{'B' * 101}']"),
        ("datasets[0].", "plans", f"'{'p' * 10_000}'"),
        ("datasets[0].", "configurations", f"['{'c' * 101}']"),
        ("", "k" * 10_000, "1"),
    ],
    ids=lambda value: value[:20],
)
def test_a_suite_made_to_break_the_reader_is_refused_in_a_sentence(tmp_path, section, key, value):
    sentence_on(write_short_suite(tmp_path, section, key, value))


def test_tables_a_thousand_deep_in_the_place_of_the_datasets_are_refused(tmp_path):
    path = tmp_path / "cells.toml"
    path.write_text(lines(TOP) + f"[datasets.{'.'.join('a' * 5000)}]\n")
    assert "datasets = a value of thousands of parts: expected at least one" in sentence_on(path)


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 50_000 + "1" + "}" * 50_000, DECIMAL, "[]", "1"])
def test_json_made_to_break_the_reader_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"record\.json"):
        read_receipt(path, "sha256")
    with pytest.raises(ValueError, match=r"record\.json|digits"):
        read_record(tmp_path)
    if content not in ("[]", "1"):
        with pytest.raises(UserError, match="cannot be read"):
            read_json(path)


def test_a_receipt_without_its_content_is_refused(tmp_path):
    write_json(tmp_path / "bench_train.json", {"parts": []})
    with pytest.raises(UserError, match=r"bench_train\.json is no receipt of nnunet-plugins: remove it and run"):
        read_receipt(tmp_path / "bench_train.json", "sha256", "parts")


# ---- plans and configurations ----------------------------------------------------------------------------------------

DRY = [(), ("--dry-run",)]


@pytest.mark.parametrize("options", DRY)
def test_a_configuration_that_the_plans_do_not_have_is_named(options, root, suite_file, nothing_starts):
    path = suite_file(configuration="3d_mine")
    assert "nnU-Net plans no configuration 3d_mine: choose from 2d, 3d_fullres" in refusal(root, "run", path, *options)
    plans = root / "nnUNet_preprocessed" / "Dataset501_Cells" / "nnUNetPlans.json"
    write_json(plans, {"configurations": {"2d": {}, "3d_fullres": {}}})
    sentence = refusal(root, "run", path, *options)
    assert sentence == f"{plans} has no configuration 3d_mine: choose from 2d, 3d_fullres"


@pytest.mark.parametrize("options", DRY)
def test_plans_that_nnunet_cannot_make_are_named(options, root, suite_file, nothing_starts):
    path = suite_file()
    path.write_text(path.read_text().replace("id = 501,", "id = 501, plans = 'Mine',"))
    sentence = refusal(root, "run", path, *options)
    assert "Mine.json is not there: make it with nnUNetv2_plan_experiment -d 501 -pl PLANNER" in sentence


@pytest.mark.parametrize(
    "plans",
    [
        [],
        {},
        {"configurations": []},
        {"configurations": {"2d": 1}},
        {"configurations": {"2d": {"inherits_from": "2d"}}},
        {"configurations": {"2d": {"inherits_from": "a"}, "a": {"inherits_from": "2d"}}},
        {"configurations": {"2d": {"inherits_from": "none"}}},
    ],
    ids=json.dumps,
)
def test_plans_that_are_none_are_named(plans, root, suite_file, nothing_starts):
    file = root / "nnUNet_preprocessed" / "Dataset501_Cells" / "nnUNetPlans.json"
    write_json(file, plans)
    sentence = refusal(root, "run", suite_file(), "--dry-run")
    assert sentence.startswith(str(file)) and ("no configurations" in sentence or "inherits_from" in sentence)


# ---- nnU-Net's folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("form", ["~/{}", '"{}"', "'{}'", "{}'"])
def test_a_variable_that_no_shell_has_expanded_is_named(
    variable, form, root, suite_file, monkeypatch, nothing_starts, tmp_path_factory
):
    here = tmp_path_factory.mktemp("here")
    path = suite_file()
    monkeypatch.chdir(here)
    monkeypatch.setenv(variable, form.format("data"))
    sentence = refusal(root, "run", path, "--dry-run")
    assert sentence.startswith(f"{variable}={form.format('data')} ") and ("$HOME" in sentence or "quotes" in sentence)
    assert not list(here.iterdir())
