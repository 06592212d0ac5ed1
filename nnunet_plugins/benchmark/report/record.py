"""The record of a report: suite, datasets, pictures, machine and software, in a JSON file with a schema version."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_plugins.benchmark.resources import Resources
from nnunet_plugins.benchmark.suite import Data, Suite, parse
from nnunet_plugins.errors import UserError

RECORD = "record.json"
SCHEMA = 4
"""Version of the record's fields; it grows when a report of an earlier version can no longer be verified."""

LATER_KEYS = {
    "gpu_memory_gb", "epochs_of", "external", "published", "slurm_constraint", "slurm_qos", "slurm_gpu", "slurm_jobs",
}  # fmt: skip
"""Keys of a suite's tables that the record holds only where they are used: earlier records lack them."""

Source = Literal["cluster_regex", "groups", "cases", "unknown"]
"""Authority on which cases are one unit: the suite's key, or the groups that the conversion recorded; none where there
are no groups, or the machine that wrote the report has not all of them."""


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset of the suite, by its number and by the conversion that made it."""

    id: int
    converter: str | None
    """Name of our conversion; None if the dataset was made otherwise."""
    units: Mapping[str, Source] = field(default_factory=dict)
    """Authority on the units of each part that has cases."""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    """Options of the conversion by which results are comparable with published ones, or not."""


@dataclass(frozen=True)
class Machine:
    """The machine that wrote the report."""

    platform: str
    processor: str
    usable_cores: int


@dataclass(frozen=True)
class Picture:
    """A picture on the page."""

    file: str
    """Name in the folder of figures."""
    caption: str
    sha256: str
    """Hash of its bytes, on the page as in the file."""


@dataclass(frozen=True)
class Record:
    """All that a reader must know to judge the numbers, and ``verify`` to make tables and page again."""

    suite: Suite
    datasets: Mapping[str, DatasetRecord]
    """Description of each dataset, by the name of its folder, ``DatasetNNN_Name``."""
    written: str
    """Time in UTC, ISO 8601."""
    machine: Machine
    versions: Mapping[str, str | None]
    """Versions of the installed packages and of Python, by name."""
    figures: tuple[Picture, ...] = ()
    case_pictures: tuple[Picture, ...] = ()
    case_page: str | None = None
    """Hash of the page of all cases; None if there is none."""

    def data(self, dataset: str) -> Data:
        """The suite's entry of a dataset."""
        return self.suite.data(self.datasets[dataset].id)

    def trainers_of(self, dataset: str) -> tuple[str, ...]:
        """The trainers that the suite trains on a dataset, in its order."""
        return self.suite.trainers_of(self.data(dataset))

    @property
    def num_trainings(self) -> int:
        """Number of trainings of a finished trainer on a dataset: folds times repetitions."""
        return len(self.suite.folds) * self.suite.repeats

    def to_json(self) -> str:
        content = asdict(self)
        content["suite"]["epochs_of"] = dict(self.suite.epochs_of)
        for table in (content["suite"], content["suite"]["resources"], *content["suite"]["datasets"]):
            for key in LATER_KEYS & table.keys():
                if not table[key] or table[key] == getattr(Resources, key, None):
                    del table[key]
        for dataset in content["datasets"].values():
            for key in ("units", "conversion"):
                if not dataset[key]:
                    del dataset[key]
        if self.case_page is None:
            del content["case_page"]
        return json.dumps({"schema": SCHEMA} | content, indent=1)


def read_record(folder: Path) -> Record:
    """Record of the report in a folder.

    Raises:
        OSError, ValueError: the folder holds none.
        UserError: another version of this package wrote it.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{RECORD} is nested too deeply") from error
    if not (isinstance(content, dict) and isinstance(content.get("versions"), dict)):
        raise ValueError(f"{RECORD} is incomplete")
    schema, version = content.get("schema", 1), content["versions"].get("nnunet-plugins")
    if schema != SCHEMA:
        raise UserError(
            f"{folder} was written by nnunet-plugins {version}, with schema {schema} of {RECORD}, which is not this "
            f"version's {SCHEMA}: verify it with nnunet-plugins {version}"
        )
    try:
        return from_json(content)
    except (LookupError, TypeError, AttributeError, UserError) as error:
        raise ValueError(f"{RECORD} is incomplete: {error}") from error


def from_json(content: Mapping[str, Any]) -> Record:
    suite = {key: value for key, value in content["suite"].items() if value is not None}
    return Record(
        suite=parse(suite),
        datasets={name: DatasetRecord(**dataset) for name, dataset in content["datasets"].items()},
        written=content["written"],
        machine=Machine(**content["machine"]),
        versions=content["versions"],
        figures=tuple(Picture(**picture) for picture in content["figures"]),
        case_pictures=tuple(Picture(**picture) for picture in content["case_pictures"]),
        case_page=content.get("case_page"),
    )
