"""What the numbers of a suite allow to say, and what they do not.

The unit is the case, or the patient where a suite's ``cluster_regex`` finds several cases of one: the mean over the
unit's cases, folds and repetitions. Two trainers are compared unit by unit, on the labels of the cases that both have
values for. Trainers with folds still missing are left out of everything.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER

Values = NDArray[np.float64]
NUM_RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
MEAN_LABEL = "mean"
NUMBERS = (
    "units", "mean", "sd", "ci_low", "ci_high", "run_sd", "difference", "difference_low", "difference_high", "p",
    "p_holm", "wins", "ties", "losses",
)  # fmt: skip
"""What only finished trainers have."""


class Interval(NamedTuple):
    """A mean with the bootstrap's confidence interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A trainer against the reference, unit by unit; differences are the trainer's value minus the reference's."""

    units: int
    difference: Interval
    p: float
    wins: int
    ties: int
    losses: int


@lru_cache(maxsize=4)
def resample_weights(num_units: int) -> Values:
    """Share of each unit in each resample ``(NUM_RESAMPLES, n)``: always the same ones, so differences stay paired."""
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=NUM_RESAMPLES)
    return draws / num_units


def bootstrap(values: Values) -> Interval:
    """Mean over units ``(n,)`` with the percentile bootstrap's interval; of a single unit there is no interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.quantile(resample_weights(len(values)) @ values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def compare(values: Values, reference: Values, higher_is_better: bool) -> Comparison:
    """Of paired units ``(n,)``."""
    difference = values - reference
    better = difference if higher_is_better else -difference
    return Comparison(
        units=len(values),
        difference=bootstrap(difference),
        p=wilcoxon(difference),
        wins=int(np.count_nonzero(better > 0)),
        ties=int(np.count_nonzero(better == 0)),
        losses=int(np.count_nonzero(better < 0)),
    )


def wilcoxon(difference: Values) -> float:
    """Two-sided p of the signed-rank test; 1 if nothing differs."""
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - index) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


# ---- from cases to units ---------------------------------------------------------------------------------------------


def progress(cases: pd.DataFrame, trainer: str, suite: Mapping[str, Any]) -> tuple[int, int]:
    """Trainings of a cell that are done, and that the suite wants."""
    own = cases[cases.trainer == trainer]
    return len(own[["repeat", "fold"]].drop_duplicates()), len(suite["folds"]) * suite["repeats"]


def case_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row for each cluster, case and label, a column for each trainer: mean over folds and repetitions."""
    index = ["cluster", "case", "label"]
    return cases.pivot_table(metric, index, "trainer", aggfunc="mean", dropna=True, sort=True)


def unit_values(values: pd.DataFrame | pd.Series) -> Any:
    """Mean over the labels of a case, then over the cases of a unit."""
    return values.groupby(level=["cluster", "case"]).mean().groupby(level="cluster").mean()


def labels_of(cases: pd.DataFrame) -> list[str]:
    """The mean over labels first, and the labels, unless there is only one."""
    labels = sorted(cases.label.unique())
    return [MEAN_LABEL, *labels] if len(labels) > 1 else labels


def of_label(cases: pd.DataFrame, label: str) -> pd.DataFrame:
    return cases if label == MEAN_LABEL else cases[cases.label == label]


# ---- tables ----------------------------------------------------------------------------------------------------------


