"""The printed tables of a report.

They are made from its data files alone and have the same bytes every time.
"""

from collections.abc import Sequence

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.cells import (
    EMPTY,
    Cell,
    Table,
    counts,
    interval,
    is_missing,
    number,
    p_value,
    texts,
    written,
)
from nnunet_plugins.benchmark.report.headline import lead, marks
from nnunet_plugins.benchmark.report.published import published
from nnunet_plugins.benchmark.report.ranking import agreement, average_ranks, has_too_few_units, rank_table
from nnunet_plugins.benchmark.report.record import Record, Source
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, Evaluation, Results, by_evaluation
from nnunet_plugins.benchmark.report.units import MEAN_LABEL

DIGITS = {"Dice": 4, "HD95": 2, "NSD": 4}
"""Decimals of the metrics in the short tables; ``results.csv`` has all metrics."""


def all_tables(analysis: Analysis) -> list[Table]:
    """Every table of the page, in its order."""
    results, result_table, _ = analysis
    order = analysis.order
    short = [
        short_table(evaluation, rows, results.record, order)
        for evaluation, rows in by_evaluation(main_label_rows(result_table))
    ]
    others = [
        ranks(analysis),
        per_label(result_table, order),
        measured_cost(results.costs, order),
        training_cost(results, order),
        published(results, result_table),
    ]
    return [table.without_empty_columns() for table in (*short, *others) if table.rows]


def in_order(rows: pd.DataFrame, order: Sequence[str], *before: str) -> pd.DataFrame:
    """Rows sorted by some columns, and then in the order of trainers."""
    places = {trainer: place for place, trainer in enumerate(order)}
    return rows.assign(place=rows.trainer.map(places)).sort_values([*before, "place"], kind="stable")


# ---- one table each --------------------------------------------------------------------------------------------------


def short_table(evaluation: Evaluation, rows: pd.DataFrame, record: Record, order: Sequence[str]) -> Table:
    """The main metrics of each trainer of one evaluation; unfinished trainers have none."""
    by_metric = {metric: rows[rows.metric == metric] for metric in DIGITS}
    marked = {metric: marks(own) for metric, own in by_metric.items()}
    values = {metric: own.set_index("trainer") for metric, own in by_metric.items()}
    dice = in_order(by_metric["Dice"], order)
    columns = ["trainer", "folds", *(f"{metric} {'↑' if HIGHER_IS_BETTER[metric] else '↓'}" for metric in DIGITS)]
    columns += [f"Dice − {record.suite.reference}", "p", "wins / ties / losses", "missed / hallucinated"]
    cells = []
    for _, row in dice.iterrows():
        trainer, folds = row.trainer, f"{row.trainings}/{record.num_trainings}"
        if is_missing(row["mean"]):
            unfinished = [Cell(trainer), Cell(f"{folds} folds", row.trainings)]
            cells.append(unfinished + [EMPTY] * (len(columns) - len(unfinished)))
            continue
        metrics = (
            interval(own["mean"], own.ci_low, own.ci_high, f".{digits}f", marked[metric].get(trainer, ""))
            for metric, digits in DIGITS.items()
            for own in [values[metric].loc[trainer]]
        )
        cells.append([
            Cell(trainer),
            Cell(folds, row.trainings),
            *metrics,
            interval(row.difference, row.difference_low, row.difference_high, "+.4f"),
            p_value(row.p_holm),
            counts(row, ("wins", "ties", "losses")),
            counts(row, ("missed", "hallucinated")),
        ])  # fmt: skip
    note = short_note(evaluation, dice, record) + (MARKED if any(marked.values()) else "")
    return Table(", ".join(evaluation), columns, cells, note, lead=lead(by_metric["Dice"]))


MARKED = (
    " Bold: best mean; italic: not different from it (Wilcoxon's signed-rank test on paired units, Holm's correction, "
    "p ≥ 0.05)."
)


def short_note(evaluation: Evaluation, dice: pd.DataFrame, record: Record) -> str:
    """Number of units and where they come from, label and tolerance of a short table."""
    data, label = record.data(evaluation.dataset), dice.label.iloc[0]
    over = "mean over the labels" if label == MEAN_LABEL else f"label {label}"
    what = f"{about_units(evaluation, dice, record)}; {over}; NSD at {data.tolerance:g}. Mean [95 % interval]."
    return what + (" Missed and hallucinated are labels of cases." if label == MEAN_LABEL else "")


