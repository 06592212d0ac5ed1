"""What the trainings of a suite have left, as tables: one row a case and label, one a training, one an epoch."""

import datetime
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.runs import VALIDATION, Run, dataset_json, work_folder
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, usable_cores

METRICS = tuple(HIGHER_IS_BETTER)
CELL = ["dataset", "configuration", "part", "trainer"]
"""What a row of the result tables is about."""
CASE_COLUMNS = [*CELL, "repeat", "fold", "case", "cluster", "label", "outcome", *METRICS]
COST_COLUMNS = [
    "dataset", "configuration", "trainer", "repeat", "fold", "epochs", "seconds_per_epoch", "training_hours",
    "seconds_per_case", "peak_gb_allocated", "peak_gb_reserved", "compiled", "device", "gpu_name", "hostname",
    "torch_version", "cudnn_version",
]  # fmt: skip


class Results(NamedTuple):
    """All that a report is made of."""

    cases: pd.DataFrame
    trainings: pd.DataFrame
    curves: pd.DataFrame
    costs: pd.DataFrame
    """Of ``benchmark cost``; empty if it was not run."""
    record: dict[str, Any]
    """The suite, the datasets, the machine and the software."""


def collect(survey: Survey) -> Results:
    """
    Raises:
        UserError: nothing is done yet.
    """
    cases: list[dict[str, Any]] = []
    trainings: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    for run in survey.runs:
        if run not in survey.done:
            continue
        about: dict[str, Any] = {"dataset": run.dataset, "configuration": run.configuration, "trainer": run.trainer}
        about |= {"repeat": run.repeat, "fold": run.fold}
        receipt = read_receipt(run.training_receipt)
        rows = [row for row in read_receipt(run.validation_receipt)["cases"] if row["part"] in run.parts]
        cases += [about | row | {"cluster": run.data.cluster(row["case"])} for row in rows]
        trainings.append(about | training_row(run, receipt, rows))
        curve = pd.DataFrame(receipt["curves"]).assign(**about)
        curves.append(curve.assign(epoch=range(1, len(curve) + 1)))
    if not cases:
        raise UserError(f"No training of {survey.suite.name} is done yet: see 'nnunet-plugins benchmark status'")
    order = [*CELL, "repeat", "fold", "case", "label"]
    return Results(
        cases=pd.DataFrame(cases).reindex(columns=CASE_COLUMNS).sort_values(order, ignore_index=True),
        trainings=pd.DataFrame(trainings).reindex(columns=COST_COLUMNS),
        curves=pd.concat(curves, ignore_index=True),
        costs=read_costs(survey),
        record=record(survey),
    )


def training_row(run: Run, receipt: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds, measured = pd.Series(receipt["epoch_seconds"], dtype=float), receipt["measured"]
    num_cases = len({row["case"] for row in rows if row["part"] == VALIDATION})
    validation = measured.get("validation_seconds")
    machine = {name: None if value in (None, "None") else str(value) for name, value in receipt["machine"].items()}
    return machine | {
        "epochs": len(seconds),
        "seconds_per_epoch": seconds.median(),
        "training_hours": seconds.sum() / 3600,
        "seconds_per_case": None if validation is None else validation / num_cases,
        "peak_gb_allocated": gigabytes(measured.get("peak_bytes_allocated")),
        "peak_gb_reserved": gigabytes(measured.get("peak_bytes_reserved")),
        "compiled": measured.get("compiled"),
    }


def gigabytes(size: float | None) -> float | None:
    return None if size is None else size / 2**30


def cost_file(suite: Suite) -> Path:
    return work_folder(suite) / "cost.json"


def read_costs(survey: Survey) -> pd.DataFrame:
    """What ``benchmark cost`` has measured of the suite as it is now."""
    path = cost_file(survey.suite)
    rows = read_json(path, remedy="remove it, and run 'benchmark cost' again") if path.exists() else []
    wanted = {(run.dataset, run.configuration, run.trainer, run.data.plans) for run in survey.runs}
    about = ("dataset", "configuration", "trainer", "plans")
    return pd.DataFrame(row for row in rows if tuple(row[name] for name in about) in wanted)


def record(survey: Survey) -> dict[str, Any]:
    """What a reader must know to judge the numbers, and ``verify`` to make the tables again."""
    suite, datasets = survey.suite, {}
    for run in survey.runs:
        datasets[run.dataset] = {
            "converter": (dataset_json(run).get("conversion") or {}).get("name"),
            "tolerance": run.data.tolerance,
            "trainers": list(suite.trainers_of(run.data)),
        }
    return {
        "suite": asdict(suite),
        "datasets": datasets,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "processor": processor(), "usable_cores": usable_cores()},
        "versions": {name: installed(name) for name in ("nnunet-plugins", "nnunetv2", "torch", "numpy", "scipy")}
        | {"python": platform.python_version()},
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
