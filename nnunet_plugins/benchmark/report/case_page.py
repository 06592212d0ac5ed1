"""The page of all cases, which sorts them by the difference between two trainers, with pictures of many."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageColor import getrgb
from scipy import ndimage

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.results import by_evaluation
from nnunet_plugins.benchmark.report.slices import CaseReader, Label, is_here
from nnunet_plugins.benchmark.report.units import case_values, finished_trainers
from nnunet_plugins.benchmark.runs import Run
from nnunet_plugins.benchmark.survey import Survey

TEMPLATE = Path(__file__).with_name("cases.html")
LONGEST = 192
"""Pixels of the longer side of a picture."""
MOST_TRAINERS = 8
"""Most trainers with pictures of their predictions."""
MOST_CASES = 1000
"""Most cases with pictures, as many of each evaluation: the page has about 20 kB for each."""
RIM, OUTLINE = (0, 0, 0, 150), (255, 255, 255, 255)


def case_page(survey: Survey, analysis: Analysis) -> bytes:
    """Page with all cases of finished trainers; pictures of those whose images are on this machine."""
    evaluations = list(evaluations_of(survey, analysis))
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    data = json.dumps(evaluations, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    suite = survey.suite
    return page.render(name=suite.name, reference=suite.reference, order=analysis.order, data=data).encode()


def evaluations_of(survey: Survey, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Cases, labels, Dice and pictures of each evaluation, as the page's script reads them."""
    results = analysis.results
    groups = list(by_evaluation(results.cases))
    for evaluation, cases in groups:
        finished = finished_trainers(cases, results.record, evaluation.dataset)
        values = case_values(cases[cases.trainer.isin(finished)], "Dice").groupby(level="case").mean()
        runs = [run for run in survey.runs if (run.dataset, run.configuration) == evaluation[:2] and run.repeat == 1]
        pictured = [trainer for trainer in analysis.order if trainer in values.columns][:MOST_TRAINERS]
        chosen: list[str] = []
        if pictured and runs and is_here(runs[0], evaluation.part):
            chosen = most_different(values[pictured], max(1, MOST_CASES // len(groups)))
        run_of = {(run.trainer, run.fold): run for run in runs}
        fold_of = cases.groupby("case").fold.min()
        readers = {
            fold: CaseReader(run_of[pictured[0], fold], evaluation.part) for fold in sorted(set(fold_of[chosen]))
        }
        content = {}
        for case in sorted(chosen):
            fold = fold_of[case]
            content[case] = pictures(case, readers[fold], {trainer: run_of[trainer, fold] for trainer in pictured})
        yield {
            "name": str(evaluation),
            "trainers": [trainer for trainer in analysis.order if trainer in values.columns],
            "labels": labels_of(runs, evaluation.part, chosen),
            "cases": [{"case": case, "dice": numbers(row)} | content.get(case, {}) for case, row in values.iterrows()],
        }


def most_different(values: pd.DataFrame, number: int) -> list[str]:
    """Cases on which the trainers differ most."""
    spread = values.max(axis=1) - values.min(axis=1)
    return [str(case) for case in spread.sort_values(ascending=False, kind="stable").index[:number]]


def numbers(row: pd.Series) -> dict[str, float | None]:
    return {str(trainer): None if np.isnan(value) else round(float(value), 4) for trainer, value in row.items()}


def labels_of(runs: Sequence[Run], part: str, chosen: Sequence[str]) -> list[tuple[str, str]]:
    """Names and colours of the labels; none where nothing is pictured."""
    return [(label.name, label.colour) for label in CaseReader(runs[0], part).labels] if chosen else []


# ---- pictures --------------------------------------------------------------------------------------------------------


def pictures(case: str, reader: CaseReader, runs: dict[str, Run]) -> dict[str, Any]:
    """Image, true outline and areas, and each trainer's areas, of one case, as addresses that hold all of it."""
    shown, labels = reader.read(case), reader.labels
    truth, found = shown.truth, {trainer: reader.read_prediction(run, case, shown) for trainer, run in runs.items()}
    return {
        "image": photo(enlarged(shown.image)),
        "outline": outline(enlarged(truth), labels),
        "truth": areas(enlarged(truth), labels),
        "predicted": {trainer: areas(enlarged(prediction), labels) for trainer, prediction in found.items()},
    }


def enlarged(values: NDArray[Any]) -> NDArray[Any]:
    """Small pictures ``(H, W)`` with several pixels for each of theirs, so that an outline covers little of them."""
    factor = max(1, LONGEST // max(values.shape[:2]))
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def photo(image: NDArray[Any]) -> str:
    picture = Image.fromarray((255 * image).round().astype(np.uint8)).convert("RGB")
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return address(picture, "JPEG", quality=82)


def areas(values: NDArray[Any], labels: Sequence[Label]) -> str:
    """Labels ``(H, W)`` as half transparent areas."""
    places = np.zeros(values.shape, np.uint8)
    for place, label in enumerate(labels, start=1):
        places[values == label.value] = place
    return drawn(shrunk(places), [(*getrgb(label.colour)[:3], 140) for label in labels])


def outline(truth: NDArray[Any], labels: Sequence[Label]) -> str:
    """White line with a black rim along the border of each label."""
    small = shrunk(np.where(np.isin(truth, [label.value for label in labels]), truth, 0).astype(np.int16))
    inner = (small > 0) & (ndimage.minimum_filter(small, 3) != ndimage.maximum_filter(small, 3))
    return drawn(np.where(inner, 2, ndimage.binary_dilation(inner)).astype(np.uint8), [RIM, OUTLINE])


def shrunk(values: NDArray[Any]) -> NDArray[Any]:
    """Labels in the size that :func:`photo` has."""
    height, width = values.shape
    scale = min(1, LONGEST / max(height, width))
    rows, columns = (max(1, round(scale * size)) for size in (height, width))
    return values[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]


def drawn(places: NDArray[np.uint8], colours: Sequence[tuple[int, ...]]) -> str:
    """Picture of values from 0, which is transparent; 1 has the first colour."""
    picture = Image.fromarray(places)
    picture.putpalette(bytes(value for colour in ((0, 0, 0, 0), *colours) for value in colour[:3]))
    return address(picture, "PNG", optimize=True, transparency=bytes([0, *(colour[3] for colour in colours)]))


def address(picture: Image.Image, kind: str, **options: Any) -> str:
    """Address that holds the whole picture."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
