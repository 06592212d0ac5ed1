"""Proves that Slurm's options are those that Snakemake's plugin takes, and that no shell runs what they hold."""

import re
import subprocess
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.validation import get_forbidden_slurm_options, validate_slurm_extra

from nnunet_plugins.benchmark.resources import MANAGED_OPTIONS, Resources, managed_option, problems_of_resources
from nnunet_plugins.benchmark.suite import BadSuite, read_suite


def refusal(path):
    with pytest.raises(BadSuite) as error:
        read_suite(path)
    return str(error.value)


@pytest.mark.parametrize(
    "command", ["; touch {}", "$(touch {})", "`touch {}`", "--x & touch {}", "\n touch {}", "|touch {}"]
)
def test_options_for_slurm_reach_sbatch_and_no_shell(tmp_path, command):
    extra = f"--comment='a100|h100' {command.format(tmp_path / 'witness')}"
    options = Resources(slurm_extra=extra).slurm_options()
    printed = subprocess.run(f"printf '%s\\n' {options['slurm_extra']}", shell=True, capture_output=True, text=True)
    assert printed.stdout.splitlines()[0] == "--comment=a100|h100" and not printed.stderr
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("key", ["slurm_partition", "slurm_account", "slurm_qos"])
@pytest.mark.parametrize("value", ["a; touch witness", "a b", "$(touch witness)", "a'"])
def test_names_for_slurm_that_a_shell_could_run_are_refused(short_suite, key, value):
    message = refusal(short_suite("resources.", key, f'"{value}"'))
    assert f"resources.{key}" in message
    assert message.endswith("expected names as Slurm prints them, separated by commas")


def test_options_for_slurm_with_an_open_quote_are_refused(short_suite):
    message = refusal(short_suite("resources.", "slurm_extra", '"--comment=\'mine"'))
    assert message.endswith("these are no options of sbatch (No closing quotation): correct them")


FORBIDDEN = [
    re.sub(r"\[=\\s\]|\\s\??", "", form) for pattern in get_forbidden_slurm_options() for form in pattern.split("|")
]


@pytest.mark.parametrize("option", FORBIDDEN)
def test_options_that_the_plugin_forbids_are_refused_with_the_key_that_sets_them(option):
    """The plugin would let every job fail, one by one, with its own exception."""
    extra = f"--requeue {option}=1" if option.startswith("--") else f"--requeue {option} 1"
    ((key, value, expectation),) = problems_of_resources(Resources(slurm_extra=extra))
    assert (key, value) == ("slurm_extra", extra)
    managed = managed_option(option)
    assert expectation.startswith(f"{managed[0]} is set ")
    assert not managed[1] or (hasattr(Resources(), managed[1]) and expectation.endswith(f"use {managed[1]}"))


def test_no_other_option_is_refused():
    assert {managed_option(option)[0] for option in FORBIDDEN} == {f"--{option}" for option in MANAGED_OPTIONS}
    extra = "--requeue --exclude=n1 --mail-type=END --nice=100 --exclusive"
    resources = Resources(slurm_extra=extra, slurm_constraint="a100|h100", slurm_qos="long", slurm_gpu="a100")
    assert not list(problems_of_resources(resources))
    validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(**resources.slurm_options())))


@pytest.mark.parametrize(("key", "value"), [("slurm_gpu", "gpu:a100:1"), ("slurm_jobs", 0), ("slurm_jobs", 10**7)])
def test_values_that_slurm_cannot_have_are_refused(key, value):
    ((found, *_),) = problems_of_resources(Resources(**{key: value}))
    assert found == key
