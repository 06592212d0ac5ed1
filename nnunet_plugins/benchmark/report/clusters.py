"""The statistical unit that each case belongs to, and the authority on it: the suite or the dataset's conversion."""

from collections.abc import Iterable, Mapping

import pandas as pd

from nnunet_plugins.benchmark.groups import Groups, recorded_groups
from nnunet_plugins.benchmark.report.record import Source
from nnunet_plugins.benchmark.runs import Run, dataset_json

Part = tuple[str, str]
"""Dataset and part, whose cases have the same units for all trainers."""


def clusters_of(
    cases: pd.DataFrame, runs: Iterable[Run], noted: Mapping[Part, Groups]
) -> tuple[pd.Series, dict[str, dict[str, Source]]]:
    """Unit of each row of ``cases.csv``, and the authority on the units of each dataset and part.

    Args:
        cases: the rows, with ``dataset``, ``part`` and ``case``.
        runs: runs of all datasets in them.
        noted: groups that the receipts of the runs have.
    """
    any_run = {run.dataset: run for run in runs}
    clusters = cases.case.copy()
    sources: dict[str, dict[str, Source]] = {}
    for (dataset, part), group in cases.groupby(["dataset", "part"]):
        names = sorted(group.case.unique())
        unit_of, source = units_of(any_run[dataset], part, names, noted.get((dataset, part), {}))
        clusters[group.index] = group.case.map(unit_of)
        sources.setdefault(dataset, {})[part] = source
    return clusters, sources


def units_of(run: Run, part: str, cases: Iterable[str], noted: Groups) -> tuple[dict[str, str], Source]:
    """Unit of each case of a part, and the authority on it.

    The suite's ``cluster_regex`` comes first; then the report of the dataset's conversion, or what the receipts have of
    it where it is on another machine.
    """
    if run.data.cluster_regex:
        return {case: run.data.cluster(case) for case in cases}, "cluster_regex"
    recorded = recorded_groups(run, part)
    groups = noted if recorded is None else recorded
    units = {case: groups.get(case, case) for case in cases}
    if units.keys() <= groups.keys():
        return units, "groups" if len(set(groups.values())) < len(groups) else "cases"
    was_converted = recorded is not None or bool(noted) or dataset_json(run).get("conversion")
    return units, "unknown" if was_converted else "cases"
