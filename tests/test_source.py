"""Proves: imports point one way, and no loss takes logarithms of probabilities (which CUDA's autocast refuses)."""

import ast
import re
from pathlib import Path

import pytest

import nnunet_plugins

PACKAGE = Path(nnunet_plugins.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS_ABOVE = ("benchmark", "cli", "dataset_conversion", "losses", "trainers")
NOT_BELOW = ("nnunetv2", *(f"nnunet_plugins.{room}" for room in ROOMS_ABOVE))

FORBIDDEN = {
    "architectures/layers": NOT_BELOW,
    "architectures": NOT_BELOW,
    "losses": ("nnunetv2", *(f"nnunet_plugins.{room}" for room in ROOMS_ABOVE if room != "losses")),
    "trainers": (
        "nnunet_plugins.benchmark",
        "nnunet_plugins.cli",
        "nnunet_plugins.dataset_conversion",
        "nnunet_plugins.demo",
        "nnunet_plugins.doctor",
    ),
    "dataset_conversion": (
        "torch",
        *(f"nnunet_plugins.{room}" for room in ("architectures", "benchmark", "cli", "losses")),
    ),
    "benchmark": tuple(f"nnunet_plugins.{room}" for room in ("architectures", "cli", "dataset_conversion", "losses")),
}
"""What the modules of a room must not import."""


def imported(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    modules = [module for module in MODULES if module.is_relative_to(PACKAGE / room)]
    assert modules
    for module in modules:
        wrong = {name for name in imported(module) for root in FORBIDDEN[room] if (name + ".").startswith(root + ".")}
        assert not wrong, f"{module} imports {wrong}"


def test_no_binary_cross_entropy_on_probabilities():
    on_probabilities = re.compile(r"\bBCELoss\(|\bbinary_cross_entropy\(")
    assert on_probabilities.search("F.binary_cross_entropy(p, y)") and on_probabilities.search("nn.BCELoss()")
    assert not [module for module in MODULES if on_probabilities.search(module.read_text())]
