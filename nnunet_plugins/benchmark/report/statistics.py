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
Cell = tuple[str, str, str]  # dataset, configuration and part
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


def finished_trainers(cell: pd.DataFrame, record: Mapping[str, Any], dataset: str) -> list[str]:
    """Of a cell, in the suite's order."""
    trainers = record["datasets"][dataset]["trainers"]
    return [trainer for trainer in trainers if is_finished(cell, trainer, record["suite"])]


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


def cells(cases: pd.DataFrame) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The cases of each cell: dataset, configuration and part."""
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
        reference_row = cell[cell.trainer == reference]
        for row in cell[cell.difference.notna()].itertuples():
            where = f"{row.dataset} {row.configuration} {row.part}: {row.trainer} differs by {row.difference:+.4f}"
            spread = np.nanmax([0.0, row.run_sd, *reference_row.run_sd])
            if row.difference_low <= 0 <= row.difference_high:
                notes.append(f"{where}, and the confidence interval holds 0")
            elif abs(row.difference) <= spread:
                notes.append(f"{where}, no more than the spread from run to run ({spread:.4f})")
            if row.pairs < 10:
                notes.append(f"{where}, over {row.pairs:.0f} units only")
            gap = row.mean - reference_row["mean"].max()
            if not abs(gap - row.difference) < 5e-5:
                means = f"its mean by {gap:+.4f}" if np.isfinite(gap) else "one of both has no mean"
                notes.append(
                    f"{where}, {means}: where only one of both is empty as it should be, that counts as Dice 1 against "
                    "0 in comparisons, and is left out of its mean"
                )
    return notes


# ---- ranks -----------------------------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """Of the finished trainers, in one cell."""

    trainers: list[str]
    ranks: Values
    """``(k,)``, 1 is best; equal trainers have the mean of their ranks."""
    frequencies: Values
    """``(k, k)``: how often a trainer (row) has a rank (column) when units are drawn again; equal ones share theirs."""
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
    means = sign * resampled_means(units.to_numpy())
    first, last = (stats.rankdata(means, axis=1, method=method).astype(int) for method in ("min", "max"))
    shares = [((first <= rank) & (rank <= last)) / (last - first + 1) for rank in range(1, len(present) + 1)]
    frequencies = np.stack([share.mean(axis=0) for share in shares], axis=1)
    return Ranking(present, ranks, frequencies, mean_kendall_tau(ranks, first))


def mean_kendall_tau(ranks: Values, drawn: NDArray[np.int64]) -> float:
    """Kendall's tau-b of each of the rankings ``(b, k)`` with ``ranks``, averaged; 0 where all are tied."""
    rankings, counts = np.unique(drawn, axis=0, return_counts=True)
    first, second = np.triu_indices(len(ranks), 1)
    observed = np.sign(ranks[first] - ranks[second])
    others = np.sign(rankings[:, first] - rankings[:, second])
    norm = np.sqrt(np.count_nonzero(observed) * np.count_nonzero(others, axis=1))
    taus = np.divide(others @ observed, norm, out=np.zeros(len(others)), where=norm > 0)
    return float(np.average(taus, weights=counts))


def finished_rankings(cases: pd.DataFrame, record: Mapping[str, Any], metric: str = "Dice") -> dict[Cell, Ranking]:
    """The ranking of every cell in which at least two trainers are finished."""
    found = {}
    for key, cell in cells(cases):
        result = ranking(cell, finished_trainers(cell, record, key[0]), metric)
        if result is not None:
            found[key] = result
    return found


def rank_table(rankings: Mapping[Cell, Ranking], record: Mapping[str, Any]) -> pd.DataFrame:
    """Ranks of trainers (rows, best first) in cells (columns): all comparable, as every row is in every column.

    Left out are cells that lack one of their dataset's trainers, then trainers that are not in all other cells.
    """
    columns = {
        key: pd.Series(found.ranks, found.trainers)
        for key, found in rankings.items()
        if set(found.trainers) == set(record["datasets"][key[0]]["trainers"])
    }
    table = pd.DataFrame(columns).dropna().rank()
    if len(table) < 2:
        return pd.DataFrame()
    return table.loc[average_ranks(table).sort_values(kind="stable").index]


def average_ranks(table: pd.DataFrame) -> pd.Series:
    """Over the datasets of a :func:`rank_table`; none counts more because it has several configurations or parts."""
    return table.T.groupby(level=0).mean().mean()


def agreement(table: pd.DataFrame) -> float | None:
    """Mean Kendall tau over all pairs of a :func:`rank_table`'s cells of different datasets; None if there are none.

    Where all trainers are equal, tau is 0.
    """
    pairs = [(a, b) for a, b in combinations(table.columns, 2) if a[0] != b[0]]
    taus = [stats.kendalltau(table[a], table[b]).statistic for a, b in pairs]
    return float(np.mean(np.nan_to_num(taus))) if taus else None
