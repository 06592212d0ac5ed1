"""Proves: the package works with the lowest nnU-Net that it declares, installed over the other packages."""

import json
import os
import sys
from pathlib import Path

import pytest
from support.cell_datasets import LABELS, NNUNET_FOLDERS, dataset_name
from support.environments import Environment, call
from support.repository import REPOSITORY

from nnunet_plugins.compatibility import MINIMUM

pytestmark = pytest.mark.slow

LOWEST = ".".join(map(str, (*MINIMUM, 0)))
PROBE = Path(__file__).with_name("probe.py")
TRAINER = "DLKUNetSTrainer_C64_1epoch_1iterations"
LENGTHENED = "nnUNetTrainer_3epochs"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Environment:
    """A virtual environment with the lowest nnU-Net and this package, and the tests' packages behind them."""
    package = f"nnunetv2=={LOWEST}"
    download = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation")
    folder = tmp_path_factory.mktemp("download")
    downloaded = call(*download, "--dest", folder, package, check=False)
    if downloaded.returncode != 0:
        assert "after connection broken by" in downloaded.stderr, downloaded.stderr
        pytest.skip(f"{package} cannot be downloaded: the package index is not reached")
    environment = Environment(tmp_path_factory.mktemp("lowest"))
    environment.install(*folder.iterdir())
    environment.install(wheel)
    environment.see_packages()
    return environment


def test_the_environment_has_the_lowest_version(environment):
    version = "__import__('importlib.metadata').metadata.version('nnunetv2')"
    assert environment.evaluate(version, NNUNET_PLUGINS_DISABLE_AUTOLOAD="1") == LOWEST
    assert f'"nnunetv2>={".".join(map(str, MINIMUM))},' in (REPOSITORY / "pyproject.toml").read_text()


def test_the_lowest_nnunet_finds_the_trainers(environment):
    found = json.loads(environment.run(PROBE, TRAINER, LENGTHENED).stdout)["found"]
    assert found == {name: f"nnunet_plugins.trainers.{name}" for name in (TRAINER, LENGTHENED)}


def test_the_lowest_nnunet_trains(environment, planned, tmp_path):
    variables = {name: os.environ[name] for name in NNUNET_FOLDERS} | {
        "nnUNet_results": str(tmp_path),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "1",
    }
    program = environment.python.with_name("nnUNetv2_train")
    call(program, LABELS, "2d", 0, "-tr", TRAINER, "-device", "cpu", folder=environment.root, **variables)
    fold = tmp_path / dataset_name(LABELS) / f"{TRAINER}__nnUNetPlans__2d" / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file()
    assert len(json.loads((fold / "validation" / "summary.json").read_text())["metric_per_case"]) == 2
