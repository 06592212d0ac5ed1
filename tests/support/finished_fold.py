"""Files that nnU-Net leaves of a finished training and that users add, without any training."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from skimage import io

from nnunet_plugins.benchmark.jobs.sources import folder_digest
from nnunet_plugins.benchmark.jobs.training import CURVES
from nnunet_plugins.benchmark.runs import SUMMARY, VALIDATION, Run, predictions, references
from nnunet_plugins.nnunet_folders import CHECKPOINTS


def write_finished_fold(run: Run) -> None:
    """Write the files of a finished training that has segmented everything as in the reference."""
    (run.folder / VALIDATION).mkdir(parents=True)
    logging = {name: [0.5, float("nan")] for name in CURVES}
    logging |= {"epoch_start_timestamps": [10.0, 12.0], "epoch_end_timestamps": [11.5, 14.0]}
    torch.save({"logging": logging}, run.folder / CHECKPOINTS[0])
    cases = []
    for case, reference in references(run, VALIDATION).items():
        prediction = run.folder / VALIDATION / reference.name
        shutil.copyfile(reference, prediction)
        present = set(np.unique(io.imread(reference)))
        metrics = {str(label): {"Dice": 1.0 if label in present else float("nan")} for label in (1, 2)}
        cases.append({"prediction_file": str(prediction), "reference_file": str(reference), "metrics": metrics})
        assert case in reference.name
    (run.folder / SUMMARY).write_text(json.dumps({"metric_per_case": cases}))


def first_prediction(run: Run) -> Path:
    return next(iter(predictions(run, VALIDATION).values()))


def write_test_set(run: Run, cases: list[str]) -> None:
    """Write a test set of copies of training cases."""
    raw = Path(os.environ["nnUNet_raw"], run.dataset)
    for source, target in (("imagesTr", "imagesTs"), ("labelsTr", "labelsTs")):
        (raw / target).mkdir()
        for case in cases:
            for path in (raw / source).glob(f"{case}[_.]*"):
                shutil.copyfile(path, raw / target / path.name)


def erase(label: Path) -> None:
    """Make a segmentation empty, and let hashes of labels be computed anew, as in another process."""
    io.imsave(label, np.zeros_like(io.imread(label)), check_contrast=False)
    folder_digest.cache_clear()
