"""Values of the units that the statistics compare, computed from those of cases.

The unit is the case, or the patient where the suite's ``cluster_regex`` finds several cases of one: its value is the
mean over its cases, labels, folds and repetitions. Trainers with folds still missing are left out of everything.

Where reference and prediction are both empty, there is no value, and means leave the case out. A comparison must not: a
trainer that is rightly empty is better than one that hallucinates. So wherever one of the compared trainers has a
value, those that are rightly empty have the best one.
"""

from typing import Any

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.record import Record

MEAN_LABEL = "mean"


def num_finished_trainings(cases: pd.DataFrame, trainer: str) -> int:
    """Number of a trainer's finished trainings on one evaluation's cases."""
    return len(cases.loc[cases.trainer == trainer, ["repeat", "fold"]].drop_duplicates())


def finished_trainers(cases: pd.DataFrame, record: Record, dataset: str) -> list[str]:
    """Trainers with all folds and repetitions on one evaluation's cases, in the suite's order."""
    trainers = record.trainers_of(dataset)
    return [trainer for trainer in trainers if num_finished_trainings(cases, trainer) == record.num_trainings]


def case_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over folds and repetitions: a row for each cluster, case and label, a column for each trainer."""
    index = ["cluster", "case", "label"]
    return cases.pivot_table(metric, index, "trainer", aggfunc="mean", dropna=True, sort=True)


def compared_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values as of :func:`case_values`, in which rightly empty is best where a compared trainer is not empty."""
    best = 1.0 if HIGHER_IS_BETTER[metric] else 0.0
    some = cases.groupby(["case", "label"])[metric].transform("count") > 0
    return case_values(cases[some].fillna({metric: best}), metric).dropna()


def unit_values(values: pd.DataFrame | pd.Series) -> Any:
    """Mean over the labels of a case, then over the cases of a unit."""
    return values.groupby(level=["cluster", "case"]).mean().groupby(level="cluster").mean()


def labels_of(cases: pd.DataFrame) -> list[str]:
    """The mean over labels and then the labels, or the only label."""
    labels = sorted(cases.label.unique())
    return [MEAN_LABEL, *labels] if len(labels) > 1 else labels


def cases_of_label(cases: pd.DataFrame, label: str) -> pd.DataFrame:
    return cases if label == MEAN_LABEL else cases[cases.label == label]
