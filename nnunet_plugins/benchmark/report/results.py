"""The data files of a report: a row for each case and label, each training, each epoch, each measured cost."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.record import RECORD, Record, read_record
from nnunet_plugins.errors import UserError, reason

DATA_FILES = ("cases.csv", "trainings.csv", "curves.csv", "costs.csv")
METRICS = tuple(HIGHER_IS_BETTER)


class Evaluation(NamedTuple):
    """Dataset, configuration and part (validation or test) on which trainers are compared."""

    dataset: str
    configuration: str
    part: str

    def __str__(self) -> str:
        return " ".join(self)


EVALUATION_COLUMNS = list(Evaluation._fields)
RUN: dict[str, type] = dict.fromkeys((*EVALUATION_COLUMNS, "trainer"), str) | {"repeat": int, "fold": int}
CASES = RUN | dict.fromkeys(("case", "cluster", "label", "outcome"), str) | dict.fromkeys(METRICS, float)
TRAININGS: dict[str, type | None] = {name: kind for name, kind in RUN.items() if name != "part"} | {
    "epochs": int, "seconds_per_epoch": float, "training_hours": float, "seconds_per_case": float,
    "peak_gb_allocated": float, "peak_gb_reserved": float, "compiled": None, "device": str, "gpu_name": str,
    "hostname": str, "torch_version": str, "cudnn_version": str,
}  # fmt: skip
FIT: dict[str, type] = {"plans": str, "patch": str, "batch": int, "estimate_gb": float}
"""Further columns of trainings whose plans are made for a GPU."""
COSTS: dict[str, type] = {"parameters": int, "flops": int, "memory_mb": float} | {
    f"{time}{bound}": float for time in ("step_ms", "latency_ms") for bound in ("", "_low", "_high")
}
"""Columns of the costs alone."""
CASE_COLUMNS, TRAINING_COLUMNS, FIT_COLUMNS = list(CASES), list(TRAININGS), list(FIT)
TYPES = {name: kind for name, kind in (CASES | TRAININGS | FIT | COSTS).items() if kind}
"""Type of each column, in any of the files; of the others pandas finds it."""


class Results(NamedTuple):
    """All data of a report, from which its tables and figures are made."""

    cases: pd.DataFrame
    """Metrics of each case and label, with :data:`CASE_COLUMNS`."""
    trainings: pd.DataFrame
    """Times, memory and machine of each training, with :data:`TRAINING_COLUMNS`."""
    curves: pd.DataFrame
    """Losses and Dice of each epoch."""
    costs: pd.DataFrame
    """Measurements of ``benchmark cost``; empty if it was not run."""
    record: Record


def by_evaluation(rows: pd.DataFrame) -> Iterator[tuple[Evaluation, pd.DataFrame]]:
    """Rows of each evaluation, in alphabetical order."""
    for key, group in rows.groupby(EVALUATION_COLUMNS, sort=True):
        yield Evaluation(*map(str, key)), group


def write_data(results: Results, folder: Path) -> None:
    for name, frame in zip(DATA_FILES, results[:4], strict=True):
        (folder / name).write_text(frame.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    (folder / RECORD).write_text(results.record.to_json(), encoding="utf-8")


def read_data(folder: Path) -> Results:
    """Results that :func:`write_data` wrote, to the last digit.

    Raises:
        UserError: the folder holds no report, or one that another version of this package wrote.
    """
    try:
        record = read_record(folder)
        cases, trainings, curves, costs = (read_csv(folder / name) for name in DATA_FILES)
        if not (set(CASE_COLUMNS) <= set(cases) and set(TRAINING_COLUMNS) <= set(trainings)):
            raise ValueError("columns are missing")
    except UserError:  # it already names the version that verifies the report
        raise
    except (OSError, ValueError) as error:
        remedy = "give a folder that 'benchmark report' wrote"
        raise UserError(f"{folder} holds no report ({reason(error)}): {remedy}") from error
    return Results(cases, trainings, curves, costs, record)


def read_csv(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return pd.DataFrame()
    return pd.read_csv(
        io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""], dtype=TYPES
    )
