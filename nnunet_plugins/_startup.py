"""Tell nnU-Net where our trainers are, at interpreter start, by extending its own variable ``nnUNet_extTrainer``.

``nnunet_plugins_autoload.pth`` (Python < 3.18) or ``.start`` (PEP 829, Python >= 3.15) in site-packages calls
:func:`activate`. Only ``os`` is imported: this runs in every Python process of the environment.
"""

import os

VARIABLE = "nnUNet_extTrainer"
DISABLE_VARIABLE = "NNUNET_PLUGINS_DISABLE_AUTOLOAD"
DISCOVERY_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_discovery")


def search_path(current: str | None) -> str:
    """Return ``nnUNet_extTrainer`` with our folder appended once; the user's own entries stay first."""
    entries = [entry for entry in (current or "").split(os.pathsep) if entry.strip()]
    if DISCOVERY_FOLDER not in entries:
        entries.append(DISCOVERY_FOLDER)
    return os.pathsep.join(entries)


def extend() -> None:
    """Extend ``nnUNet_extTrainer`` in this process and its children."""
    os.environ[VARIABLE] = search_path(os.environ.get(VARIABLE))


def switched_off() -> bool:
    """Whether the user wants nothing done at interpreter start."""
    return os.environ.get(DISABLE_VARIABLE, "").lower() in ("1", "true", "t")


def activate() -> None:
    """What every start of the interpreter does: :func:`extend`, unless the user switched that off."""
    if not switched_off():
        extend()
