"""Misspelt names of trainers, and the names that were meant."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from nnunet_plugins._startup import DISCOVERY_FOLDER, SEARCH_PATH_VARIABLE
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import TRAINERS

KNOWN = {name.lower(): name for name in ("nnUNetTrainer", *TRAINERS)}
SUFFIX = re.compile(
    r"_(?:(?P<pretrained>pretrained)|earlyStop_?(?P<patience>\d+)|(?P<epochs>\d+)_?epochs?"
    r"|(?P<iterations>\d+)_?iterations?)(?=_|$)",
    re.ASCII | re.IGNORECASE,
)
"""A suffix as one may write it by mistake, at whatever place."""


class UnknownTrainer(UserError, RuntimeError):
    """A name that no trainer has, but one much like it; a RuntimeError, as nnU-Net itself raises."""

    def __init__(self, name: str, meant: str):
        super().__init__(
            f"There is no trainer {name}: did you mean {meant}? 'nnunet-plugins list' prints ours, and what can be "
            "added to any name."
        )
        self.meant = meant


def refuse_near_name(name: str) -> None:
    """Raise if nobody can have a trainer of this name, and one of ours or nnU-Net's is called much like it.

    nnU-Net asks the folders of its search path one after the other. Only if ours is the last of them has it asked all.

    Raises:
        UnknownTrainer: with the name that was meant.
    """
    meant = near_name(name)
    if meant is not None and meant != name and ours_is_asked_last():
        raise UnknownTrainer(name, meant)


def misspelt_trainer(arguments: list[str], error: str) -> str | None:
    """Tell which trainer was meant by a name among a command's arguments that an error names, if it is misspelt.

    nnU-Net's prediction and its search for the best configuration look for the trainer's results only.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    for name in arguments:
        if name in error and near_name(name) not in (name, None):
            try:
                recursive_find_trainer_class_by_name(name)
            except UnknownTrainer as unknown:
                return str(unknown)
            except Exception:  # whatever a folder of others raises: the error is told as it is
                return None
    return None


def near_name(name: str) -> str | None:
    """The name that was meant, with its suffixes in their order; None if the name is like none that is known.

    Example:
        >>> near_name("DCFFSNetTrainr_5iterations_1epochs"), near_name("SwinUNETRTrainer")
        ('DCFFSNetTrainer_1epoch_5iterations', None)
    """
    wishes: dict[str, str] = {}
    for match in SUFFIX.finditer(name):
        wishes |= {part: value.lstrip("0") for part, value in match.groupdict().items() if value is not None}
    base = SUFFIX.sub("", name).lower().strip("_ ")
    near = get_close_matches(base, KNOWN, 1, 0.85) or get_close_matches(f"{base}trainer", KNOWN, 1, 0.9)
    if not near or not all(wishes.values()):  # a length of 0 is not misspelt
        return None
    meant = KNOWN[near[0]] + "_pretrained" * ("pretrained" in wishes)
    if "patience" in wishes:
        meant += f"_earlyStop{wishes['patience']}"
    if "epochs" in wishes:
        meant += f"_{wishes['epochs']}epoch" + "s" * (wishes["epochs"] != "1")
    return meant + (f"_{wishes['iterations']}iterations" if "iterations" in wishes else "")


def ours_is_asked_last() -> bool:
    """Whether no folder that exists comes after ours on nnU-Net's search path."""
    entries = os.environ.get(SEARCH_PATH_VARIABLE, "").split(os.pathsep)
    searched = [entry for entry in entries if entry.strip() and os.path.exists(entry)]
    return bool(searched) and Path(searched[-1]).resolve() == Path(DISCOVERY_FOLDER).resolve()
