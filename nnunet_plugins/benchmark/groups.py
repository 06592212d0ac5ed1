"""The groups of cases, such as patients, that the conversion of a dataset has recorded."""

import csv
from collections.abc import Iterable, Mapping
from functools import lru_cache

from nnunet_plugins.benchmark.runs import Run, dataset_of
from nnunet_plugins.benchmark.versions import Version, version
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder

CONVERSION_REPORT = "conversion_report.csv"
"""File in the raw dataset in which the conversion names the group of each case."""
Groups = Mapping[str, str]
"""Group of each case."""


def recorded_groups(run: Run, part: str) -> Groups | None:
    """Groups of the dataset that a part's cases belong to; None if its conversion's report is not on this machine.

    Raises:
        UserError: the report is damaged.
    """
    found = version(nnunet_folder(RAW) / dataset_of(run, part) / CONVERSION_REPORT)
    return None if found is None else groups_in(found)


@lru_cache
def groups_in(report: Version) -> Groups:
    try:
        with report.path.open(newline="", encoding="utf-8") as file:
            return {row["case"]: row["group"] or row["case"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{report.path} does not tell the groups of cases ({reason(error)}): convert the dataset again, or remove "
            "that file, and each case counts as independent"
        ) from error


def groups_of_cases(run: Run, part: str, cases: Iterable[str]) -> dict[str, str]:
    """Recorded groups of some cases of a part, as the receipt of their metrics keeps them for other machines."""
    known = recorded_groups(run, part) or {}
    return {case: known[case] for case in cases if case in known}
