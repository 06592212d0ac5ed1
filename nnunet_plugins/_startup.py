"""Add our folder to nnU-Net's search path ``nnUNet_extTrainer`` when Python starts.

``nnunet_plugins_autoload.pth`` (Python < 3.18) or ``.start`` (PEP 829, Python >= 3.15) in site-packages calls
``activate``. This module imports only ``os``, because it runs in every Python process of the environment.
"""

import os

SEARCH_PATH_VARIABLE = "nnUNet_extTrainer"
DISABLE_VARIABLE = "NNUNET_PLUGINS_DISABLE_AUTOLOAD"
DISCOVERY_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_discovery")


def search_path(current: str | None) -> str:
    """Return the value of ``nnUNet_extTrainer`` with our folder appended once, after the user's own folders."""
    entries = [entry for entry in (current or "").split(os.pathsep) if entry.strip()]
    if DISCOVERY_FOLDER not in entries:
        entries.append(DISCOVERY_FOLDER)
    return os.pathsep.join(entries)


def extend() -> None:
    """Extend ``nnUNet_extTrainer`` in this process and its children."""
    os.environ[SEARCH_PATH_VARIABLE] = search_path(os.environ.get(SEARCH_PATH_VARIABLE))


def switched_off() -> bool:
    """Whether the user has switched off the extension of the search path at the start of Python."""
    return os.environ.get(DISABLE_VARIABLE, "").lower() in ("1", "true", "t")


def activate() -> None:
    """Extend the search path at the start of Python, unless the user has switched that off."""
    if not switched_off():
        extend()
