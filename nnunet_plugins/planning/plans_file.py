"""The plans file of a trainer and a GPU: its content, its note of how it was made, and its writing."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write, read_json
from nnunet_plugins.planning.fitting import Fitted, Search
from nnunet_plugins.planning.names import NOTE, fitted_plans_name, without_length
from nnunet_plugins.planning.requirement import Requirement
from nnunet_plugins.planning.source import Source, configurations_for, find_trainer_class

FITTED_KEYS = ("batch_size", "patch_size", "architecture")


class MadePlans(NamedTuple):
    """Plans of a trainer and a GPU, and how they differ from those that they were made from."""

    source: Source
    path: Path
    content: dict[str, Any]
    fitted: dict[str, Fitted]
    written: bool
    """Whether the file is new; else it had the same content already."""


def make_plans(source: Source, trainer: str, gpu_memory_gb: float, asked: Sequence[str] = ()) -> MadePlans:
    """Fit configurations of a trainer to a GPU, and write their plans beside those that they are made from.

    Args:
        source: plans that nnU-Net has made, or a user has edited.
        trainer: name of the trainer; a length in it plays no part.
        gpu_memory_gb: memory of the GPU, in GiB.
        asked: names of configurations; if empty, all that the method can do. Configurations that an earlier run of the
            command has planned are planned again with them.

    Raises:
        UserError: the trainer, a configuration or the planner is not to be found, a configuration does not fit, or
            there is a file of that name that this command has not made.
    """
    trainer_class = find_trainer_class(trainer)
    names = configurations_for(source, trainer_class, asked)
    path = source.folder / f"{fitted_plans_name(source.plans_name, trainer, gpu_memory_gb)}.json"
    before = read_earlier(path)
    if before is not None:
        earlier = [name for name in before["configurations"] if name in source.plans["configurations"]]
        names = source.linked([*names, *earlier])
    search = Search(source, trainer_class, gpu_memory_gb)
    fitted = {name: search.fit(name) for name in tqdm(names, desc="Configurations", leave=False)}
    content = fitted_plans(source, trainer, gpu_memory_gb, fitted)
    return MadePlans(source, path, content, fitted, write_plans(path, content, before))


def fitted_plans(source: Source, trainer: str, gpu_memory_gb: float, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """Content of the plans of a trainer and a GPU.

    Args:
        source: the plans that were fitted.
        trainer: name of the trainer.
        gpu_memory_gb: the GPU's memory.
        fitted: the fitted configurations, by name.
    """
    plans = copy.deepcopy(source.plans) | {"plans_name": fitted_plans_name(source.plans_name, trainer, gpu_memory_gb)}
    plans.pop(NOTE, None)
    plans["configurations"] = {name: own_part(name, plans["configurations"], fitted) for name in fitted}
    estimates = {name: fit.needs_after._asdict() for name, fit in fitted.items()}
    about = {
        "from": source.plans_name,
        "from_sha256": content_hash(source.plans),
        "trainer": without_length(trainer),
        "gpu_memory_gb": gpu_memory_gb,
        "estimates": estimates,
    }
    plans = as_in_json(plans)
    return plans | {NOTE: about | {"sha256": content_hash(plans)}}


def own_part(name: str, old: Mapping[str, Any], fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """All that a fitted configuration says itself: what it said before, and where it differs from its parent."""
    own = {key: value for key, value in old[name].items() if key not in FITTED_KEYS}
    parent = own.get("inherits_from")
    inherited = fitted[parent].after if parent else {}
    after = fitted[name].after
    return own | {key: after[key] for key in FITTED_KEYS if key in after and after[key] != inherited.get(key)}


def noted_requirement(plans: Mapping[str, Any], configuration: str) -> Requirement | None:
    """Estimate that the plans keep of a configuration; None in plans that were not made here, or edited since."""
    if not is_own(plans) or configuration not in plans[NOTE]["estimates"]:
        return None
    return Requirement(**plans[NOTE]["estimates"][configuration])


def is_own(plans: Any) -> bool:
    """Whether plans were made here and not edited since."""
    note = plans.get(NOTE) if isinstance(plans, Mapping) else None
    if not isinstance(note, Mapping):
        return False
    return note.get("sha256") == content_hash({key: value for key, value in plans.items() if key != NOTE})


def is_made_from(path: Path, source: Source, configurations: Sequence[str]) -> bool:
    """Whether there are plans with these configurations, made from plans as they are now, edited since or not."""
    if not path.exists():
        return False
    plans = read_json(path, remedy="remove it, and give the command again")
    note = plans.get(NOTE, {})
    return note.get("from_sha256") == content_hash(source.plans) and set(configurations) <= set(plans["configurations"])


# ---- the file --------------------------------------------------------------------------------------------------------


def read_earlier(path: Path) -> dict[str, Any] | None:
    """Read what an earlier run of the same command has written; None if there is nothing.

    Raises:
        UserError: the file is not this command's, or was edited since.
    """
    if not path.exists():
        return None
    remedy = "move it away, and give the command again"
    plans = read_json(path, remedy=remedy)
    if not is_own(plans):
        raise UserError(f"{path} was not made by 'nnunet-plugins plan', or was edited since, and stays: {remedy}")
    return plans


def write_plans(path: Path, plans: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Write plans whole or not at all, unless the file has them already; whether it was written.

    Raises:
        UserError: the file cannot be written.
    """
    if plans == before:
        return False
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): check the folder and its permissions") from error
    return True


def content_hash(plans: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest()


def as_in_json(content: Any) -> Any:
    """Content as it is read back from a file, so that both can be compared."""
    return json.loads(json.dumps(content))
