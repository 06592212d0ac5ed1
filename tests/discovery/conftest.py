"""Fixtures that install the package into new virtual environments, as users do."""

import shutil
import sys
from pathlib import Path

import pytest
from support.environments import Environment, call
from support.repository import REPOSITORY


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A copy of the repository, so that no other installation of it can pass for the one under test."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "scratch", "nnunet_plugins_demo")
    return shutil.copytree(REPOSITORY, tmp_path_factory.mktemp("source") / "checkout", ignore=ignored)


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel_environment(wheel, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("wheel_environment"))
    environment.install(wheel)
    environment.see_packages()
    return environment
