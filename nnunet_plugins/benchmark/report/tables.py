"""The tables of a report, made from its data files alone: whoever has those can make them again, to the byte."""

import io
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.results import CASE_COLUMNS, COST_COLUMNS, Results
from nnunet_plugins.benchmark.report.statistics import (
    Cell,
    Ranking,
    agreement,
    average_ranks,
    finished_rankings,
    of_main_label,
    rank_table,
    result_table,
    warnings,
)
from nnunet_plugins.errors import UserError

DATA = ("cases.csv", "trainings.csv", "curves.csv", "costs.csv")
TEXTS = (
    "dataset", "configuration", "part", "trainer", "case", "cluster", "label", "outcome", "device", "gpu_name",
    "hostname", "torch_version", "cudnn_version", "plans",
)  # fmt: skip
WHOLE = ("repeat", "fold", "epochs", "batch", "parameters", "flops")
REAL = (
    *HIGHER_IS_BETTER, "seconds_per_epoch", "training_hours", "seconds_per_case", "peak_gb_allocated",
    "peak_gb_reserved", "memory_mb", "step_ms", "step_ms_low", "step_ms_high", "latency_ms", "latency_ms_low",
    "latency_ms_high",
)  # fmt: skip
RECORD = "record.json"
TABLES = ("results.csv", "results.md", "results.tex")
SHOWN = ("Dice", "HD95", "NSD")  # in the short tables; results.csv has all
PUBLISHED = Path(__file__).with_name("published.toml")
DEFINITIONS = (
    "Dice as nnU-Net counts it. HD95 (the larger of both directions' 95th percentiles), ASSD and NSD between surfaces "
    "as MONAI defines them, in mm (pixels where images have no spacing). Where one of both masks is empty, Dice and "
    "NSD are 0 and distances the image's diagonal; where both are, means leave the case out, and comparisons and ranks "
    "count it as right (Dice 1, distances 0) against a trainer that finds something there. Intervals: 95 %, percentile "
    "bootstrap over units (10,000 resamples). p: Wilcoxon signed-rank on paired units, Holm's correction over trainers."
)


class Analysis(NamedTuple):
    """What the cases of a report allow to say; tables and figures show it."""

    results: Results
    table: pd.DataFrame
    """Of :func:`result_table`."""
    rankings: dict[Cell, Ranking]
    """Of :func:`finished_rankings`."""


def analyse(results: Results) -> Analysis:
    cases, record = results.cases, results.record
    return Analysis(results, result_table(cases, record), finished_rankings(cases, record))


