"""Is the nnU-Net that this environment imports one that our trainers can run in?

Forks that install themselves under nnU-Net's name are common; in one of them a trainer fails late and strangely.
"""

import importlib.metadata
import importlib.util
import inspect
from itertools import takewhile
from pathlib import Path

MINIMUM = (2, 8)
BELOW = (3,)
REMEDY = "install nnU-Net itself with: pip install --force-reinstall --no-deps 'nnunetv2>=2.8,<3'"
TRAINER_PARAMETERS = ["self", "plans", "configuration", "fold", "dataset_json", "device"]


def nnunet_problem() -> str | None:
    """One sentence on what is wrong with the ``nnunetv2`` that gets imported, and the remedy; ``None`` if it will do."""
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        return f"nnunetv2 is not installed in this environment: {REMEDY}."
    place = Path(spec.origin).parent
    try:
        distribution = importlib.metadata.distribution("nnunetv2")
    except importlib.metadata.PackageNotFoundError:
        owner = " and ".join(providers()) or "a folder that pip knows nothing of"
        return f"the package nnunetv2 at {place} comes from {owner}, not from nnU-Net: {REMEDY}."
    if not MINIMUM <= version_numbers(distribution.version) < BELOW:
        return f"nnunetv2 {distribution.version} at {place} is not at least 2.8 and below 3: {REMEDY}."
    if not installed_at(distribution, place):
        return (
            f"nnunetv2 is imported from {place}, which is not the installed nnU-Net {distribution.version}: "
            "remove that folder from PYTHONPATH or leave the directory that holds it."
        )
    if not (place / "utilities" / "find_objects.py").is_file():
        return f"nnunetv2 at {place} calls itself {distribution.version} but cannot find trainers elsewhere: {REMEDY}."
    return None


def trainer_problem(trainer: type) -> str | None:
    """What is wrong with nnU-Net's trainer class, ``None`` if its constructor is the one that ours expects."""
    parameters = list(inspect.signature(trainer.__init__).parameters)  # type: ignore[misc]
    if parameters == TRAINER_PARAMETERS:
        return None
    return f"{inspect.getfile(trainer)} is not nnU-Net 2.8's trainer (its constructor takes {parameters}): {REMEDY}."


def providers() -> list[str]:
    """The installed distributions that contain a package nnunetv2 (slow: reads all distributions' lists of files)."""
    return sorted(set(importlib.metadata.packages_distributions().get("nnunetv2", [])))


def installed_at(distribution: importlib.metadata.Distribution, place: Path) -> bool:
    """Whether the distribution's own files are at ``place``; taken to be so for editable installs, which list none."""
    package_file = next((f for f in distribution.files or [] if f.parts == ("nnunetv2", "__init__.py")), None)
    return package_file is None or Path(str(package_file.locate())).resolve().parent == place.resolve()


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in takewhile(str.isdigit, version.split(".")))
