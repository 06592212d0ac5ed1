"""The papers' numbers beside ours, with what to know before comparing them."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_plugins.benchmark.report.analysis import main_label_rows
from nnunet_plugins.benchmark.report.cells import EMPTY, Cell, Table, is_missing, number, texts
from nnunet_plugins.benchmark.report.results import Results

PUBLISHED = Path(__file__).with_name("published.toml")
PUBLISHED_DIGITS = {"Dice": 4, "IoU": 4, "HD95": 2}
PUBLISHED_TITLE = "Published"
PRETRAINED = "_pretrained"
RANDOM_BESIDE_PRETRAINED = (
    f"Ours without {PRETRAINED} in its name starts from random weights, the published figure from ImageNet."
)
NOTE = (
    "Papers differ from us, and from each other, in splits, training, initialisation, preprocessing and definitions of "
    "metrics. The numbers under remarks are those of the sentences below."
)


@cache
def published_results() -> pd.DataFrame:
    return pd.DataFrame(read_published()["results"])


@cache
def read_published() -> Mapping[str, list[dict[str, Any]]]:
    return tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))


def published(results: Results, table: pd.DataFrame) -> Table:
    """The papers' numbers on the suite's datasets, beside ours of the same trainers with either initialisation."""
    ours = main_label_rows(table[table["mean"].notna()])
    all_theirs = published_results()
    rows, remarks = [], []
    for dataset, description in results.record.datasets.items():
        theirs = all_theirs[(all_theirs.dataset == description.converter) & all_theirs.label.isna()]
        for _, row in theirs.iterrows():
            own = own_results(ours[ours.dataset == dataset], row["trainer"])
            cells = [Cell(dataset), *texts(row, ("paper", "table", "method"))]
            for metric, digits in PUBLISHED_DIGITS.items():
                cells += [number(row[metric], digits), our_results(own[own.metric == metric], digits)]
            rows.append(cells)
            remarks.append(remarks_of(row, own))
    every = [*(remark["text"] for remark in read_published()["remarks"]), RANDOM_BESIDE_PRETRAINED]
    sentences = [text for text in dict.fromkeys(every) if any(text in told for told in remarks)]
    for cells, told in zip(rows, remarks, strict=True):
        cells.append(numbers_of(told, sentences))
    columns = ["dataset", "paper", "table", "method"]
    columns += [name for metric in PUBLISHED_DIGITS for name in (metric, f"our {metric}")]
    return Table(PUBLISHED_TITLE, [*columns, "remarks"], rows, NOTE, tuple(sentences))


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


def remarks_of(row: pd.Series, own: pd.DataFrame) -> list[str]:
    """Sentences to know before a published row is compared with our results beside it."""
    sentences = [remark["text"] for remark in read_published()["remarks"] if holds_for(remark, row)]
    if not is_missing(row["trainer"]) and row["trainer"].endswith(PRETRAINED) and (own.trainer != row["trainer"]).any():
        sentences.append(RANDOM_BESIDE_PRETRAINED)
    return sentences


def holds_for(remark: Mapping[str, Any], row: pd.Series) -> bool:
    """Whether a remark of ``published.toml`` holds for a published row."""
    for key, value in remark.items():
        match key:
            case "text":
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
    *columns, _ = table.columns
    rows = []
    for *cells, numbers in table.texts:
        sentences = [table.remarks[int(index) - 1] for index in numbers.split(", ") if index]
        rows.append([*cells, " ".join(sentences)])
    return pd.DataFrame(rows, columns=[*columns, "remarks"]).to_csv(index=False, lineterminator="\n")
