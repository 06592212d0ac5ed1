"""Everything that planning starts from: a dataset's plans, its description and fingerprint, and a trainer's class."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_plugins import _startup, quiet_timm  # noqa: F401
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json
from nnunet_plugins.nnunet_folders import (
    FINGERPRINT,
    PREPROCESSED,
    RAW,
    dataset_name,
    find_nnunet_folder,
    nnunet_folder,
)
from nnunet_plugins.planning.names import planning_command

LINKS = ("inherits_from", "previous_stage", "next_stage")
"""Keys of a configuration that name other configurations, without which it cannot be trained."""
NEEDED = ("patch_size", "batch_size", "spacing", "median_image_size_in_voxels", "data_identifier", "architecture")
"""Keys of a configuration that planning reads."""


@dataclass(frozen=True)
class Source:
    """A dataset as nnU-Net has planned it."""

    dataset_id: int
    dataset: str
    """``DatasetNNN_Name``"""
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    fingerprint: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the dataset's plans and preprocessed data."""
        return nnunet_folder(PREPROCESSED) / self.dataset

    @property
    def plans_name(self) -> str:
        return self.plans["plans_name"]

    def configuration(self, name: str) -> dict[str, Any]:
        """A configuration with all that it inherits.

        Raises:
            UserError: it inherits from one that is not there, or lacks a key.
        """
        try:
            configuration = PlansManager(self.plans).get_configuration(name).configuration
            missing = [key for key in NEEDED if key not in configuration]
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{self.plans_name} of {self.dataset} cannot be read ({error}): {self.remedy}") from error
        if missing:
            raise UserError(
                f"Configuration {name} of {self.plans_name} of {self.dataset} has no {missing[0]}: {self.remedy}"
            )
        return configuration

    @property
    def remedy(self) -> str:
        return f"correct the plans, or make them again, with {planning_command(self.dataset_id, self.plans_name)}"

    def dimensions(self, name: str) -> int:
        return len(self.configuration(name)["patch_size"])

    def linked(self, names: Sequence[str]) -> list[str]:
        """Configurations with all that they need: what they inherit from, and the other stages of a cascade."""
        found, waiting = set(), list(names)
        while waiting:
            name = waiting.pop()
            found.add(name)
            links = [self.plans["configurations"][name].get(link) or [] for link in LINKS]
            others = [other for link in links for other in ([link] if isinstance(link, str) else link)]
            waiting += [other for other in others if other not in found and other in self.plans["configurations"]]
        return [name for name in self.plans["configurations"] if name in found]


def read_source(dataset_id: int, plans_name: str = "nnUNetPlans") -> Source:
    """Read a dataset's plans, whether it is preprocessed or not; the raw data are not needed.

    Raises:
        UserError: there is no such dataset, it has no such plans or no fingerprint, or a file is damaged.
    """
    name = dataset_name(dataset_id, (RAW, PREPROCESSED) if find_nnunet_folder(RAW) else (PREPROCESSED,))
    folder = nnunet_folder(PREPROCESSED) / name
    files = {
        folder / f"{plans_name}.json": planning_command(dataset_id, plans_name),
        folder / FINGERPRINT: f"nnUNetv2_extract_fingerprint -d {dataset_id}",
    }
    for path, command in files.items():
        if not path.is_file():
            raise UserError(f"{path} is not there: make it with {command}, or correct -d or -p")
    again = {path: f"move it away and make it again, with {command}" for path, command in files.items()}
    plans, fingerprint = (read_json(path, remedy) for path, remedy in again.items())
    dataset_json = read_json(folder / "dataset.json", remedy="copy it there from the raw dataset")
    own_name = plans.get("plans_name") if isinstance(plans, dict) else None
    if own_name != plans_name or not isinstance(plans.get("configurations"), dict) or not plans["configurations"]:
        raise UserError(
            f"{folder / plans_name}.json is no plans file of that name (its plans_name is {own_name!r}, which must be "
            f"the file's, and it must have configurations): correct it, or {next(iter(again.values()))}"
        )
    for content, file, keys in (
        (fingerprint, FINGERPRINT, ("spacings", "shapes_after_crop")),
        (dataset_json, "dataset.json", ("labels", "numTraining")),
    ):
        if not isinstance(content, dict) or (missing := [key for key in keys if key not in content]):
            what = f"lacks {missing[0]}" if isinstance(content, dict) else "is damaged"
            raise UserError(f"{folder / file} {what}: make it again, as nnU-Net's documentation says")
    return Source(dataset_id, name, plans, dataset_json, fingerprint)


def find_trainer_class(name: str) -> type:
    """Find a trainer as nnU-Net finds it.

    Raises:
        UserError: there is none of that name.
    """
    _startup.extend()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return recursive_find_trainer_class_by_name(name)
        except RuntimeError as error:
            if isinstance(error, UserError):  # which knows the name that was meant
                raise
            raise UserError(
                f"nnU-Net finds no trainer {name!r}: correct the name; 'nnunet-plugins list' prints ours"
            ) from error


def configurations_for(source: Source, trainer: type, asked: Sequence[str] = ()) -> list[str]:
    """Configurations to plan: those asked for, or all that the method can do, each with those that it needs.

    Raises:
        UserError: the plans or the method lack one that was asked for, or share none.
    """
    known = known_configurations(source, ())
    possible = [name for name in known if source.dimensions(name) in dimensions_of(trainer)]
    impossible = [name for name in known_configurations(source, asked) if name not in possible]
    if (asked and impossible) or not possible:
        remedy = f"-c {' '.join(possible)}" if possible else "use another trainer"
        which = impossible[0] if impossible else known[0]
        raise UserError(
            f"{trainer.__name__} works in {in_dimensions(trainer)} only, but {which} of {source.dataset} is "
            f"{source.dimensions(which)}D: {remedy}"
        )
    return source.linked(asked or possible)


def known_configurations(source: Source, asked: Sequence[str]) -> list[str]:
    """Configurations asked for, or all of the plans.

    Raises:
        UserError: the plans lack one.
    """
    known = list(source.plans["configurations"])
    for name in asked:
        if name not in known:
            raise UserError(
                f"{source.plans_name} of {source.dataset} has no configuration {name!r}: choose from {', '.join(known)}"
            )
    return [name for name in known if name in asked] if asked else known


def dimensions_of(trainer: type) -> tuple[int, ...]:
    """Dimensions in which a trainer works; both, unless it says otherwise."""
    return getattr(trainer, "supported_dimensions", (2, 3))


def in_dimensions(trainer: type) -> str:
    return " or ".join(f"{dimensions}D" for dimensions in dimensions_of(trainer))


def is_preprocessed(source: Source, configuration: str) -> bool:
    """Whether there are preprocessed data for a configuration."""
    return any((source.folder / source.configuration(configuration)["data_identifier"]).glob("*.pkl"))
