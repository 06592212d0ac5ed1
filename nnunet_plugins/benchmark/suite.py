"""The suite file: trainers, datasets, folds, length of training and resources, read and validated."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.faults import BadSuite, Faults
from nnunet_plugins.benchmark.records import Bad, build, shown
from nnunet_plugins.benchmark.resources import MAX_NUMBER, Resources, problems_of_resources

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
LENGTH = re.compile(r"_(1epoch|\d+epochs|\d+iterations)$")

MAX_NAME = 100
"""Longest name of a suite, trainer, configuration or plans: together they become names of folders and logs."""
PLANS_MARK = "@"
"""Stands between a trainer and its own plans, e.g. ``nnUNetTrainer@nnUNetResEncUNetMPlans``."""


@dataclass(frozen=True)
class Data:
    """One ``[[datasets]]`` of the file."""

    id: int
    """nnU-Net's number of the dataset."""
    configurations: tuple[str, ...] = ("2d",)
    plans: str = "nnUNetPlans"
    tolerance: float = 1.0
    """Tolerance of NSD, in mm; in pixels where images have no spacing."""
    cluster_regex: str = ""
    """Expression whose first group, or whole match, is the patient in a case's name; if empty, each case is one."""
    test: bool = False
    """Whether ``imagesTs`` are predicted too and compared with ``labelsTs``."""
    trainers: tuple[str, ...] = ()
    """Trainers of the suite that can do this dataset; if empty, all can."""
    external: int | None = None
    """Number of another dataset whose ``imagesTs`` are predicted too, without ever training on it: zero-shot."""
    published: str = ""
    """Published dataset, by its converter's name, that the cases come from, where another conversion made them."""

    def cluster(self, case: str) -> str:
        """The statistical unit that a case belongs to."""
        if not self.cluster_regex:
            return case
        match = re.search(self.cluster_regex, case)
        patient = match and (match[1] if match.re.groups else match[0])
        if not patient:
            raise BadSuite(
                f"datasets: id {self.id}: cluster_regex {self.cluster_regex!r} does not match the case {case!r}: "
                "correct the expression, or leave the key out"
            )
        return patient


@dataclass(frozen=True)
class Suite:
    """Content of a valid suite file."""

    name: str
    trainers: tuple[str, ...]
    reference: str
    """The trainer that all others are compared with."""
    epochs: int
    datasets: tuple[Data, ...]
    iterations: int | None = None
    """Steps of an epoch; if None, nnU-Net's 250."""
    gpu_memory_gb: float | None = None
    """Memory of a GPU, in GiB, that every trainer gets plans for; if None, all of a dataset share its plans."""
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    repeats: int = 1
    resources: Resources = field(default_factory=Resources)
    epochs_of: tuple[tuple[str, int], ...] = ()
    """Trainers with other epochs than ``epochs``, e.g. for the same time instead of steps; in the file, a table."""

    def trainer_name(self, trainer: str) -> str:
        """Name under which nnU-Net trains a trainer of the suite for the suite's length."""
        epochs = self.epochs_for(trainer)
        length = f"_{epochs}epoch{'' if epochs == 1 else 's'}"
        return f"{divided(trainer)[0]}{length}" + (f"_{self.iterations}iterations" if self.iterations else "")

    def epochs_for(self, trainer: str) -> int:
        """Epochs that a trainer of the suite is trained for."""
        return dict(self.epochs_of).get(trainer, self.epochs)

    def trainers_of(self, data: Data) -> tuple[str, ...]:
        """Trainers that are trained on a dataset, in the suite's order."""
        return tuple(trainer for trainer in self.trainers if trainer in (data.trainers or self.trainers))

    def data(self, dataset_id: int) -> Data:
        return next(data for data in self.datasets if data.id == dataset_id)


