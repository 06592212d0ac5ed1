"""Made-up results of a benchmark, for tests of its statistics, its report and its page."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import Analysis, result_table
from nnunet_plugins.benchmark.report.notes import notices, warnings
from nnunet_plugins.benchmark.report.record import DatasetRecord, Machine, Record, Source
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, TRAINING_COLUMNS, Results, write_data
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.benchmark.survey import Survey

CELLS, SKIN = "Dataset001_Cells", "Dataset550_Skin"
REFERENCE, OTHER, THIRD = TRAINERS = ("nnUNetTrainer", "DCFFSNetTrainer", "DLKUNetSTrainer_C64")
GRID = np.arange(16) / 32
"""Exact in binary, and so are its differences and means."""


def case_row(trainer: str, case: str, dice: float | None, **about: Any) -> dict[str, Any]:
    """A row of ``cases.csv`` whose metrics all follow from the Dice, which is None where both masks are empty."""
    row: dict[str, Any] = {"dataset": CELLS, "configuration": "2d", "part": "validation", "trainer": trainer}
    row |= {"repeat": 1, "fold": 0, "case": case, "cluster": case, "label": "cell"}
    row |= {"outcome": "both empty" if dice is None else "segmented"}
    for metric, higher_is_better in HIGHER_IS_BETTER.items():
        row[metric] = None if dice is None else dice if higher_is_better else 100 * (1 - dice)
    return row | about


def rows_of(dice: Mapping[str, Sequence[float | None]], **about: Any) -> list[dict[str, Any]]:
    """Rows of numbered cases, for each trainer its Dice."""
    return [
        case_row(trainer, f"case{number:02}", value, **about)
        for trainer, values in dice.items()
        for number, value in enumerate(values)
    ]


def case_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype(dict.fromkeys(HIGHER_IS_BETTER, float))


def suite_of(
    trainers: Sequence[str],
    datasets: Sequence[str] = (CELLS,),
    folds: Sequence[int] = (0,),
    repeats: int = 1,
    trainers_of: Mapping[str, Sequence[str]] | None = None,
    **data: Any,
) -> Suite:
    """A suite whose reference is the first trainer; ``trainers_of`` limits the trainers of datasets."""
    limited = trainers_of or {}
    described = tuple(Data(int(name[7:10]), trainers=tuple(limited.get(name, ())), **data) for name in datasets)
    return Suite("synthetic", tuple(trainers), trainers[0], 100, described, folds=tuple(folds), repeats=repeats)


def record_of(suite: Suite, datasets: Mapping[str, str | None]) -> Record:
    """Record of a suite; ``datasets`` maps names to converters."""
    described = zip(datasets.items(), suite.datasets, strict=True)
    return Record(
        suite=suite,
        datasets={name: DatasetRecord(data.id, converter, units_of(data)) for (name, converter), data in described},
        written="2026-01-01T00:00:00+00:00",
        machine=Machine("Linux", "a processor", 2),
        versions={"nnunet-plugins": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.9.0", "python": "3.11.7", "scipy": None},
    )


def units_of(data: Data) -> dict[str, Source]:
    return dict.fromkeys(("validation", "test"), "cluster_regex" if data.cluster_regex else "cases")


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
    """Results with these cases, and trainings, curves and costs that go with them."""
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
        pd.DataFrame(trainings, columns=TRAINING_COLUMNS),
        pd.DataFrame(curves),
        pd.DataFrame(costs),
        record_of(suite, datasets),
    )


# ---- numbers of a table ----------------------------------------------------------------------------------------------


def plain_record(
    trainers: Sequence[str] = (REFERENCE, OTHER), datasets: Sequence[str] = (CELLS,), **suite: Any
) -> Record:
    """Record of a suite whose datasets were not converted by us."""
    return record_of(suite_of(trainers, datasets, **suite), dict.fromkeys(datasets))


def table_of(
    rows: Iterable[Mapping[str, Any]],
    trainers: Sequence[str] = (REFERENCE, OTHER),
    metrics: Sequence[str] = ("Dice", "HD95"),
    **suite: Any,
) -> pd.DataFrame:
    """Result table of rows of cases; two metrics stand for all, which take their time and are treated alike."""
    return result_table(case_table(rows), plain_record(trainers, **suite), metrics)


def warned(table: pd.DataFrame, reference: str = REFERENCE) -> list[str]:
    """Sentences of all kinds about a table's differences."""
    return list(itertools.chain.from_iterable(warnings(table, reference).values()))


def told(analysis: Analysis) -> list[str]:
    """Sentences of all notices of a report."""
    return [sentence for kind in notices(analysis) for sentence in kind.sentences]


def row_of(
    table: pd.DataFrame, trainer: str = OTHER, metric: str = "Dice", label: str = "cell", dataset: str = CELLS
) -> dict[str, Any]:
    """The one row of a result table for a trainer, metric, label and dataset."""
    chosen = (table.trainer == trainer) & (table.metric == metric) & (table.label == label) & (table.dataset == dataset)
    (row,) = table[chosen].to_dict("records")
    return row


# ---- a benchmark of two datasets -------------------------------------------------------------------------------------

CONVERTERS = {CELLS: None, SKIN: "isic2018"}
LABELS = {CELLS: ("a_b & <c>", "100 % | #1"), SKIN: ("lesion",)}
UNFINISHED = 0.777777
"""Dice of all cases of the unfinished trainer: any mean of it has these digits."""
SUITE = suite_of(TRAINERS, tuple(CONVERTERS), range(5), cluster_regex="x")
SURVEY = Survey(SUITE, runs=())


def two_datasets() -> Results:
    """Results of three trainers on two datasets; on the skin, one trainer has 3 of 5 folds."""
    rows = []
    rng = np.random.default_rng(0)
    for dataset, labels in LABELS.items():
        for label, fold, number in itertools.product(labels, SUITE.folds, range(3)):
            common = rng.uniform(0.4, 0.6)
            about = {"dataset": dataset, "fold": fold, "label": label}
            about["cluster"] = f"patient{number + {0: 3, 4: 4}.get(fold, 0)}"
            case = f"{fold}{number}"
            rows.append(case_row(REFERENCE, case, common, **about))
            rows.append(case_row(OTHER, case, common + rng.uniform(-0.1, 0.3), **about))
            if dataset == CELLS:
                dice = None if number == 2 and label == labels[1] else common - 0.2
                rows.append(case_row(THIRD, case, dice, **about))
            elif fold < 3:
                rows.append(case_row(THIRD, case, UNFINISHED, **about))
    return results_of(rows, SUITE, CONVERTERS)


def written_data(results: Results, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_data(results, folder)
    return folder


def markdown_rows(text: str, title: str) -> list[list[str]]:
    """The cells of a table in Markdown: header, rule, rows."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return rows