class Table(NamedTuple):
    """A table of a report, as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def write_data(results: Results, folder: Path) -> None:
    """Write what everything else in a report is made of."""
    for name, frame in zip(DATA, results[:4], strict=True):
        (folder / name).write_text(frame.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(results.record, indent=1), encoding="utf-8")


def read_data(folder: Path) -> Results:
    """
    Raises:
        UserError: the folder holds no report.
    """
    try:
        cases, trainings, curves, costs = (read_csv(folder / name) for name in DATA)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if not (set(CASE_COLUMNS) <= set(cases) and set(COST_COLUMNS) <= set(trainings)):
            raise ValueError("columns are missing")
        if not {"suite", "datasets", "machine", "versions"} <= set(record):
            raise ValueError(f"{RECORD} is cut off")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no report ({error}): give a folder that 'benchmark report' wrote") from error
    return Results(cases, trainings, curves, costs, record)


def read_csv(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return pd.DataFrame()
    types = dict.fromkeys(TEXTS, str) | dict.fromkeys(WHOLE, int) | dict.fromkeys(REAL, float)
    return pd.read_csv(
        io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""], dtype=types
    )


def result_files(analysis: Analysis) -> dict[str, bytes]:
    """The tables, by file name."""
    csv = analysis.table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    texts = csv, markdown(analysis), latex(all_tables(analysis))
    return {name: text.encode() for name, text in zip(TABLES, texts, strict=True)}


def all_tables(analysis: Analysis) -> list[Table]:
    """Every table of the page, in its order."""
    results, table, _ = analysis
    tables = [comparison(key, group, results.record) for key, group in cells_of(of_main_label(table))]
    others = ranks(analysis), per_label(table), cost(results.costs), training_cost(results), published(results, table)
    return [*tables, *(other for other in others if other.rows)]


def cells_of(table: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return table.groupby(["dataset", "configuration", "part"], sort=True)


# ---- one table each --------------------------------------------------------------------------------------------------


def comparison(key: Cell, group: pd.DataFrame, record: Mapping[str, Any]) -> Table:
    """One row per trainer: the short table of a dataset."""
    dataset, configuration, part = key
    by_metric = {metric: group[group.metric == metric].set_index("trainer") for metric in SHOWN}
    dice = by_metric["Dice"]
    rows = []
    for trainer in ordered(dice, record["suite"]["reference"]):
        row = dice.loc[trainer]
        if pd.isna(row["mean"]):
            rows.append([trainer, f"{row.folds} folds", *[""] * 8])
            continue
        others = [interval(by_metric[metric].loc[trainer], metric) for metric in SHOWN]
        rows.append(
            [trainer, row.folds, *others, *against_reference(row), f"{row.missed:.0f} / {row.hallucinated:.0f}"]
        )
    unit = "patients" if record_of(record, dataset)["cluster_regex"] else "cases"
    units = "/".join(sorted({f"{value:.0f}" for value in dice.units.dropna()})) or "no"
    tolerance = record["datasets"][dataset]["tolerance"]
    columns = ["trainer", "folds", *(f"{metric} {arrow(metric)}" for metric in SHOWN)]
    columns += [f"Dice − {record['suite']['reference']}", "p", "wins / ties / losses", "missed / hallucinated"]
    label = group.label.iloc[0]
    over = "mean over the labels" if label == "mean" else f"label {label}"
    return Table(
        f"{dataset}, {configuration}, {part}",
        columns,
        [row[: len(columns)] for row in rows],
        f"{units} {unit}, {over}; NSD at {tolerance:g}. Mean [95 % interval].",
    )


def ordered(dice: pd.DataFrame, reference: str) -> list[str]:
    """Best first, unfinished last, equal ones in the suite's order."""
    return list(dice.sort_values("mean", ascending=False, kind="stable", na_position="last").index)


def record_of(record: Mapping[str, Any], dataset: str) -> Mapping[str, Any]:
    number = int(dataset.removeprefix("Dataset")[:3])
    return next(data for data in record["suite"]["datasets"] if data["id"] == number)


def arrow(metric: str) -> str:
    return "↑" if HIGHER_IS_BETTER[metric] else "↓"


def interval(row: pd.Series, metric: str) -> str:
    digits = 2 if metric in ("HD95", "ASSD") else 4
    if pd.isna(row["mean"]):
        return ""
    text = f"{row['mean']:.{digits}f}"
    return text if pd.isna(row.ci_low) else f"{text} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"


def against_reference(row: pd.Series) -> list[str]:
    if pd.isna(row.difference):
        return ["", "", ""]
    bounds = "" if pd.isna(row.difference_low) else f" [{row.difference_low:+.4f}, {row.difference_high:+.4f}]"
    return [
        f"{row.difference:+.4f}{bounds}",
        p_value(row.p_holm),
        f"{row.wins:.0f} / {row.ties:.0f} / {row.losses:.0f}",
    ]


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def ranks(analysis: Analysis) -> Table:
    record = analysis.results.record
    table = rank_table(analysis.rankings, record)
    if table.empty:
        return Table("Ranks", [], [])
    stability = ", ".join(f"{' '.join(key)} {found.kendall_tau:.2f}" for key, found in analysis.rankings.items())
    note = "By Dice, over the cases that any finished trainer has a value for. Average: over datasets. Stability (mean "
    note += f"Kendall tau of 10,000 resampled rankings with that of all finished trainers): {stability}."
    tau = agreement(table)
    if tau is not None:
        note += f" Agreement of the datasets (mean Kendall tau of their pairs): {tau:.2f}."
    if unfinished := [" ".join(key) for key in analysis.rankings if key not in table.columns]:
        note += f" Left out, as trainers are not finished: {', '.join(unfinished)}."
    if absent := [trainer for trainer in record["suite"]["trainers"] if trainer not in table.index]:
        note += f" Left out, as they are not in every column: {', '.join(absent)}."
    average = average_ranks(table)
    rows = [
        [str(trainer), *(f"{rank:g}" for rank in row), f"{average[trainer]:.2f}"] for trainer, row in table.iterrows()
    ]
    return Table("Ranks", ["trainer", *map(" ".join, table.columns), "average"], rows, note)


