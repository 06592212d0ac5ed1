"""The step validate: all metrics of all cases, with a Dice that is nnU-Net's to the last digit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from nnunet_plugins.benchmark.groups import groups_of_cases
from nnunet_plugins.benchmark.jobs.training import predicted_parts
from nnunet_plugins.benchmark.measurement import labels_of, measure
from nnunet_plugins.benchmark.readers import nnunet_metrics, reader_of
from nnunet_plugins.benchmark.runs import SUMMARY, VALIDATION, Run, dataset_json, predictions, references
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import write_json
from nnunet_plugins.locks import lock


def validate(suite: Suite, run: Run) -> None:
    """Measure all predictions of a run.

    Raises:
        UserError: our Dice is not nnU-Net's, because predictions or references have changed since.
    """
    with lock(run.lock_file):
        parts = predicted_parts(run)
        rows = [row for part in parts for row in case_rows(run, part)]
        require_dice_of_nnunet(run, rows)
        groups = {part: groups_of_cases(run, part, references(run, part)) for part in parts}
        head = {"tolerance": run.data.tolerance, "parts": parts, "dice": mean_dice(rows), "groups": groups}
        write_json(run.validation_receipt, head | {"cases": rows})


def case_rows(run: Run, part: str) -> Iterator[dict[str, Any]]:
    """Metrics of each case and label of a part."""
    from tqdm import tqdm

    labels = labels_of(dataset_json(run))
    files, predicted = references(run, part), predictions(run, part)
    reader = reader_of(run, next(iter(files.values())))
    for case, file in tqdm(files.items(), desc=f"Metrics, {part}"):
        reference, properties = reader.read_seg(str(file))
        prediction, _ = reader.read_seg(str(predicted[case]))
        for label, scores in measure(reference[0], prediction[0], properties["spacing"], labels, run.data.tolerance):
            yield {"part": part, "case": case, "label": label, "key": str(labels.values[label])} | scores._asdict()


def mean_dice(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean Dice of the validation cases, where it is defined: each label counts the same, as in nnU-Net's summary."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["part"] == VALIDATION and row["Dice"] is not None:
            values.setdefault(row["label"], []).append(row["Dice"])
    return mean(map(mean, values.values())) if values else None


def require_dice_of_nnunet(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compare the validation cases' Dice with nnU-Net's.

    Raises:
        UserError: they differ.
    """
    known = nnunet_metrics(run)
    for row in rows:
        if row["part"] != VALIDATION:
            continue
        theirs = known.get(row["case"], {}).get(row["key"], {}).get("Dice")
        ours = math.nan if row["Dice"] is None else row["Dice"]
        if theirs is None or not (theirs == ours or (math.isnan(theirs) and math.isnan(ours))):
            path = run.folder / SUMMARY
            raise UserError(
                f"{path} gives {row['case']} ({row['label']}) a Dice of {theirs}, and its prediction has {ours}: "
                f"predictions or references have changed; remove {path.parent} and run the benchmark again"
            )