def cells(cases: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """The cases of each dataset, configuration and part."""
    for key, group in cases.groupby(["dataset", "configuration", "part"], sort=True):
        yield tuple(map(str, key)), group  # type: ignore[misc]


def result_table(cases: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each dataset, configuration, part, label, metric and trainer, unfinished trainers without numbers."""
    suite = record["suite"]
    rows: list[dict[str, Any]] = []
    for (dataset, configuration, part), cell in cells(cases):
        trainers = record["datasets"][dataset]["trainers"]
        for label in labels_of(cell):
            chosen = of_label(cell, label)
            for metric in HIGHER_IS_BETTER:
                about = {
                    "dataset": dataset,
                    "configuration": configuration,
                    "part": part,
                    "label": label,
                    "metric": metric,
                }
                rows += [about | row for row in trainer_rows(chosen, trainers, metric, suite)]
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(NUMBERS, float))


def trainer_rows(
    cases: pd.DataFrame, trainers: Sequence[str], metric: str, suite: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    finished = [trainer for trainer in trainers if len(set(progress(cases, trainer, suite))) == 1]
    values = case_values(cases[cases.trainer.isin(finished)], metric)
    reference = suite["reference"]
    comparisons: dict[str, Comparison] = {}
    for trainer in finished:
        if trainer != reference and {reference, trainer} <= set(values.columns):
            units = unit_values(values[[trainer, reference]].dropna())
            if len(units):
                comparisons[trainer] = compare(
                    units[trainer].to_numpy(), units[reference].to_numpy(), HIGHER_IS_BETTER[metric]
                )
    adjusted = holm({trainer: comparison.p for trainer, comparison in comparisons.items()})
    for trainer in trainers:
        done, wanted = progress(cases, trainer, suite)
        outcomes = cases[cases.trainer == trainer].outcome.value_counts()
        row: dict[str, Any] = dict.fromkeys(NUMBERS) | {"trainer": trainer, "folds": f"{done}/{wanted}"}
        if trainer in finished and trainer in values.columns:
            units = unit_values(values[trainer].dropna())
            interval = bootstrap(units.to_numpy())
            row |= {"units": len(units), "mean": interval.mean, "sd": units.std(ddof=1) if len(units) > 1 else None}
            row |= {"ci_low": interval.low, "ci_high": interval.high}
            row |= {"run_sd": run_spread(cases[cases.trainer == trainer], metric)}
        if trainer in comparisons:
            comparison = comparisons[trainer]
            row |= dict(zip(("difference", "difference_low", "difference_high"), comparison.difference, strict=True))
            row |= {"p": comparison.p, "p_holm": adjusted[trainer]}
            row |= {"wins": comparison.wins, "ties": comparison.ties, "losses": comparison.losses}
        for outcome in ("missed", "hallucinated", "both empty"):
            row[outcome.replace(" ", "_")] = int(outcomes.get(outcome, 0))
        yield row


def run_spread(cases: pd.DataFrame, metric: str) -> float | None:
    """Standard deviation of the mean from repetition to repetition; None without repetitions."""
    means = [
        unit_values(case_values(repetition, metric).iloc[:, 0]).mean()
        for _, repetition in cases.groupby("repeat", sort=True)
    ]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def of_main_label(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a :func:`result_table` for the mean over labels, or for the only label."""
    return table[table.label == table.groupby(["dataset", "configuration", "part"]).label.transform("first")]


def warnings(table: pd.DataFrame, reference: str, metric: str = "Dice") -> list[str]:
    """What a reader might take for a difference, and is none that the data show."""
    notes = []
    for _, cell in of_main_label(table[table.metric == metric]).groupby(["dataset", "configuration", "part"]):
        reference_spread = cell[cell.trainer == reference].run_sd.max()
        for row in cell[cell.difference.notna()].itertuples():
            where = f"{row.dataset} {row.configuration} {row.part}: {row.trainer} differs by {row.difference:+.4f}"
            spread = np.nanmax([0.0, row.run_sd, reference_spread])
            if row.difference_low <= 0 <= row.difference_high:
                notes.append(f"{where}, and the confidence interval holds 0")
            elif abs(row.difference) <= spread:
                notes.append(f"{where}, no more than the spread from run to run ({spread:.4f})")
            if row.units < 10:
                notes.append(f"{where}, over {row.units:.0f} units only")
    return notes


# ---- ranks -----------------------------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """Of one dataset."""

    trainers: list[str]
    ranks: Values
    """``(k,)``, 1 is best."""
    frequencies: Values
    """``(k, k)``: how often a trainer (row) has a rank (column) when units are drawn again."""
    kendall_tau: float
    """Mean rank correlation of the resampled rankings with the observed one."""


def ranking(cell: pd.DataFrame, trainers: Sequence[str], metric: str = "Dice") -> Ranking | None:
    """Trainers by their mean on the labels of the cases that all have values for; None if nothing can be ranked."""
    values = case_values(cell[cell.trainer.isin(trainers)], metric).dropna()
    present = [trainer for trainer in trainers if trainer in values.columns]
    units = unit_values(values[present])
    if len(present) < 2 or len(units) < 2:
        return None
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    ranks = stats.rankdata(sign * units.mean().to_numpy())
    drawn = stats.rankdata(sign * (resample_weights(len(units)) @ units.to_numpy()), axis=1, method="min").astype(int)
    frequencies = np.stack([(drawn == rank + 1).mean(axis=0) for rank in range(len(present))], axis=1)
    return Ranking(present, ranks, frequencies, mean_kendall_tau(ranks, drawn))


def mean_kendall_tau(ranks: Values, drawn: NDArray[np.int64]) -> float:
    """Kendall's tau-b of each of the rankings ``(b, k)`` with ``ranks``, averaged; equal rankings are computed once."""
    rankings, counts = np.unique(drawn, axis=0, return_counts=True)
    taus = np.array([stats.kendalltau(ranks, other).statistic for other in rankings])
    return float(np.average(np.nan_to_num(taus), weights=counts))


def rank_table(cases: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each trainer: its rank on each dataset that all trainers have finished, and the average."""
    rankings = finished_rankings(cases, record)
    table = pd.DataFrame({name: pd.Series(r.ranks, r.trainers) for name, r in rankings.items()})
    if table.empty:
        return table
    table = table.dropna()
    table["average"] = table.mean(axis=1)
    return table.sort_values(["average"], kind="stable").rename_axis("trainer").reset_index()


def finished_rankings(cases: pd.DataFrame, record: Mapping[str, Any], metric: str = "Dice") -> dict[str, Ranking]:
    """The ranking of every dataset, configuration and part of which some trainers are finished."""
    found = {}
    for (dataset, configuration, part), cell in cells(cases):
        trainers = record["datasets"][dataset]["trainers"]
        finished = [trainer for trainer in trainers if len(set(progress(cell, trainer, record["suite"]))) == 1]
        result = ranking(cell, finished, metric)
        if result is not None:
            found[f"{dataset} {configuration} {part}"] = result
    return found


def agreement(table: pd.DataFrame) -> float | None:
    """Mean Kendall tau over all pairs of datasets of a :func:`rank_table`; None for a single dataset."""
    columns = [name for name in table.columns if name not in ("trainer", "average")]
    taus = [stats.kendalltau(table[a], table[b]).statistic for a, b in combinations(columns, 2)]
    return float(np.mean(np.nan_to_num(taus))) if taus else None