def per_label(table: pd.DataFrame) -> Table:
    """Dice of each label, where a dataset has several."""
    several = table.groupby(["dataset", "configuration", "part"]).label.transform("nunique") > 1
    chosen = table[several & (table.metric == "Dice") & table["mean"].notna() & (table.label != "mean")]
    rows = []
    for _, row in chosen.iterrows():
        about = [row[name] for name in ("trainer", "dataset", "configuration", "part", "label")]
        counts = [fixed(row[name], 0) for name in ("missed", "hallucinated", "both_empty")]
        rows.append([*about, fixed(row["mean"], 4), *counts])
    columns = ["trainer", "dataset", "configuration", "part", "label", "Dice", "missed", "hallucinated", "both empty"]
    return Table("Dice of each label", columns, rows)


def training_cost(results: Results) -> Table:
    """What the trainings took: medians over folds and repetitions, hours in total."""
    rows = []
    for key, group in results.trainings.groupby(["trainer", "dataset", "configuration"]):
        cells = [f"{len(group)}/{trainings_wanted(results.record)}", fixed(group.seconds_per_epoch.median(), 1)]
        cells += [fixed(group.training_hours.sum(), 2)]
        cells += [fixed(group.seconds_per_case.median(), 2)]
        cells += [fixed(group[f"peak_gb_{kind}"].astype(float).max(), 2) for kind in ("allocated", "reserved")]
        cells += [different(group.compiled.map({True: "yes", False: "no"}))]
        cells += [different(group.gpu_name) or different(group.device)]
        cells += [different(group[name]) for name in ("torch_version", "cudnn_version")]
        rows.append([*map(str, key), *cells])
    columns = ["trainer", "dataset", "configuration", "folds", "s / epoch", "hours, these folds", "s / case"]
    columns += ["peak GB allocated", "peak GB reserved", "compiled", "device", "torch", "cuDNN"]
    note = "As nnU-Net logged it; s / case is the whole of nnU-Net's validation over the number of cases: from "
    note += "preprocessed image to segmentation in a file, and its metrics."
    return Table("What the trainings took", columns, rows, note)


def trainings_wanted(record: Mapping[str, Any]) -> int:
    """Of each trainer on each dataset."""
    return len(record["suite"]["folds"]) * record["suite"]["repeats"]


def different(values: pd.Series) -> str:
    """The values that there are."""
    return ", ".join(str(value) for value in values.dropna().unique())


def cost(costs: pd.DataFrame) -> Table:
    """What ``benchmark cost`` has measured."""
    rows = []
    for _, row in costs.iterrows():
        counts = [fixed(row["parameters"] / 1e6, 2), fixed(row["flops"] / 1e9, 2)]
        times = [spread(row, "step_ms"), spread(row, "latency_ms")]
        about = [row[name] for name in ("trainer", "dataset", "configuration", "patch")]
        rows.append([*about, str(row["batch"]), *counts, *times, fixed(row["memory_mb"], 0), row["device"]])
    columns = ["trainer", "dataset", "configuration", "patch", "batch", "parameters, M", "GFLOPs", "training step, ms"]
    columns += ["latency, ms", "training memory, MB", "device"]
    note = "GFLOPs (2 x MACs, by torch's FlopCounterMode) and latency: one patch, not mirrored. Training step: of the "
    note += "last epoch, one batch in memory, without loading and augmentation. Medians [quartiles]. "
    note += "Memory: CUDA's peak; on the CPU what autograd keeps, parameters, gradients and the optimiser's state."
    return Table("Cost, without training", columns, rows, note)


def spread(row: pd.Series, name: str) -> str:
    return f"{row[name]:.1f} [{row[name + '_low']:.1f}, {row[name + '_high']:.1f}]"


def fixed(value: Any, digits: int) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


@cache
def published_results() -> pd.DataFrame:
    return pd.DataFrame(tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["results"])


