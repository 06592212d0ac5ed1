"""Proves: the minimal method that CONTRIBUTING.md prints works as printed, tested alone by the commands beside it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import PACKAGE, REPOSITORY

SECTION = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## A minimal method to copy")[2].partition("\n## ")[0]
BLOCK = re.compile(r"```python\n# (nnunet_plugins/\S+\.py)(, among _ROWS)?\n(.*?)```", re.DOTALL)
COMMANDS = re.search(r"```sh\n(.*?)```", SECTION, re.DOTALL)[1].splitlines()
FACTS, QUICK, SELFTEST, WHOLE = COMMANDS


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository with the method's files and rows."""
    copy = tmp_path_factory.mktemp("repository")
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "pyproject.toml", "docs"):
        (copy / name).symlink_to(REPOSITORY / name)
    for path, rows, code in BLOCK.findall(SECTION):
        file = copy / path
        assert file.exists() == bool(rows)
        file.write_text(file.read_text().replace("_ROWS = (\n", f"_ROWS = (\n{code}", 1) if rows else code)
    return copy


def run(repository: Path, line: str) -> str:
    """Output of the commands of a line of CONTRIBUTING.md."""
    names = {"python": f"{sys.executable} -P", "nnunet-plugins": f"{sys.executable} -P -m nnunet_plugins"}
    output = ""
    for command in line.partition("#")[0].split("&&"):
        name, _, rest = command.strip().partition(" ")
        result = subprocess.run(
            shlex.split(f"{names[name]} {rest}" + " -m 'not slow' -p no:cacheprovider" * ("pytest" in rest)),
            cwd=repository,
            env=os.environ | {"PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        output += result.stdout
    return output


def test_the_method_is_four_short_blocks():
    assert len(BLOCK.findall(SECTION)) == SECTION.count("```python") == 4
    lines = [line for *_, code in BLOCK.findall(SECTION) for line in code.splitlines() if line.strip()]
    statements = [line for line in lines if not line.startswith(("from ", '"""'))]
    assert len(statements) <= 40


def test_its_network_and_its_loss_pass_their_contract(repository):
    assert re.search(r"\d\d passed", run(repository, QUICK))


def test_its_code_is_as_ruff_wants_it(repository):
    files = [str(repository / path) for path, *_ in BLOCK.findall(SECTION)]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"]):
        command = [sys.executable, "-m", *tool, "--config", str(REPOSITORY / "pyproject.toml"), *files]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_it_is_listed_trains_and_passes_the_whole_contract(repository):
    rows = run(repository, FACTS).splitlines()
    assert [row.split()[:2] for row in rows[1:3]] == [["MyTrainer", "MyMethod"], ["MyTrainer_wide", "MyMethod"]]
    assert "MyTrainer" in run(repository, SELFTEST)
    assert re.search(r"\d\d passed", run(repository, WHOLE))
