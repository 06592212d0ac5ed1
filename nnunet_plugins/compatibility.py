"""Checks whether our trainers can run in the nnU-Net that this environment imports.

Forks that install themselves under nnU-Net's name are common; in one of them a trainer fails late and strangely.
"""

import importlib.metadata
import importlib.util
import inspect
from itertools import takewhile
from pathlib import Path

from nnunet_plugins.errors import UserError

MINIMUM = (2, 8)
BELOW = (3,)
REQUIREMENT = "'nnunetv2>=2.8,<3'"
INSTALL = f"pip install --upgrade {REQUIREMENT}"
REPAIR = f"pip install --force-reinstall --no-deps {REQUIREMENT}"
TRAINER_PARAMETERS = ["self", "plans", "configuration", "fold", "dataset_json", "device"]


def require_nnunet() -> None:
    """Raise if our trainers cannot run in the ``nnunetv2`` that gets imported.

    Raises:
        UserError: with the problem and its remedy.
    """
    refuse(nnunet_problem())


def require_trainer(trainer: type) -> None:
    """Raise if nnU-Net's trainer class is not the one that ours expects.

    Raises:
        UserError: with the problem and its remedy.
    """
    refuse(trainer_problem(trainer))


def refuse(problem: str | None) -> None:
    if problem:
        raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")


def nnunet_problem() -> str | None:
    """Problem of the ``nnunetv2`` that gets imported, with the remedy, in a sentence; ``None`` if there is none."""
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        return f"nnunetv2 is not installed in this environment: {INSTALL}"
    place = Path(spec.origin).parent
    try:
        distribution = importlib.metadata.distribution("nnunetv2")
    except importlib.metadata.PackageNotFoundError:
        return f"the package nnunetv2 at {place} is not nnU-Net's: {remove_other_providers(place)} and {INSTALL}"
    if not MINIMUM <= version_numbers(distribution.version) < BELOW:
        return f"nnunetv2 {distribution.version} at {place} is not at least 2.8 and below 3: {INSTALL}"
    if not installed_at(distribution, place):
        return (
            f"nnunetv2 is imported from {place}, which is not the installed nnU-Net {distribution.version}: "
            f"{remove_other_providers(place)}"
        )
    if not (place / "utilities" / "find_objects.py").is_file():
        return f"nnunetv2 at {place} calls itself {distribution.version} but cannot find trainers elsewhere: {REPAIR}"
    return None


def overwriting_problem() -> str | None:
    """Other distributions that wrote over nnU-Net's files, in a sentence with the remedy (slow; for ``doctor``)."""
    if not (others := other_providers()):
        return None
    names = " ".join(others)
    return f"{names} also installed a package nnunetv2, over nnU-Net's files: pip uninstall {names} and {REPAIR}"


def trainer_problem(trainer: type) -> str | None:
    """Problem of nnU-Net's trainer class in a sentence; ``None`` if its constructor is the one that ours expects."""
    parameters = list(inspect.signature(trainer.__init__).parameters)  # type: ignore[misc]
    if parameters == TRAINER_PARAMETERS:
        return None
    return f"{inspect.getfile(trainer)} is not nnU-Net 2.8's trainer (its constructor takes {parameters}): {REPAIR}"


def other_providers() -> list[str]:
    """Installed distributions other than nnU-Net that contain a package nnunetv2 (reads all lists of files)."""
    return sorted(set(importlib.metadata.packages_distributions().get("nnunetv2", [])) - {"nnunetv2"})


def remove_other_providers(place: Path) -> str:
    """Remedy against a package nnunetv2 that is not nnU-Net's."""
    if others := other_providers():
        return f"pip uninstall {' '.join(others)}"
    return f"take {place.parent} off PYTHONPATH, or leave that directory"


def installed_at(distribution: importlib.metadata.Distribution, place: Path) -> bool:
    """Whether the distribution's own files are at ``place``; assumed of editable installs, which list none."""
    package_file = next((f for f in distribution.files or [] if f.parts == ("nnunetv2", "__init__.py")), None)
    return package_file is None or Path(str(package_file.locate())).resolve().parent == place.resolve()


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in takewhile(str.isdigit, version.split(".")))
