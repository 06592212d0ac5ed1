"""Values of the units that the statistics compare, computed from those of cases.

The unit is the case, or the patient where the suite's ``cluster_regex`` finds several cases of one: its value is the
mean over its cases, labels, folds and repetitions. Trainers with folds still missing are left out of everything.

Where reference and prediction are both empty, there is no value, and means leave the case out. A comparison must not: a
trainer that is rightly empty is better than one that hallucinates. So wherever one of the compared trainers has a
value, those that are rightly empty have the best one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.record import Record
from nnunet_plugins.benchmark.report.statistics import Values

MEAN_LABEL = "mean"


class CaseArrays(NamedTuple):
    """Values of an evaluation, means over folds and repetitions: case and label by metric by trainer."""

    index: pd.MultiIndex
    """Cluster, case and label of each row."""
    metrics: Sequence[str]
    trainers: Sequence[str]
    means: Values
    """NaN where reference and prediction are empty."""
    compared: Values
    """The same with the best value wherever a prediction is rightly empty; NaN where there is no prediction."""

    def of_label(self, label: str) -> "CaseArrays":
        """The rows of a label, or all for the mean over labels."""
        if label == MEAN_LABEL:
            return self
        rows = self.index.get_level_values("label") == label
        return self._replace(index=self.index[rows], means=self.means[rows], compared=self.compared[rows])

    def units(self) -> Values:
        """Value of each unit, ``(unit, metric, trainer)``."""
        return unit_means(self.means, self.index)

    def differences(self, others: NDArray[np.int64]) -> Values:
        """Each trainer's value of each unit minus that of another one, ``(unit, metric, trainer)``.

        Args:
            others: place of the other trainer, ``(metric, trainer)``.
        """
        place = np.broadcast_to(others, self.means.shape)
        theirs = np.take_along_axis(self.compared, place, axis=2)
        empty = np.isnan(self.means) & np.isnan(np.take_along_axis(self.means, place, axis=2))
        left_out = empty | np.isnan(self.compared) | np.isnan(theirs)
        pair = np.stack([np.where(left_out, np.nan, values) for values in (self.compared, theirs)])
        ours, theirs = np.moveaxis(unit_means(np.moveaxis(pair, 0, -1), self.index), -1, 0)
        return ours - theirs


def case_arrays(cases: pd.DataFrame, trainers: Sequence[str], metrics: Sequence[str]) -> CaseArrays:
    """Values of some trainers on one evaluation's cases."""
    chosen = cases[cases.trainer.isin(trainers)]
    best = {metric: 1.0 if HIGHER_IS_BETTER[metric] else 0.0 for metric in metrics}
    columns = pd.MultiIndex.from_product([metrics, trainers])
    tables = [
        frame.groupby(["cluster", "case", "label", "trainer"])[list(metrics)].mean().unstack().reindex(columns=columns)
        for frame in (chosen, chosen.fillna(best))
    ]
    shape = len(tables[0]), len(metrics), len(trainers)
    means, compared = (table.to_numpy().reshape(shape) for table in tables)
    return CaseArrays(tables[0].index, metrics, trainers, means, compared)


def unit_means(values: Values, index: pd.MultiIndex) -> Values:
    """Means ``(units, ...)`` of the values of rows ``(rows, ...)``, as :func:`unit_values` gives them."""
    units = unit_values(pd.DataFrame(values.reshape(len(values), -1), index))
    return units.to_numpy().reshape(len(units), *values.shape[1:])


def num_finished_trainings(cases: pd.DataFrame) -> dict[str, int]:
    """Number of finished trainings of each trainer on one evaluation's cases."""
    return cases[["trainer", "repeat", "fold"]].drop_duplicates().trainer.value_counts().to_dict()


def finished_trainers(cases: pd.DataFrame, record: Record, dataset: str) -> list[str]:
    """Trainers with all folds and repetitions on one evaluation's cases, in the suite's order."""
    done = num_finished_trainings(cases)
    return [trainer for trainer in record.trainers_of(dataset) if done.get(trainer) == record.num_trainings]


def case_values(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over folds and repetitions: a row for each cluster, case and label, a column for each trainer."""
    index = ["cluster", "case", "label"]
    return cases.pivot_table(metric, index, "trainer", aggfunc="mean", dropna=True, sort=True)


def unit_values(values: pd.DataFrame | pd.Series) -> Any:
    """Mean over the labels of a case, then over the cases of a unit."""
    return values.groupby(level=["cluster", "case"]).mean().groupby(level="cluster").mean()


def labels_of(cases: pd.DataFrame) -> list[str]:
    """The mean over labels and then the labels, or the only label."""
    labels = sorted(cases.label.unique())
    return [MEAN_LABEL, *labels] if len(labels) > 1 else labels