def about_units(evaluation: Evaluation, dice: pd.DataFrame, record: Record) -> str:
    """Words on the units of an evaluation: how many, and what says which cases are one."""
    numbers = sorted(int(number) for number in dice.units.dropna().unique())
    units = " to ".join(f"{number}" for number in dict.fromkeys([numbers[0], numbers[-1]])) if numbers else "no"
    fewer = " (fewer where truth and prediction are both empty)" if len(numbers) > 1 else ""
    return f"{units} units{fewer}: {SOURCES[record.datasets[evaluation.dataset].units[evaluation.part]]}"


SOURCES: dict[Source, str] = {
    "cluster_regex": "patients, by the suite's cluster_regex",
    "groups": "groups of cases that the dataset's conversion has recorded",
    "cases": "cases, of which no two are recorded as one group",
    "unknown": "cases, as groups of some are not known here",
}


def ranks(analysis: Analysis) -> Table:
    """Ranks of the trainers on all evaluations on which all are finished, with their average."""
    table = rank_table(analysis.rankings, analysis.results.record)
    if table.empty:
        return Table("Ranks", [], [])
    average = average_ranks(table)
    rows = [
        [Cell(trainer), number(average[trainer], 2), *(Cell(f"{rank:g}", rank) for rank in table.loc[trainer])]
        for trainer in analysis.order
        if trainer in table.index
    ]
    columns = ["trainer", "average", *map(" ".join, table.columns)]
    return Table("Ranks", columns, rows, " ".join(rank_notes(analysis, table)))


def rank_notes(analysis: Analysis, table: pd.DataFrame) -> list[str]:
    """Sentences about a rank table: what is ranked, how certain it is, what is left out."""
    stability = ", ".join(f"{key} {written(ranking.kendall_tau, '.2f')}" for key, ranking in analysis.rankings.items())
    notes = [
        "By Dice, over the cases for which any finished trainer has a value. Average: over datasets.",
        f"Stability (mean Kendall tau of 10,000 resampled rankings with that of all finished trainers): {stability}.",
    ]
    tau = agreement(table)
    if tau is not None:
        notes.append(f"Agreement of the datasets (mean Kendall tau of their pairs): {written(tau, '.2f')}.")
    if few := [str(key) for key, ranking in analysis.rankings.items() if has_too_few_units(ranking)]:
        notes.append(f"Left out, as they have too few units to tell trainers apart: {', '.join(few)}.")
    if unfinished := [str(key) for key in analysis.rankings if key not in table.columns and str(key) not in few]:
        notes.append(f"Left out, as trainers are not finished: {', '.join(unfinished)}.")
    if absent := [name for name in analysis.results.record.suite.trainers if name not in table.index]:
        notes.append(f"Left out, as they are not in every column: {', '.join(absent)}.")
    return notes


def per_label(table: pd.DataFrame, order: Sequence[str] = ()) -> Table:
    """Dice of each label, where a dataset has several."""
    several = table.groupby(EVALUATION_COLUMNS).label.transform("nunique") > 1
    chosen = table[several & (table.metric == "Dice") & table["mean"].notna() & (table.label != MEAN_LABEL)]
    chosen = in_order(chosen, order, *EVALUATION_COLUMNS, "label")
    names = ["trainer", *EVALUATION_COLUMNS, "label"]
    rows = [
        [
            *texts(row, names),
            number(row["mean"], 4),
            *(number(row[name], 0) for name in ("missed", "hallucinated", "both_empty")),
        ]
        for _, row in chosen.iterrows()
    ]
    return Table("Dice of each label", [*names, "Dice", "missed", "hallucinated", "both empty"], rows)


