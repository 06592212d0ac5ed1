"""Proves that the house is in order: imports point one way, files and functions are short, docstrings begin plainly.

No module calls torch's binary cross-entropy on probabilities (which CUDA's autocast refuses), the product needs no
mocks, and the version has one source.
"""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from support.repository import PACKAGE, REPOSITORY

import nnunet_plugins

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((REPOSITORY / "tests").rglob("*.py")), *sorted((REPOSITORY / "speed").rglob("*.py"))]

MAX_LINES_OF_A_FILE = 320
MAX_LINES_OF_A_FUNCTION = 40
RIDDLES = {"Of", "Those", "As", "What"}
"""Words with which a first line cannot be understood without the code below it."""

ROOMS_ABOVE = (
    "benchmark",
    "cli",
    "dataset_conversion",
    "demo",
    "deployed",
    "doctor",
    "export",
    "losses",
    "planning",
    "selftest",
    "trainers",
)
NOT_BELOW = ("nnunetv2", *(f"nnunet_plugins.{room}" for room in ROOMS_ABOVE))
NOT_ON_THE_GROUND_FLOOR = ("torch", *(f"nnunet_plugins.{room}" for room in (*ROOMS_ABOVE, "architectures")))

FORBIDDEN = {
    "errors.py": NOT_ON_THE_GROUND_FLOOR,
    "files.py": NOT_ON_THE_GROUND_FLOOR,
    "locks.py": NOT_ON_THE_GROUND_FLOOR,
    "nnunet_folders.py": NOT_ON_THE_GROUND_FLOOR,
    "processes.py": NOT_ON_THE_GROUND_FLOOR,
    "text_tables.py": NOT_ON_THE_GROUND_FLOOR,
    "compatibility.py": NOT_ON_THE_GROUND_FLOOR,
    "checkpoint_files.py": (*NOT_BELOW, "nnunet_plugins.architectures"),
    "architectures/layers": NOT_BELOW,
    "architectures": NOT_BELOW,
    "losses": ("nnunetv2", *(f"nnunet_plugins.{room}" for room in ROOMS_ABOVE if room != "losses")),
    "trainers": (
        "nnunet_plugins.benchmark",
        "nnunet_plugins.cli",
        "nnunet_plugins.dataset_conversion",
        "nnunet_plugins.demo",
        "nnunet_plugins.deployed",
        "nnunet_plugins.doctor",
        "nnunet_plugins.export",
        "nnunet_plugins.planning",
        "nnunet_plugins.selftest",
    ),
    "planning": tuple(
        f"nnunet_plugins.{room}" for room in ("architectures", *ROOMS_ABOVE) if room not in ("planning", "trainers")
    ),
    "dataset_conversion": (
        "torch",
        *(f"nnunet_plugins.{room}" for room in ("architectures", *ROOMS_ABOVE) if room != "dataset_conversion"),
    ),
    "deployed": (
        "nnunetv2",
        "batchgenerators",
        "torch",
        "nnunet_plugins.checkpoint_files",
        *(f"nnunet_plugins.{room}" for room in ("architectures", *ROOMS_ABOVE) if room != "deployed"),
    ),
    "export": tuple(
        f"nnunet_plugins.{room}"
        for room in ("architectures", *ROOMS_ABOVE)
        if room not in ("deployed", "export", "planning", "trainers")
    ),
    "benchmark": tuple(
        f"nnunet_plugins.{room}" for room in ("architectures", *ROOMS_ABOVE) if room not in ("benchmark", "planning")
    ),
}
"""Imports that the modules of a room must not have."""


def imported(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    modules = [module for module in MODULES if module.is_relative_to(PACKAGE / room)]
    assert modules
    for module in modules:
        wrong = {name for name in imported(module) for root in FORBIDDEN[room] if (name + ".").startswith(root + ".")}
        assert not wrong, f"{module} imports {wrong}"


def test_the_product_needs_no_mocks():
    assert not [module for module in MODULES if any(name.startswith("unittest") for name in imported(module))]


def test_files_can_be_read_in_one_go():
    lengths = {str(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES_OF_A_FILE}


def test_functions_fit_on_a_screen():
    long = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                lines = (node.end_lineno or node.lineno) - first.lineno + 1
                if lines > MAX_LINES_OF_A_FUNCTION:
                    long.append(f"{module}: {node.name} has {lines} lines")
    assert not long


def first_lines(path: Path) -> Iterator[str]:
    """First lines of all docstrings, and of the strings that describe attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.strip().split("\n")[0]


def test_first_lines_of_docstrings_are_plain():
    riddles = [
        f"{path}: {line}"
        for path in SOURCES
        for line in first_lines(path)
        if line and re.split(r"[\s,:]", line, maxsplit=1)[0] in RIDDLES
    ]
    assert not riddles, "\n".join(riddles)


def test_no_binary_cross_entropy_on_probabilities():
    on_probabilities = re.compile(r"\bBCELoss\(|\bbinary_cross_entropy\(")
    assert on_probabilities.search("F.binary_cross_entropy(p, y)") and on_probabilities.search("nn.BCELoss()")
    assert not [module for module in MODULES if on_probabilities.search(module.read_text())]


def test_nothing_that_is_read_can_run_code():
    """Only one module reads torch's files; nothing reads pickles, evaluates text, or lets numpy do so."""
    for module in MODULES:
        found = set()
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call):
                found.add(ast.unparse(node.func))
                found |= {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
        found |= imported(module)
        unsafe = {"eval", "exec", "pickle", "marshal", "shelve", "joblib", "yaml", "dill", "cloudpickle"} & found
        unsafe |= {name for name in found if name.startswith(("allow_pickle", "pickle.")) or "load_pickle" in name}
        unsafe -= {"allow_pickle=False"}
        unsafe |= {name for name in found if name in ("torch.load", "torch.hub.load", "torch.jit.load")}
        unsafe |= {"weights_only=False"} & found
        assert unsafe <= ({"torch.load"} if module.name == "checkpoint_files.py" else set()), f"{module}: {unsafe}"


def test_the_version_has_one_source():
    assert version("nnunet-plugins") == nnunet_plugins.__version__
    cited = re.search(r"^version: (.*)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited and cited[1] == nnunet_plugins.__version__
