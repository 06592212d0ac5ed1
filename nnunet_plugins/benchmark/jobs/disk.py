"""Upper estimate of the disk that the rest of a suite takes: checkpoints, predictions, preprocessed data."""

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.benchmark.jobs.states import is_preprocessed
from nnunet_plugins.benchmark.runs import (
    Run,
    dataset_json,
    images_folder,
    planned_configuration,
    read_plans,
    references,
)
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.benchmark.versions import shared_json
from nnunet_plugins.files import nearest_existing
from nnunet_plugins.nnunet_folders import FINGERPRINT, PREPROCESSED, RAW, RESULTS, nnunet_folder

BYTES_PER_PARAMETER = 3 * 4
"""The weight and Adam's two averages of its gradient, in float32; SGD keeps one."""
CHECKPOINTS_KEPT = 2
"""The final and the best one."""
SAMPLE = 5
"""Images whose sizes stand for those of a dataset that has no fingerprint yet."""


class Needs(NamedTuple):
    """Bytes that the rest of a suite takes."""

    checkpoints: int
    predictions: int
    preprocessed: int
    unknown: tuple[str, ...]
    """Trainers of whose checkpoints the size is not known."""


def needs_of(survey: Survey) -> Needs:
    """Estimate for the trainings of a suite that are left."""
    left = survey.untrained
    sizes = {key: checkpoint_bytes(run) for key, run in first_of_each(left).items()}
    numbers = Counter((run.trainer, run.configuration) for run in left)
    labels = {run.data.id: bytes_of_predictions(run) for run in left}
    prepared = {run.preprocessing_receipt: run.unfitted for run in left}
    return Needs(
        checkpoints=sum(number * (sizes[key] or 0) for key, number in numbers.items()),
        predictions=sum(labels[run.data.id] for run in left),
        preprocessed=sum(preprocessed_bytes(run) for run in prepared.values() if not is_preprocessed(run)),
        unknown=tuple(dict.fromkeys(trainer for (trainer, _), size in sizes.items() if size is None)),
    )


def first_of_each(runs: Iterable[Run]) -> dict[tuple[str, str], Run]:
    """A run of each trainer and configuration, with plans if any has them: on other datasets its network is alike."""
    found: dict[tuple[str, str], Run] = {}
    planned = {run.plans_file: run.plans_file.exists() for run in runs}
    for run in runs:
        key = run.trainer, run.configuration
        if key not in found or (planned[run.plans_file] and not planned[found[key].plans_file]):
            found[key] = run
    return found


def in_words(needs: Needs) -> Iterator[str]:
    """Lines on what is needed, of how much that is free."""
    results = f"checkpoints {size(needs.checkpoints)}, predictions {size(needs.predictions)}"
    for variable, bytes_needed, detail in (
        (RESULTS, needs.checkpoints + needs.predictions, f" ({results})"),
        (PREPROCESSED, needs.preprocessed, ""),
    ):
        free = shutil.disk_usage(nearest_existing(nnunet_folder(variable))).free
        line = f"at most about {size(bytes_needed)} in {nnunet_folder(variable)}{detail}; {size(free)} are free"
        yield line + (": too few, make room or choose another disk" if bytes_needed > free else "")
    if needs.unknown:
        reason = "whose networks cannot be built here, or not before planning"
        yield f"without the checkpoints of {', '.join(needs.unknown)}, {reason}"


def size(number: float) -> str:
    """A number of bytes.

    Example:
        >>> size(0), size(2_500_000), size(123_456_789_012)
        ('0 MB', '2 MB', '123 GB')
    """
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


# ---- one run ---------------------------------------------------------------------------------------------------------


def checkpoint_bytes(run: Run) -> int | None:
    """Bytes of the checkpoints that a training leaves; None if its network cannot be built, or not before planning."""
    import torch

    from nnunet_plugins.planning.source import find_trainer_class

    trainer: Any = find_trainer_class(run.trainer_name)
    try:
        with torch.device("meta"):  # sizes alone
            if run.plans_file.exists():
                network = trainer.build_network_architecture(*arguments_of_network(run))
            else:
                network = trainer.reference_network()
    except Exception:  # whatever another package's trainer does, and AttributeError of nnU-Net's without plans
        return None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return CHECKPOINTS_KEPT * BYTES_PER_PARAMETER * parameters


def arguments_of_network(run: Run) -> tuple[Any, ...]:
    """Arguments with which nnU-Net has a trainer build the network of its plans."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(dict(read_plans(run)))
    configuration, description = plans.get_configuration(run.configuration), dataset_json(run)
    channels = determine_num_input_channels(plans, configuration, description)
    return plans, configuration, channels, plans.get_label_manager(description).num_segmentation_heads


def bytes_of_predictions(run: Run) -> int:
    """Bytes of the predictions of a fold, without probabilities: as many as those of its true segmentations."""
    folder = nnunet_folder(RAW) / run.dataset
    folds = len(shared_json(run.splits_file, "correct or remove it")) if run.splits_file.exists() else 5
    tests = [references(run, part).values() for part in run.test_sets]
    return bytes_in(folder / "labelsTr") // folds + sum(path.stat().st_size for paths in tests for path in paths)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("[!.]*"))


def preprocessed_bytes(run: Run) -> int:
    """Bytes of a dataset's preprocessed data before compression: images in float32, segmentations in int16."""
    voxels = voxels_of_cases(run)
    return round(voxels * (4 * len(dataset_json(run)["channel_names"]) + 2))


def voxels_of_cases(run: Run) -> float:
    """Voxels of all training cases: as planned, or as they are where there is no fingerprint or plan yet."""
    fingerprint = run.preprocessed / FINGERPRINT
    if fingerprint.exists() and run.plans_file.exists():
        found = shared_json(fingerprint, "remove it and run the benchmark again")
        target = planned_configuration(run).get("spacing") or []
        cases = zip(found["shapes_after_crop"], found["spacings"], strict=True)
        return sum(resampled_voxels(shape, spacing, target) for shape, spacing in cases)
    images = sorted(images_folder(run, "").glob(f"*_0000{dataset_json(run)['file_ending']}"))
    sample = images[:: max(1, len(images) // SAMPLE)]
    return len(images) * sum(map(voxels_of_image, sample)) / len(sample) if sample else 0


def resampled_voxels(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> float:
    """Voxels of a case after resampling; a plan in 2D leaves the first axis as it is."""
    rescaled = list(target) if len(target) == len(spacing) else [spacing[0], *target][: len(spacing)]
    return math.prod(n * old / new for n, old, new in zip(shape, spacing, rescaled, strict=False))


def voxels_of_image(path: Path) -> int:
    """Voxels of an image, from its header."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a format of nnU-Net's that SimpleITK does not read
        return path.stat().st_size
    return math.prod(reader.GetSize())
