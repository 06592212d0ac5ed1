"""Proves: the hosted workflow and the pre-commit hooks are well formed and run nothing but targets of the Makefile."""

import re
import tomllib

import yaml
from support.repository import REPOSITORY

WORKFLOW = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
HOOKS = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
TRIGGERS = WORKFLOW[True]
"""YAML 1.1 reads the key ``on`` as a truth value."""


def commands(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def targets(lines: list[str]) -> list[str]:
    """Targets of command lines, each of which must be one call of make."""
    matches = [re.fullmatch(r"make ([a-z-]+)", line) for line in lines]
    assert all(matches), lines
    return [match[1] for match in matches if match]


def test_every_step_is_a_target_of_the_makefile_or_sets_up():
    for name, job in WORKFLOW["jobs"].items():
        assert set(targets(commands(name))) <= TARGETS
        actions = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
        assert actions == ["actions/checkout", "actions/setup-python"]
        assert len(actions) + len(commands(name)) == len(job["steps"])


def test_changes_are_linted_and_run_the_first_tier_and_nights_run_everything():
    assert {"push", "pull_request", "schedule"} == set(TRIGGERS)
    assert {"lint", "test"} <= set(targets(commands("test")))
    assert {"test-all", "docs"} <= set(targets(commands("nightly")))
    assert WORKFLOW["jobs"]["test"]["if"] == "github.event_name != 'schedule'"
    assert WORKFLOW["jobs"]["nightly"]["if"] == "github.event_name == 'schedule'"


def test_every_python_that_the_project_names_is_tested_and_no_other():
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: Python :: 3\.\d+$", c)]
    assert matrix["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert {combination["python"] for combination in matrix["include"]} <= set(named)
    assert {*matrix["os"], *(combination["os"] for combination in matrix["include"])} == {
        "ubuntu-latest",
        "macos-latest",
    }


def test_hooks_are_local_calls_of_make():
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local"
    assert set(targets([hook["entry"] for hook in repository["hooks"]])) <= TARGETS
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
        assert {"id", "name"} <= hook.keys()
