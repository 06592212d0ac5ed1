"""Proves: exported models of all main trainers predict where neither nnU-Net nor torch is installed."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from support.cell_datasets import LABELS
from support.environments import Environment
from support.predictions import agreement, images_of, predict_with_nnunet
from support.table import MAIN_TRAINERS
from support.trained_models import write_model

from nnunet_plugins.export.command import export_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("results", "narrow")]

DEPLOYED = ("onnxruntime", "numpy", "scipy", "scikit-image", "SimpleITK", "pillow", "tqdm")
"""Packages that docs/deployment.md installs."""


@pytest.fixture(scope="module")
def bare_environment(wheel, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("bare_environment"))
    environment.install(wheel)
    for name in with_requirements(DEPLOYED):
        for file in distribution(name).files or []:
            target = environment.site_packages / file.parts[0]
            if file.parts[0] != ".." and not target.exists():
                target.symlink_to(distribution(name).locate_file(file.parts[0]))
    return environment


def with_requirements(names, known=frozenset()) -> set[str]:
    """Names of distributions and of all that they require."""
    found = set(known)
    for name in names:
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        if name not in found:
            needed = [re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line]
            found = with_requirements(needed, found | {name})
    return found


def test_environment_has_neither_nnunet_nor_torch(bare_environment):
    for name in ("torch", "nnunetv2", "batchgenerators"):
        assert bare_environment.evaluate(f"__import__('importlib.util').util.find_spec('{name}')") == "None"


@pytest.mark.parametrize("trainer_name", ["nnUNetTrainer", *MAIN_TRAINERS])
def test_exported_model_predicts(trainer_name, bare_environment, tmp_path):
    model, exported, images = write_model(trainer_name, LABELS), tmp_path / "exported", images_of(LABELS)
    export_model(model, exported, "onnx", (), "checkpoint_final.pth")
    command = Path(bare_environment.root, "bin", "nnunet-plugins")
    bare_environment.run(command, "predict-exported", exported, "-i", images, "-o", tmp_path / "ours")
    predict_with_nnunet(model, images, tmp_path / "theirs", (0,))
    assert agreement(tmp_path / "ours", tmp_path / "theirs", "NaturalImage2DIO", ".png") >= 0.999