def published(results: Results, table: pd.DataFrame) -> Table:
    """The papers' numbers on the suite's datasets, and ours of the same trainers, from whatever initialisation."""
    metrics = {"Dice": 4, "IoU": 4, "HD95": 2}
    ours = of_main_label(table[table["mean"].notna()])
    rows = []
    for dataset, description in results.record["datasets"].items():
        theirs = published_results()
        for _, row in theirs[(theirs.dataset == description["converter"]) & theirs.label.isna()].iterrows():
            same = ours.trainer.isin([row["trainer"], f"{row['trainer']}_pretrained"])
            own = ours[(ours.dataset == dataset) & same]
            cells = []
            for metric, digits in metrics.items():
                beside = [
                    f"{fixed(value, digits)} ({', '.join(about)})"
                    for value, *about in own[own.metric == metric][
                        ["mean", "trainer", "configuration", "part"]
                    ].itertuples(index=False)
                ]
                cells += [fixed(row[metric], digits), "; ".join(beside)]
            remark = "" if pd.isna(row["note"]) else row["note"]
            rows.append([dataset, row["paper"], row["table"], row["method"], *cells, remark])
    columns = [
        "dataset",
        "paper",
        "table",
        "method",
        *(name for metric in metrics for name in (metric, f"our {metric}")),
    ]
    note = "Papers differ from us, and from each other, in splits, training, initialisation, preprocessing and "
    note += "definitions of metrics."
    return Table("Published", [*columns, "remark"], rows, note)


# ---- as text ---------------------------------------------------------------------------------------------------------


def markdown(analysis: Analysis) -> str:
    record = analysis.results.record
    lines = [f"# {record['suite']['name']}", "", as_text(summary(record)), "", DEFINITIONS, ""]
    for note in notices(analysis):
        lines += [f"- {as_text(note)}"]
    for table in all_tables(analysis):
        lines += ["", as_markdown(table)]
    return "\n".join(lines) + "\n"


def as_markdown(table: Table) -> str:
    lines = [f"## {as_text(table.title)}", "", markdown_row(table.columns), markdown_row(["---"] * len(table.columns))]
    lines += [markdown_row(row) for row in table.rows]
    return "\n".join([*lines, "", as_text(table.note)] if table.note else lines)


def markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(as_text(str(cell).strip()).replace("|", "\\|") for cell in cells) + " |"


def as_text(text: str) -> str:
    """What Markdown would take for a tag, as what it is."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def summary(record: Mapping[str, Any]) -> str:
    """What was trained, for how long, on what."""
    suite, machine = record["suite"], record["machine"]
    iterations, folds = suite["iterations"] or 250, ", ".join(map(str, suite["folds"]))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    return (
        f"{suite['epochs']} epochs of {iterations} steps for every trainer; folds {folds}, repeated {suite['repeats']} "
        f"time(s); reference {suite['reference']}. Report written on {machine['processor']} ({machine['usable_cores']} "
        f"cores, {machine['platform']}) with {versions}."
    )


def notices(analysis: Analysis) -> list[str]:
    """Unfinished, unequal or doubtful: what must be read beside the numbers."""
    results, table, _ = analysis
    suite = results.record["suite"]
    wanted = [
        (name, configuration, trainer)
        for name, description in results.record["datasets"].items()
        for configuration in record_of(results.record, name)["configurations"]
        for trainer in description["trainers"]
    ]
    own = results.trainings
    total = trainings_wanted(results.record)
    found = []
    for dataset, configuration, trainer in wanted:
        done = len(own[(own.dataset == dataset) & (own.configuration == configuration) & (own.trainer == trainer)])
        if done < total:
            found.append(f"Unfinished: {dataset} {configuration} {trainer} has {done}/{total} folds")
    for trainer, epochs in own[own.epochs != suite["epochs"]].groupby("trainer").epochs:
        found.append(f"Unequal: {trainer} trained {epochs.min():.0f} to {epochs.max():.0f} epochs")
    found += warnings(table, suite["reference"])
    if "test" in results.cases.part.unique():
        found.append("A test case's value is the mean over the folds' models, not that of their ensemble")
    return found


TEX = str.maketrans(
    {character: f"\\{character}" for character in "_%&#${}"}
    | {character: f"${character}$" for character in "<>|"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"−": "$-$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
)


def latex(tables: Sequence[Table]) -> str:
    """All tables with booktabs' rules."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(table.title)}. {tex(table.note)}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\toprule", tex_row(table.columns), r"\midrule"]
        lines += [tex_row(row) for row in table.rows]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def tex_row(cells: Sequence[str]) -> str:
    return " & ".join(tex(str(cell).strip()) for cell in cells) + r" \\"


def tex(text: str) -> str:
    return text.translate(TEX)
