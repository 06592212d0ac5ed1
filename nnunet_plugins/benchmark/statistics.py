"""What the numbers of a suite allow to say, and what they do not.

The unit is the case, or the patient where a suite's ``cluster_regex`` finds several cases of one: the mean over the
unit's cases, folds and repetitions. Trainers with folds still missing are left out of everything.

Where reference and prediction are both empty, there is no value, and means leave the case out. A comparison must not: a
trainer that is empty as it should be is better than one that hallucinates. So wherever one of the trainers compared has
a value, those that are rightly empty have the best one.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    "units", "pairs", "mean", "sd", "ci_low", "ci_high", "run_sd", "difference", "difference_low", "difference_high",
    "p", "p_holm", "wins", "ties", "losses",
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


def resampled_means(values: Values) -> Values:
    """Means of the units ``(n, ...)`` in each resample ``(NUM_RESAMPLES, ...)``.

    For one n always the same resamples, so differences stay paired. In chunks: 10,000 x 5000 would be 400 MB.
    """
    rng = np.random.default_rng(SEED)
    num_units, chunk = len(values), 100
    draws = (rng.integers(num_units, size=(chunk, num_units)) for _ in range(NUM_RESAMPLES // chunk))
    return np.concatenate([values[drawn].mean(axis=1) for drawn in draws])


def bootstrap(values: Values) -> Interval:
    """Mean over units ``(n,)`` with the percentile bootstrap's interval; of a single unit there is no interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.quantile(resampled_means(values), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
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
    """Two-sided p of the signed-rank test; 1 if nothing differs.

    Up to 50 units it is exact, with ties too, for which scipy would draw permutations: the share of all signs that lead
    to a sum of ranks as extreme as this one.
    """
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    if len(difference) > 50:
        return float(stats.wilcoxon(difference, method="asymptotic").pvalue)
    ranks = np.round(2 * stats.rankdata(np.abs(difference))).astype(int)  # ties have halves
    ways = np.ones(1)  # to reach each sum of the ranks of positive differences
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    positive = int(ranks[difference > 0].sum())
    extreme = min(positive, int(ranks.sum()) - positive)
    return float(min(1.0, 2 * ways[: extreme + 1].sum() / 2.0 ** len(ranks)))


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


def is_finished(cases: pd.DataFrame, trainer: str, suite: Mapping[str, Any]) -> bool:
    done, wanted = progress(cases, trainer, suite)
    return done == wanted