def training_cost(results: Results, order: Sequence[str] = ()) -> Table:
    """Time, memory and machine of the trainings."""
    wanted = results.record.num_trainings
    names = ["trainer", "dataset", "configuration"]
    fitted = results.record.suite.gpu_memory_gb is not None
    trainings = in_order(results.trainings, order, "dataset", "configuration").astype(dict.fromkeys(MEASURED, float))
    trainings = trainings.assign(compiled=trainings.compiled.map({True: "yes", False: "no"}))
    groups = trainings.groupby(names, sort=False)
    numbers = groups.agg(MEASURED | {"fold": "size"})
    texts_of = {name: distinct(trainings, names, name) for name in ("compiled", "device", *LIBRARIES)}
    texts_of["device"] |= distinct(trainings, names, "gpu_name")
    plans = groups.first() if fitted else None
    rows = [
        [
            *map(Cell, map(str, key)),
            *(fit_cells(plans.loc[key]) if plans is not None else ()),
            Cell(f"{row.fold:.0f}/{wanted}", row.fold),
            number(row.seconds_per_epoch, 1),
            *(number(value, 2) for value in (row.training_hours, row.seconds_per_case)),
            *(number(value, 2) for value in (row.peak_gb_allocated, row.peak_gb_reserved)),
            *(Cell(found.get(key, "")) for found in texts_of.values()),
        ]
        for key, row in zip(numbers.index, numbers.itertuples(), strict=True)
    ]
    columns = [*names, *(FIT_TITLES if fitted else ()), "folds", "s / epoch", "hours, finished folds", "s / case"]
    columns += ["peak GB allocated", "peak GB reserved", "compiled", "device", "torch", "cuDNN"]
    note = (
        "From nnU-Net's logs: medians over folds and repetitions, hours in total, highest peaks. s / case: duration of "
        "nnU-Net's validation, from preprocessed image to segmentation in a file and its metrics, over the number of "
        "cases."
    )
    return Table("Cost of the trainings", columns, rows, note).with_constants_in_note(SURROUNDINGS)


MEASURED = {
    "seconds_per_epoch": "median",
    "training_hours": "sum",
    "seconds_per_case": "median",
    "peak_gb_allocated": "max",
    "peak_gb_reserved": "max",
}
"""Columns of trainings, with how those of folds and repetitions are summed up."""
LIBRARIES = ("torch_version", "cudnn_version")
SURROUNDINGS = ("compiled", "device", "torch", "cuDNN")
"""Columns that mostly have the same text in all rows."""
FIT_TITLES = ("plans", "patch", "batch", "estimate, GB")


def distinct(trainings: pd.DataFrame, names: list[str], column: str) -> dict[tuple[str, ...], str]:
    """The different values of a column, without missing ones, for each trainer, dataset and configuration."""
    values = trainings[[*names, column]].dropna().drop_duplicates()
    return values.groupby(names, sort=False)[column].agg(", ".join).to_dict()


def fit_cells(row: pd.Series) -> list[Cell]:
    """Plans of a training, with the estimated memory of a step."""
    return [*texts(row, ["plans", "patch"]), Cell(str(row["batch"]), row["batch"]), number(row["estimate_gb"], 2)]


def measured_cost(costs: pd.DataFrame, order: Sequence[str] = ()) -> Table:
    """Measurements of ``benchmark cost``."""
    costs = in_order(costs, order, "dataset", "configuration") if len(costs) else costs
    names = ["trainer", "dataset", "configuration", "patch"]
    fitted = "estimate_gb" in costs
    rows = [
        [
            *texts(row, names),
            Cell(str(row["batch"]), row["batch"]),
            number(row["parameters"] / 1e6, 2),
            number(row["flops"] / 1e9, 2),
            *(interval(row[n], row[f"{n}_low"], row[f"{n}_high"], ".1f") for n in ("step_ms", "latency_ms")),
            *([number(1024 * row["estimate_gb"], 0)] if fitted else []),
            number(row["memory_mb"], 0),
            Cell(row["device"]),
        ]
        for _, row in costs.iterrows()
    ]
    columns = [*names, "batch", "parameters, M", "GFLOPs", "training step, ms", "latency, ms"]
    note = (
        "GFLOPs (2 x MACs, by torch's FlopCounterMode) and latency: one patch, not mirrored. Training step: in the "
        "last epoch, one batch in memory, without loading and augmentation. Medians [quartiles]. Memory: CUDA's peak; "
        "on the CPU the tensors kept by autograd, parameters, gradients and the optimiser's state."
    )
    estimate = ["estimated memory on a GPU, MB"] if fitted else []
    return Table("Cost without training", [*columns, *estimate, "training memory, MB", "device"], rows, note)
