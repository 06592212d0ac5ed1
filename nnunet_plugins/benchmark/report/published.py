"""The papers' numbers beside ours, with what to know before comparing them."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_plugins.benchmark.report.analysis import main_label_rows
from nnunet_plugins.benchmark.report.cells import EMPTY, Cell, Table, is_missing, number, texts
from nnunet_plugins.benchmark.report.notes import NNUNET_STEPS
from nnunet_plugins.benchmark.report.record import DatasetRecord
from nnunet_plugins.benchmark.report.results import Results
from nnunet_plugins.benchmark.suite import Suite

PUBLISHED = Path(__file__).with_name("published.toml")
PUBLISHED_DIGITS = {"Dice": 4, "IoU": 4, "HD95": 2}
PUBLISHED_TITLE = "Published"
PRETRAINED = "_pretrained"
RANDOM_BESIDE_PRETRAINED = (
    f"Ours without {PRETRAINED} in its name starts from random weights, the published figure from ImageNet."
)
SHORT = "Ours was trained for {steps:,} steps; nnU-Net's own training has {whole:,}."
NOTE = (
    "Papers differ from us, and from each other, in splits, training, initialisation, preprocessing and definitions of "
    "metrics. The numbers in the last columns are those of the sentences below."
)
BECAUSE = "not comparable because"
CONDITIONS = ("size", "paper_split", "own")
"""Keys of remarks that are reasons why figures are not comparable, where our conversion has not met them."""
NNUNET_EPOCHS = 1000


@cache
def published_results() -> pd.DataFrame:
    return pd.DataFrame(read_published()["results"])


@cache
def read_published() -> Mapping[str, list[dict[str, Any]]]:
    return tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))


def published(results: Results, table: pd.DataFrame) -> Table:
    """The papers' numbers on the suite's datasets, beside ours of the same trainers with either initialisation."""
    ours = main_label_rows(table[table["mean"].notna()])
    all_theirs, record = published_results(), results.record
    rows, told = [], []
    for dataset, description in record.datasets.items():
        origin = record.data(dataset).published or description.converter
        theirs = all_theirs[(all_theirs.dataset == origin) & all_theirs.label.isna()]
        for _, row in theirs.iterrows():
            own = own_results(ours[ours.dataset == dataset], row["trainer"])
            cells = [Cell(dataset), *texts(row, ("paper", "table", "method"))]
            for metric, digits in PUBLISHED_DIGITS.items():
                cells += [number(row[metric], digits), our_results(own[own.metric == metric], digits)]
            rows.append(cells)
            told.append((reasons_of(row, own, description, record.suite), remarks_of(row, own)))
    sentences = list(dict.fromkeys(text for column in zip(*told, strict=True) for some in column for text in some))
    for cells, both in zip(rows, told, strict=True):
        cells += [numbers_of(some, sentences) for some in both]
    columns = ["dataset", "paper", "table", "method"]
    columns += [name for metric in PUBLISHED_DIGITS for name in (metric, f"our {metric}")]
    return Table(PUBLISHED_TITLE, [*columns, BECAUSE, "remarks"], rows, NOTE, tuple(sentences))


def own_results(ours: pd.DataFrame, trainer: Any) -> pd.DataFrame:
    """Rows of a published trainer, if it is ours, and then those of the same with the other initialisation."""
    if is_missing(trainer):
        return ours[:0]
    other = f"{trainer}{PRETRAINED}" if not trainer.endswith(PRETRAINED) else trainer.removesuffix(PRETRAINED)
    return pd.concat([ours[ours.trainer == name] for name in (trainer, other)])


def our_results(rows: pd.DataFrame, digits: int) -> Cell:
    """Our means of one metric, each with its trainer, configuration and part."""
    if rows.empty:
        return EMPTY
    shown = [
        f"{row['mean']:.{digits}f} ({row['trainer']}, {row['configuration']}, {row['part']})"
        for _, row in rows.iterrows()
    ]
    return Cell("; ".join(shown), float(rows["mean"].iloc[0]))


# ---- remarks ---------------------------------------------------------------------------------------------------------


def reasons_of(row: pd.Series, own: pd.DataFrame, ours: DatasetRecord, suite: Suite) -> list[str]:
    """Sentences why a published row cannot be compared with our results beside it, as they were made otherwise.

    Args:
        row: the published row.
        own: our results beside it.
        ours: the dataset of our results.
        suite: the suite that they come from.
    """
    remarks = [remark for remark in read_published()["remarks"] if is_reason(remark, row["dataset"], ours)]
    sentences = [remark["text"] for remark in remarks if holds_for(remark, row)]
    whole = NNUNET_EPOCHS * NNUNET_STEPS
    lengths = sorted({suite.epochs_for(name) * (suite.iterations or NNUNET_STEPS) for name in own.trainer})
    return sentences + [SHORT.format(steps=steps, whole=whole) for steps in lengths if steps < whole]


def is_reason(remark: Mapping[str, Any], published_dataset: str, ours: DatasetRecord) -> bool:
    """Whether our figures are not comparable for a reason of ``published.toml``, as our dataset was converted."""
    match remark:
        case {"size": size}:
            return ours.conversion.get("resize", []) != size
        case {"paper_split": given}:
            return "splits" not in ours.conversion and ("paper_split" in ours.conversion) == given
        case {"own": False}:
            return ours.converter != published_dataset
    return False


def remarks_of(row: pd.Series, own: pd.DataFrame) -> list[str]:
    """Sentences to know before a published row is compared with our results beside it."""
    remarks = [remark for remark in read_published()["remarks"] if remark.keys().isdisjoint(CONDITIONS)]
    sentences = [remark["text"] for remark in remarks if holds_for(remark, row)]
    if not is_missing(row["trainer"]) and row["trainer"].endswith(PRETRAINED) and (own.trainer != row["trainer"]).any():
        sentences.append(RANDOM_BESIDE_PRETRAINED)
    return sentences


def holds_for(remark: Mapping[str, Any], row: pd.Series) -> bool:
    """Whether a remark of ``published.toml`` holds for a published row."""
    for key, value in remark.items():
        match key:
            case "text" | "size" | "paper_split" | "own":  # the last three are for is_reason
                holds = True
            case "ours":
                holds = value != is_missing(row["trainer"])
            case "metric":
                holds = not is_missing(row[value])
            case _:
                holds = row[key] in (value if isinstance(value, list) else [value])
        if not holds:
            return False
    return True


def numbers_of(remarks: list[str], sentences: list[str]) -> Cell:
    numbers = sorted(sentences.index(remark) + 1 for remark in remarks)
    return Cell(", ".join(map(str, numbers)))


def published_csv(table: Table) -> str:
    """The table of published results with the sentences of its remarks in full."""
    rows = []
    for *cells, because, remarks in table.texts:
        told = [[table.remarks[int(i) - 1] for i in numbers.split(", ") if i] for numbers in (because, remarks)]
        rows.append([*cells, *map(" ".join, told)])
    return pd.DataFrame(rows, columns=table.columns).to_csv(index=False, lineterminator="\n")