def case_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row for each cluster, case and label, a column for each trainer: mean over folds and repetitions."""
    index = ["cluster", "case", "label"]
    return cases.pivot_table(metric, index, "trainer", aggfunc="mean", dropna=True, sort=True)


def compared_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """As :func:`case_values`, for trainers that are compared: rightly empty is best, where not all of them are."""
    best = 1.0 if HIGHER_IS_BETTER[metric] else 0.0
    some = cases.groupby(["case", "label"])[metric].transform("count") > 0
    return case_values(cases[some].fillna({metric: best}), metric).dropna()


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
    finished = [trainer for trainer in trainers if is_finished(cases, trainer, suite)]
    values = case_values(cases[cases.trainer.isin(finished)], metric)
    reference = suite["reference"]
    comparisons: dict[str, Comparison] = {}
    for trainer in finished:
        if trainer != reference and reference in finished:
            units = unit_values(compared_values(cases[cases.trainer.isin([trainer, reference])], metric))
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
            row |= {"pairs": comparison.units, "p": comparison.p, "p_holm": adjusted[trainer]}
            row |= {"wins": comparison.wins, "ties": comparison.ties, "losses": comparison.losses}
        for outcome in ("missed", "hallucinated", "both empty"):
            row[outcome.replace(" ", "_")] = int(outcomes.get(outcome, 0))
        yield row


def run_spread(cases: pd.DataFrame, metric: str) -> float | None:
    """Standard deviation of the mean from repetition to repetition; None without repetitions."""
    means = [
        unit_values(case_values(repetition, metric).iloc[:, 0]).mean()
        for _, repetition in cases.groupby("repeat", sort=True)
        if repetition[metric].notna().any()  # a label may be empty everywhere, reference and prediction
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
        reference_units = cell[cell.trainer == reference].units.max()
        for row in cell[cell.difference.notna()].itertuples():
            where = f"{row.dataset} {row.configuration} {row.part}: {row.trainer} differs by {row.difference:+.4f}"
            spread = np.nanmax([0.0, row.run_sd, reference_spread])
            if row.difference_low <= 0 <= row.difference_high:
                notes.append(f"{where}, and the confidence interval holds 0")
            elif abs(row.difference) <= spread:
                notes.append(f"{where}, no more than the spread from run to run ({spread:.4f})")
            if row.pairs < 10:
                notes.append(f"{where}, over {row.pairs:.0f} units only")
            if row.pairs > min(row.units, reference_units):
                notes.append(
                    f"{where} over {row.pairs:.0f} units: where only one of both is empty as it should be, that counts "
                    "as Dice 1 against 0 here, and is left out of its mean"
                )
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
    """Trainers by their mean over the cases that any has a value for; None if nothing can be ranked."""
    values = compared_values(cell[cell.trainer.isin(trainers)], metric)
    present = [trainer for trainer in trainers if trainer in values.columns]
    units = unit_values(values[present])
    if len(present) < 2 or len(units) < 2:
        return None
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    ranks = stats.rankdata(sign * units.mean().to_numpy())
    drawn = stats.rankdata(sign * resampled_means(units.to_numpy()), axis=1, method="min").astype(int)
    frequencies = np.stack([(drawn == rank + 1).mean(axis=0) for rank in range(len(present))], axis=1)
    return Ranking(present, ranks, frequencies, mean_kendall_tau(ranks, drawn))


def mean_kendall_tau(ranks: Values, drawn: NDArray[np.int64]) -> float:
    """Kendall's tau-b of each of the rankings ``(b, k)`` with ``ranks``, averaged; 0 where all are tied."""
    rankings, counts = np.unique(drawn, axis=0, return_counts=True)
    first, second = np.triu_indices(len(ranks), 1)
    observed = np.sign(ranks[first] - ranks[second])
    others = np.sign(rankings[:, first] - rankings[:, second])
    norm = np.sqrt(np.count_nonzero(observed) * np.count_nonzero(others, axis=1))
    taus = np.divide(others @ observed, norm, out=np.zeros(len(others)), where=norm > 0)
    return float(np.average(taus, weights=counts))


def rank_table(cases: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each trainer: its rank on each dataset that all trainers have finished, and the average."""
    rankings = finished_rankings(cases, record)
    table = pd.DataFrame({name: pd.Series(r.ranks, r.trainers) for name, r in rankings.items()})
    if table.empty:
        return table
    table = table.dropna().rank()  # among those that are in all columns: others must not move their average
    table["average"] = table.mean(axis=1)
    return table.sort_values(["average"], kind="stable").rename_axis("trainer").reset_index()


def finished_rankings(cases: pd.DataFrame, record: Mapping[str, Any], metric: str = "Dice") -> dict[str, Ranking]:
    """The ranking of every dataset, configuration and part of which some trainers are finished."""
    found = {}
    for (dataset, configuration, part), cell in cells(cases):
        trainers = record["datasets"][dataset]["trainers"]
        finished = [trainer for trainer in trainers if is_finished(cell, trainer, record["suite"])]
        result = ranking(cell, finished, metric)
        if result is not None:
            found[f"{dataset} {configuration} {part}"] = result
    return found


def agreement(table: pd.DataFrame) -> float | None:
    """Mean Kendall tau over all pairs of datasets of a :func:`rank_table`; None for a single dataset."""
    columns = [name for name in table.columns if name not in ("trainer", "average")]
    taus = [stats.kendalltau(table[a], table[b]).statistic for a, b in combinations(columns, 2)]
    return float(np.mean(np.nan_to_num(taus))) if taus else None