def divided(trainer: str) -> tuple[str, str]:
    """Name of a trainer of a suite, and that of its own plans, if it has any.

    Example:
        >>> divided("nnUNetTrainer@nnUNetResEncUNetMPlans"), divided("nnUNetTrainer")
        (('nnUNetTrainer', 'nnUNetResEncUNetMPlans'), ('nnUNetTrainer', ''))
    """
    name, _, plans = trainer.partition(PLANS_MARK)
    return name, plans


def read_suite(path: Path) -> Suite:
    """Read and validate a suite file.

    Raises:
        BadSuite: the file cannot be read, or a key is missing, unknown or has a bad value.
    """
    content = content_of(path)
    try:
        return parse(content)
    except BadSuite as error:
        raise BadSuite(f"{path}: {error}") from error


def content_of(path: Path) -> dict[str, Any]:
    """Content of a suite file, valid or not.

    Raises:
        BadSuite: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        similar = get_close_matches(path.name, [file.name for file in path.parent.glob("*.toml") if file != path])
        hint = f"did you mean {' or '.join(similar)}?" if similar else "give the path of a suite file"
        raise BadSuite(f"{path} cannot be read ({reason}): {hint}") from error
    except RecursionError as error:
        raise BadSuite(f"{path} is nested too deeply for a suite, which has [[datasets]] and [resources]") from error
    except ValueError as error:  # a number of thousands of digits is one without being a TOMLDecodeError
        why = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it holds a number of thousands of digits"
        raise BadSuite(f"{path} is not TOML ({why}): lines are e.g. epochs = 100 or name = 'nuclei'") from error


def parse(content: Mapping[str, Any]) -> Suite:
    """Suite from the content of its file.

    Raises:
        BadSuite: with all that is wrong with it.
    """
    suite, faults, _ = examine(content)
    faults.end_command()
    return suite


def examine(content: Mapping[str, Any]) -> tuple[Suite, Faults, Bad]:
    """Suite from the content of its file, with defaults in place of what cannot be one, all faults, and their keys."""
    faults, bad = Faults(), Bad()
    tables, resources = content.get("datasets"), content.get("resources", {})
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        found, tables = f"datasets = {shown(tables)}" if "datasets" in content else "datasets", []
        faults.note(BadSuite(f"{found}: expected at least one [[datasets]] with an id, e.g. id = 501"))
    if not isinstance(resources, dict):
        found, resources = f"resources = {shown(resources)}", {}
        faults.note(BadSuite(f"{found}: expected a table, [resources], with keys such as cpus"))
    records = {
        "datasets": tuple(build(Data, table, f"datasets[{index}].", faults, bad) for index, table in enumerate(tables)),
        "resources": build(Resources, resources, "resources.", faults, bad),
    }
    suite = build(Suite, dict(content) | records, "", faults, bad)
    for key, value, expectation in problems(suite):
        if not bad.explains(key):
            faults.note(BadSuite(f"{key} = {shown(value)}: {expectation}"))
            bad.values.add(key)
    return suite, faults, bad


def problems(suite: Suite) -> Iterator[tuple[str, Any, str]]:
    """Key, bad value and expectation of all values that have the right type but cannot be used."""
    if not usable_name(suite.name):
        yield "name", suite.name, f"it becomes a folder: use letters, digits, '_', '-' and '.', at most {MAX_NAME}"
    if not suite.trainers:
        yield "trainers", [], "name at least one trainer, e.g. 'nnUNetTrainer'"
    yield from not_unique("trainers", suite.trainers)
    for trainer in suite.trainers:
        name, plans = divided(trainer)
        if not name.isidentifier() or len(name) > MAX_NAME:
            yield "trainers", trainer, "this is no name of a trainer; 'nnunet-plugins list' prints ours"
        if PLANS_MARK in trainer and not usable_name(plans):
            yield "trainers", trainer, "expected a trainer, or a trainer and its plans: 'nnUNetTrainer@nnUNetPlans'"
        if LENGTH.search(name):
            yield "trainers", trainer, "leave the length out of the name: epochs and iterations set it for all"
    if suite.reference not in suite.trainers:
        yield "reference", suite.reference, f"it must be one of trainers: {', '.join(suite.trainers)}"
    yield from problems_of_length(suite)
    if suite.gpu_memory_gb is not None and not 0 < suite.gpu_memory_gb <= MAX_NUMBER:
        yield "gpu_memory_gb", suite.gpu_memory_gb, "expected the memory of a GPU in GiB, e.g. 24"
    if not suite.folds or not all(0 <= fold <= MAX_NUMBER for fold in suite.folds):
        yield "folds", list(suite.folds), "expected fold numbers from 0, e.g. [0, 1, 2, 3, 4]"
    yield from not_unique("folds", suite.folds)
    yield from not_unique("datasets", [data.id for data in suite.datasets])
    for index, data in enumerate(suite.datasets):
        for key, value, expectation in problems_of_data(suite, data):
            yield f"datasets[{index}].{key}", value, expectation
    for key, value, expectation in problems_of_resources(suite.resources):
        yield f"resources.{key}", value, expectation


def problems_of_length(suite: Suite) -> Iterator[tuple[str, Any, str]]:
    for key in ("epochs", "iterations", "repeats"):
        value = getattr(suite, key)
        if value is not None and not 1 <= value <= 999_999_999:
            yield key, value, "expected a whole number from 1 to 999999999"
    for trainer, epochs in suite.epochs_of:
        if trainer not in suite.trainers:
            yield "epochs_of", trainer, f"it must be one of trainers: {', '.join(suite.trainers)}"
        if not 1 <= epochs <= 999_999_999:
            yield f"epochs_of.{trainer}", epochs, "expected a whole number from 1 to 999999999"


def problems_of_data(suite: Suite, data: Data) -> Iterator[tuple[str, Any, str]]:
    for key, number in (("id", data.id), ("external", data.external)):
        if number is not None and not 1 <= number <= 999:
            yield key, number, "nnU-Net's datasets have numbers from 1 to 999"
    if data.external == data.id:
        yield "external", data.external, "this is the dataset itself, whose own test set is 'test = true'"
    if not data.configurations:
        yield "configurations", [], "name at least one, e.g. ['2d']"
    yield from not_unique("configurations", data.configurations)
    for key, names in (("plans", [data.plans]), ("configurations", data.configurations)):
        for name in names:
            if not usable_name(name):
                yield key, name, "expected a name as for nnUNetv2_train"
    trained = [(name, plans or data.plans) for name, plans in map(divided, suite.trainers_of(data))]
    for (name, plans), trainer in zip(trained, suite.trainers_of(data), strict=True):
        if trained.count((name, plans)) > 1 and PLANS_MARK in trainer:
            yield "plans", plans, f"{trainer} is the same as {name} on this dataset: leave one out"
    if "3d_cascade_fullres" in data.configurations:
        yield "configurations", "3d_cascade_fullres", "the cascade needs all folds of 3d_lowres first: not supported"
    if not 0 <= data.tolerance < float("inf"):
        yield "tolerance", data.tolerance, "expected a distance in mm (pixels where images have no spacing)"
    try:
        re.compile(data.cluster_regex)
    except (re.error, OverflowError, RecursionError) as error:
        yield "cluster_regex", data.cluster_regex, f"this is no regular expression ({error}): correct it"
    yield from not_unique("trainers", data.trainers)
    for trainer in data.trainers:
        if trainer not in suite.trainers:
            yield "trainers", trainer, "it must be one of the suite's trainers too"
    if data.trainers and suite.reference not in data.trainers:
        yield "trainers", list(data.trainers), f"the reference, {suite.reference}, must be among them"


def usable_name(name: str) -> bool:
    """Whether a name can be part of a folder's."""
    return bool(NAME.fullmatch(name)) and len(name) <= MAX_NAME


def not_unique(key: str, values: Sequence[Any]) -> Iterator[tuple[str, Any, str]]:
    for value in values:
        if values.count(value) > 1:
            yield key, value, "it is named twice: remove one"
