"""Collects what the finished runs of a suite have left into the results of a report."""

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.report.clusters import Part, clusters_of
from nnunet_plugins.benchmark.report.record import DatasetRecord, Machine, Record, Source
from nnunet_plugins.benchmark.report.results import (
    CASE_COLUMNS,
    EVALUATION_COLUMNS,
    FIT_COLUMNS,
    TRAINING_COLUMNS,
    Results,
)
from nnunet_plugins.benchmark.runs import (
    VALIDATION,
    Run,
    dataset_json,
    estimate_of,
    is_test_set,
    planned_configuration,
    references,
    work_folder,
)
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, usable_cores

PACKAGES = ("nnunet-plugins", "nnunetv2", "torch", "numpy", "scipy", "pandas", "tabulate", "matplotlib")
"""Packages whose versions are recorded: the numbers and the tables depend on them."""


def collect(survey: Survey) -> Results:
    """Results of all finished runs.

    Raises:
        UserError: none is finished yet.
    """
    cases: list[dict[str, Any]] = []
    trainings: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    groups: dict[Part, dict[str, str]] = {}
    for run in survey.runs:
        if run not in survey.done:
            continue
        about: dict[str, Any] = {"dataset": run.dataset, "configuration": run.configuration, "trainer": run.trainer}
        about |= {"repeat": run.repeat, "fold": run.fold}
        receipt = read_receipt(run.training_receipt)
        measured = read_receipt(run.validation_receipt)
        rows = [row for part in run.parts for row in rows_of_part(run, part, measured["cases"])]
        cases += [about | row for row in rows]
        for part, noted in measured.get("groups", {}).items():
            groups.setdefault((run.dataset, part), {}).update(noted)
        trainings.append(about | training_row(run, receipt, rows) | fit_row(run))
        curve = pd.DataFrame(receipt["curves"]).assign(**about)
        curves.append(curve.assign(epoch=range(1, len(curve) + 1)))
    if not cases:
        raise UserError(f"No training of {survey.suite.name} is done yet: see 'nnunet-plugins benchmark status'")
    fitted = FIT_COLUMNS if survey.suite.gpu_memory_gb is not None else []
    every_case = pd.DataFrame(cases)
    clusters, units = clusters_of(every_case, survey.runs, groups)
    order = [*EVALUATION_COLUMNS, "trainer", "repeat", "fold", "case", "label"]
    return Results(
        cases=every_case.assign(cluster=clusters).reindex(columns=CASE_COLUMNS).sort_values(order, ignore_index=True),
        trainings=pd.DataFrame(trainings).reindex(columns=[*TRAINING_COLUMNS, *fitted]),
        curves=pd.concat(curves, ignore_index=True),
        costs=read_costs(survey),
        record=make_record(survey, units),
    )


def rows_of_part(run: Run, part: str, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measured rows of a part's cases; where a test set is on this machine, of those that it still has."""
    rows = [row for row in measured if row["part"] == part]
    there = references(run, part) if is_test_set(part) else {}
    return [row for row in rows if row["case"] in there] if there else rows


def training_row(run: Run, receipt: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Times, memory and machine of a training, from its receipt and the rows of its cases."""
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


def fit_row(run: Run) -> dict[str, Any]:
    """Plans of a run, with the estimate of the step's memory; nothing, unless they are made for a GPU."""
    if run.gpu_memory_gb is None:
        return {}
    configuration = planned_configuration(run)
    patch = " x ".join(map(str, configuration["patch_size"]))
    return {"plans": run.plans, "patch": patch, "batch": configuration["batch_size"]} | estimate_of(run)


def gigabytes(size: float | None) -> float | None:
    return None if size is None else size / 2**30


def cost_file(suite: Suite) -> Path:
    return work_folder(suite) / "cost.json"


def read_costs(survey: Survey) -> pd.DataFrame:
    """Measurements of ``benchmark cost`` for the runs that the suite has now."""
    path = cost_file(survey.suite)
    rows = read_json(path, remedy="remove it, and run 'benchmark cost' again") if path.exists() else []
    wanted = {(run.dataset, run.configuration, run.trainer, run.plans) for run in survey.runs}
    about = ("dataset", "configuration", "trainer", "plans")
    return pd.DataFrame(row for row in rows if tuple(row[name] for name in about) in wanted)


def make_record(survey: Survey, units: Mapping[str, Mapping[str, Source]]) -> Record:
    """Record of a report that is written now, on this machine, still without pictures.

    Args:
        survey: the suite and its runs.
        units: authority on the units of each dataset and part.
    """
    datasets = {run.dataset: run for run in survey.runs}
    return Record(
        suite=survey.suite,
        datasets={
            name: DatasetRecord(run.data.id, converter(run), units.get(name, {}), conversion(run))
            for name, run in datasets.items()
        },
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=Machine(platform.platform(), processor(), usable_cores()),
        versions={name: installed(name) for name in PACKAGES} | {"python": platform.python_version()},
    )


def converter(run: Run) -> str | None:
    """Name of the conversion that made the run's dataset, as its ``dataset.json`` says."""
    return (dataset_json(run).get("conversion") or {}).get("name")


def conversion(run: Run) -> dict[str, Any]:
    """Options of that conversion which decide whether results can be compared with published ones."""
    made = dataset_json(run).get("conversion") or {}
    return {key: made[key] for key in ("paper_split", "splits", "resize") if key in made}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)


def installed(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
