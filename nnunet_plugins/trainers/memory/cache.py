"""Estimates that are kept on disk, so that each is computed once."""

import contextlib
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_plugins.files import digest, read_json, write_json
from nnunet_plugins.trainers.memory.estimate import Estimate, estimate_training

PACKAGE = Path(__file__).parents[2]
ROOMS = ("architectures", "losses", "trainers")
PACKAGES = ("nnunet-plugins", "nnunetv2", "dynamic-network-architectures", "torch", "timm")


def cached_estimate(
    trainer_class: type,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    *,
    batch_size: int | None = None,
    recompute: bool = False,
) -> Estimate:
    """Return what :func:`estimate_training` does, from the user's cache if it is there.

    The cache is ``nnunet_plugins`` in ``$XDG_CACHE_HOME``, most often ``~/.cache``. Where it cannot be written, nothing
    is kept.
    """
    labels = {key: dataset_json.get(key) for key in ("channel_names", "modality", "labels", "regions_class_order")}
    asked = [trainer_class.__name__, sources_digest(trainer_class), plans, configuration, labels, batch_size, recompute]
    versions = [version(package) for package in PACKAGES]
    key = hashlib.sha256(json.dumps([asked, versions], sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder() / f"{key}.json"
    with contextlib.suppress(ValueError, TypeError):  # missing, damaged, or of another form
        return Estimate(**read_json(path))
    estimate = estimate_training(
        trainer_class, plans, configuration, dataset_json, batch_size=batch_size, recompute=recompute
    )
    with contextlib.suppress(OSError):
        write_json(path, estimate._asdict())
    return estimate


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # "~" itself, where there is no home
    return Path(base, "nnunet_plugins", "estimates")


@functools.cache
def sources_digest(trainer_class: type) -> str:
    """Hash of the files in which a trainer's classes are written, of those beside them, and of this package's."""
    files = {inspect.getsourcefile(base) for base in trainer_class.__mro__ if base.__module__ != "builtins"}
    written = [Path(file) for file in files if file]
    own = [path for room in ROOMS for path in (PACKAGE / room).rglob("*.py")]
    beside = [path for file in written if "site-packages" not in file.parts for path in file.parent.glob("*.py")]
    return digest(*sorted({*own, *written, *beside}))
