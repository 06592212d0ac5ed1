"""Add our folder to nnU-Net's search path ``nnUNet_extTrainer`` when Python starts.

``nnunet_plugins_autoload.pth`` (Python < 3.18) or ``.start`` (PEP 829, Python >= 3.15) in site-packages calls
``activate``. This module imports only ``os`` and ``sys``, because it runs in every Python process of the environment;
in those of nnU-Net's commands also :mod:`nnunet_plugins.errors`.
"""

import os
import sys

SEARCH_PATH_VARIABLE = "nnUNet_extTrainer"
DISABLE_VARIABLE = "NNUNET_PLUGINS_DISABLE_AUTOLOAD"
DISCOVERY_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_discovery")


def search_path(current: str | None) -> str:
    """Return the value of ``nnUNet_extTrainer`` with our folder appended once, after the user's own folders.

    That of another installation of this package, whose environment the value was inherited from, is left out: nnU-Net
    would search there first, and import from it what this installation does not have.
    """
    given = (entry for entry in (current or "").split(os.pathsep) if entry.strip())
    entries = [entry for entry in given if not is_of_another_installation(entry)]
    if DISCOVERY_FOLDER not in entries:
        entries.append(DISCOVERY_FOLDER)
    return os.pathsep.join(entries)


def is_of_another_installation(folder: str) -> bool:
    """Whether a folder is the one that another installation of this package adds."""
    path = os.path.normpath(folder)
    return path.endswith(os.path.join("nnunet_plugins", "_discovery")) and path != DISCOVERY_FOLDER


def extend() -> None:
    """Extend ``nnUNet_extTrainer`` in this process and its children."""
    os.environ[SEARCH_PATH_VARIABLE] = search_path(os.environ.get(SEARCH_PATH_VARIABLE))


def switched_off() -> bool:
    """Whether the user has switched off the extension of the search path at the start of Python."""
    return os.environ.get(DISABLE_VARIABLE, "").lower() in ("1", "true", "t")


def is_nnunet_command() -> bool:
    """Whether this process is one of nnU-Net's commands, by the name of its script or module."""
    return any(os.path.basename(argument).startswith(("nnUNetv2_", "nnunetv2.")) for argument in sys.orig_argv[1:4])


def activate() -> None:
    """Extend the search path at the start of Python, unless the user has switched that off.

    nnU-Net's commands also learn to print our errors as sentences: of trainings on several GPUs, which search for
    trainers in processes of their own, the first process sees no other module of this package.
    """
    if switched_off():
        return
    extend()
    if is_nnunet_command():
        from nnunet_plugins.errors import print_sentences

        print_sentences(explain_misspelt_trainer)


def explain_misspelt_trainer(error: BaseException) -> str | None:
    """Tell which trainer was meant, if a command has found nothing of the one that it was given: few search for it."""
    from nnunet_plugins.trainers.near_names import misspelt_trainer

    return misspelt_trainer(sys.argv[1:], str(error))
