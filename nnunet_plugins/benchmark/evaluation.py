"""The command ``nnunet-plugins evaluate``: all metrics of the benchmark for any two folders of segmentations."""

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from nnunet_plugins.benchmark.folders import Pairs, find_pairs, named
from nnunet_plugins.benchmark.measurement import Labels, known_values, labels_of
from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER, Scores
from nnunet_plugins.benchmark.pool import Measured, Task, measured
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write
from nnunet_plugins.text_tables import aligned

METRICS = tuple(HIGHER_IS_BETTER)
OUTCOMES = ("both empty", "missed", "hallucinated")
EXPLANATION = (
    "Means of the cases in which the label is in the reference or in the prediction; where only one has it, the values"
    "\nare the worst. HD95 and ASSD in mm, or in pixels if files have no spacing. NSD's tolerance: {tolerance:g}."
)
Rows = dict[str, dict[str, Scores]]
"""Scores of each label of each case."""


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, and write a row for each case and label if a file is given.

    Raises:
        UserError: files or options do not fit.
    """
    check_options(options)
    pairs = find_pairs(options.predictions, options.references, options.djfile, options.chill)
    for sentence in pairs.left_out:
        print(f"Left out: {sentence}.", file=sys.stderr)
    labels = None if pairs.description is None else labels_of(pairs.description)
    rows = scores_of_all(pairs, labels, options)
    source = f"labels of {pairs.description_file}" if pairs.description_file else "all labels that were found"
    print(f"{options.predictions}: {len(rows)} case{'s' * (len(rows) != 1)}, {source}\n")
    print(table(summary(rows)))
    if "verbose" in options:
        print("\n" + table([["CASE", "LABEL", "OUTCOME", *METRICS], *map(rounded, case_rows(rows))]))
    print("\n" + EXPLANATION.format(tolerance=options.tolerance))
    if options.output is not None:
        write_csv(options.output, rows)
        print(f"Each case and label: {options.output}")


def check_options(options: argparse.Namespace) -> None:
    """Check what no file has to be read for.

    Raises:
        UserError: an option has a value that it cannot have.
    """
    if not 0 <= options.tolerance < float("inf"):
        raise UserError(f"--tolerance {options.tolerance}: expected a distance in mm, or in pixels, from 0")
    if options.processes is not None and options.processes < 1:
        raise UserError(f"-np {options.processes}: expected a number of processes from 1")
    if options.output is not None and (options.output.is_dir() or options.output.suffix != ".csv"):
        raise UserError(f"-o {options.output}: expected the name of a file that ends with .csv")


def scores_of_all(pairs: Pairs, labels: Labels | None, options: argparse.Namespace) -> Rows:
    """Scores of each label of each case, also of those that are in other cases alone.

    Raises:
        UserError: some files cannot be read or compared.
    """
    known = None if labels is None or pairs.description is None else known_values(pairs.description)
    tasks = [Task(case, *files, pairs.reader, labels, known, options.tolerance) for case, files in pairs.files.items()]
    found = list(measured(tasks, options.processes))
    faults = [case.fault for case in found if case.fault is not None]
    if faults:
        more = f" (and {len(faults) - 1} more: {named([case.case for case in found if case.fault][1:])})"
        raise UserError(faults[0] + more * (len(faults) > 1))
    if labels is not None:
        return {case.case: case.scores for case in found}
    names = all_found(found)
    return {case.case: {name: case.scores.get(name, Scores("both empty")) for name in names} for case in found}


def all_found(found: Sequence[Measured]) -> list[str]:
    """Labels that were found in any file, in the order of their numbers.

    Raises:
        UserError: there are none, or predictions and references share none.
    """
    true, predicted = (set().union(*sets) for sets in ([c.true for c in found], [c.predicted for c in found]))
    if not true | predicted:
        raise UserError("All files are empty: there is no label to measure; give those of the dataset with -djfile")
    if true and predicted and not true & predicted:
        raise UserError(
            f"References have the labels {named(sorted(true))}, predictions {named(sorted(predicted))}: give both the "
            "same numbers for the same things"
        )
    return [str(value) for value in sorted(true | predicted)]


# ---- tables ----------------------------------------------------------------------------------------------------------


def summary(rows: Rows) -> list[list[str]]:
    """Table of the labels: numbers of cases by outcome, and means of all metrics; of several labels their mean too."""
    names = list(next(iter(rows.values())))
    lines = [["LABEL", "CASES", *(outcome.upper() for outcome in OUTCOMES), *METRICS]]
    for name in names:
        scores = [case[name] for case in rows.values()]
        counts = [str(sum(score.outcome == outcome for score in scores)) for outcome in OUTCOMES]
        means = [mean_of(getattr(score, metric) for score in scores) for metric in METRICS]
        lines.append([name, str(len(scores)), *counts, *map(as_text, means)])
    if len(names) > 1:
        per_case = [
            [mean_of(getattr(s, metric) for s in case.values()) for case in rows.values()] for metric in METRICS
        ]
        lines.append(
            ["mean", str(len(rows)), *[""] * len(OUTCOMES), *(as_text(mean_of(values)) for values in per_case)]
        )
    return lines


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that there are; None if there is none."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def case_rows(rows: Rows) -> Iterable[list[str | float | None]]:
    for case, scores in rows.items():
        for label, score in scores.items():
            yield [case, label, *score]


def rounded(cells: Sequence[str | float | None]) -> list[str]:
    return [cell if isinstance(cell, str) else as_text(cell) for cell in cells]


def as_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text on the left and of numbers on the right."""
    columns = enumerate(zip(*lines, strict=True))
    numbers = {place for place, column in columns if all(not cell.strip("-.0123456789") for cell in column[1:])}
    return aligned(lines, right=numbers)


def write_csv(path: Path, rows: Rows) -> None:
    """Write all values to their last digit, in the columns that a benchmark's ``cases.csv`` has too."""
    try:
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["case", "label", "outcome", *METRICS])
            writer.writerows(case_rows(rows))
    except OSError as error:
        raise UserError(f"-o {path} cannot be written ({error.strerror}): choose another file") from error
