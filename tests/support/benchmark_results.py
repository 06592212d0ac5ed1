"""Results of a benchmark that nobody ran, for tests of its statistics, its report and its page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, COST_COLUMNS, Results
from nnunet_plugins.benchmark.suite import Data, Suite

CELLS = "Dataset001_Cells"
REFERENCE, OTHER, THIRD = "nnUNetTrainer", "DCFFSNetTrainer", "DLKUNetSTrainer_C64"


def case_row(trainer: str, case: str, dice: float | None, **about: Any) -> dict[str, Any]:
    """A row of ``cases.csv``; all metrics follow from the Dice, None where both masks are empty."""
    row: dict[str, Any] = {"dataset": CELLS, "configuration": "2d", "part": "validation", "trainer": trainer}
    row |= {"repeat": 1, "fold": 0, "case": case, "cluster": case, "label": "cell"}
    row |= {"outcome": "both empty" if dice is None else "segmented"}
    for metric, higher_is_better in HIGHER_IS_BETTER.items():
        row[metric] = None if dice is None else dice if higher_is_better else 100 * (1 - dice)
    return row | about


def rows_of(dice: Mapping[str, Sequence[float | None]], **about: Any) -> list[dict[str, Any]]:
    """Rows of the trainers' cases, which are numbered."""
    return [
        case_row(trainer, f"case{number:02}", value, **about)
        for trainer, values in dice.items()
        for number, value in enumerate(values)
    ]


def case_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype(dict.fromkeys(HIGHER_IS_BETTER, float))


def suite_of(
    trainers: Sequence[str], datasets: Sequence[str] = (CELLS,), folds: Sequence[int] = (0,), repeats: int = 1, **data
) -> Suite:
    """The first trainer is the reference."""
    described = tuple(Data(int(name[7:10]), **data) for name in datasets)
    return Suite("synthetic", tuple(trainers), trainers[0], 100, described, folds=tuple(folds), repeats=repeats)


def record_of(suite: Suite, datasets: Mapping[str, str | None]) -> dict[str, Any]:
    """``datasets``: their converters."""
    described = {
        name: {
            "converter": converter,
            "tolerance": data.tolerance,
            "trainers": list(suite.trainers_of(data)),
        }
        for (name, converter), data in zip(datasets.items(), suite.datasets, strict=True)
    }
    return {
        "suite": asdict(suite),
        "datasets": described,
        "written": "2026-01-01T00:00:00+00:00",
        "machine": {"platform": "Linux", "processor": "a processor", "usable_cores": 2},
        "versions": {"nnunetv2": "2.8.1", "torch": "2.9.0", "python": "3.11.7", "scipy": None},
    }


def training_row(dataset: str, trainer: str, fold: int, **about: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": dataset, "configuration": "2d", "trainer": trainer, "repeat": 1, "fold": fold}
    row |= {"epochs": 100, "seconds_per_epoch": 1.5 + fold, "training_hours": 0.25, "seconds_per_case": 0.5}
    row |= {"peak_gb_allocated": 1.25 + fold, "peak_gb_reserved": 2.5, "compiled": True, "device": "cuda:0"}
    row |= {"gpu_name": "a GPU", "hostname": "node", "torch_version": "2.9.0+cu128", "cudnn_version": "91002"}
    return row | about


def cost_row(dataset: str, trainer: str, **about: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": dataset, "configuration": "2d", "trainer": trainer, "plans": "nnUNetPlans"}
    row |= {
        "patch": "48 x 64",
        "batch": 2,
        "parameters": 1_929_065,
        "flops": 864_681_984,
        "memory_mb": 35.9983024597168,
    }
    for name, value in (("step_ms", 163.27675400316366), ("latency_ms", 28.056762505002553)):
        row |= {name: value, f"{name}_low": value - 1, f"{name}_high": value + 1}
    return row | {"device": "cpu", "compiled": False, "torch_version": "2.9.0", "cudnn_version": None} | about


def results_of(rows: Iterable[Mapping[str, Any]], suite: Suite, datasets: Mapping[str, str | None]) -> Results:
    """Everything that belongs to the cases."""
    cases = case_table(rows)
    folds = cases[["dataset", "trainer", "fold", "repeat"]].drop_duplicates().to_dict("records")
    trainings = [training_row(**fold) for fold in folds]
    curves = [
        {"train_losses": 1 / epoch, "val_losses": 0.5, "mean_fg_dice": 0.3, "ema_fg_dice": 0.1 * epoch, "lrs": 1e-05}
        | {"dataset": fold["dataset"], "configuration": "2d", "trainer": fold["trainer"]}
        | {"repeat": fold["repeat"], "fold": fold["fold"], "epoch": epoch}
        for fold in folds
        for epoch in (1, 2, 3)
    ]
    costs = [cost_row(dataset, trainer) for dataset in datasets for trainer in suite.trainers]
    return Results(
        cases,
        pd.DataFrame(trainings, columns=COST_COLUMNS),
        pd.DataFrame(curves),
        pd.DataFrame(costs),
        record_of(suite, datasets),
    )
