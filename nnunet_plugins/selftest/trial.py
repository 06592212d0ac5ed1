"""One trainer's part of the self-test: a short training and a prediction, measured, in a process of its own.

The steps are nnU-Net's own. After each part the record of what is known so far is written, so that a process that is
killed leaves its last part and its measurements.
"""

import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.io import imread
from torch import nn
from torch.utils._pytree import tree_leaves

from nnunet_plugins.doctor.findings import summary
from nnunet_plugins.files import usable_cores, write_json
from nnunet_plugins.nnunet_folders import RAW, nnunet_folder
from nnunet_plugins.selftest.data import CONFIGURATION, DATASET

CHECKPOINT = "checkpoint_final.pth"
TrainStep = Callable[[dict[str, Any]], dict[str, Any]]


class Step(NamedTuple):
    """Measurements of one training step."""

    epoch: int
    milliseconds: float | None
    """``None`` if something else was measured, which takes time."""
    loss: float | None
    """``None`` if it is not finite."""
    gradients_finite: bool
    peak: int | None
    """Most bytes at once: of all that torch allocates on a GPU, of the tensors on a CPU; ``None`` if not counted."""


def main() -> None:
    """Run the trial of ``sys.argv``: name of the trainer with its length, device, file for the record."""
    name, device, file = sys.argv[1:]
    sys.exit(run_trial(name, torch.device(device), Path(file)))


def run_trial(name: str, device: torch.device, file: Path) -> int:
    """Train, then predict; every part is noted in the record before it begins, and an error ends the trial.

    Args:
        name: of the trainer, with the training's length.
        device: as nnU-Net's commands take it.
        file: where the record is written.

    Returns:
        The exit code: 1 after an error.
    """
    record: dict[str, Any] = {}

    def note(**values: Any) -> None:
        record.update(values)
        write_json(file, record)

    try:
        note(part="start", gpu=torch.cuda.get_device_name() if device.type == "cuda" else None)
        set_up_torch(device)
        trainer = make_trainer(name, device)
        steps: list[Step] = []
        observe_steps(trainer, steps)
        note(part="training")
        try:
            trainer.run_training()
        finally:
            note(steps=[step._asdict() for step in steps], **(facts(trainer) if trainer.network is not None else {}))
        note(part="prediction")
        predict(trainer, file.with_suffix(""))
        note(part="estimate")
        note(estimate_bytes=estimate(trainer), part="end")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        note(error=summary(error))
        return 1
    return 0


def set_up_torch(device: torch.device) -> None:
    """Set threads and cuDNN as nnU-Net's commands do, but no more threads than this process has cores."""
    if device.type == "cuda":
        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(usable_cores())


def make_trainer(name: str, device: torch.device) -> Any:
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(DATASET, CONFIGURATION, 0, name, device=device)


def observe_steps(trainer: Any, steps: list[Step]) -> None:
    """Measure every training step that nnU-Net's loop asks of the trainer, and append it to ``steps``.

    A GPU's memory is that of every step. On a CPU, where counting takes time, it is that of the last one alone.
    """
    train_step, cuda = trainer.train_step, trainer.device.type == "cuda"
    last = trainer.num_epochs * trainer.num_iterations_per_epoch - 1

    def observed(batch: dict[str, Any]) -> dict[str, Any]:
        peak = milliseconds = None
        if cuda:
            milliseconds, peak, result = on_gpu(train_step, batch)
        elif len(steps) == last:
            peak, result = with_counted_tensors(trainer, train_step, batch)
        else:
            milliseconds, result = timed(train_step, batch)
        loss = float(result["loss"])
        loss_or_none = loss if math.isfinite(loss) else None
        finite = gradients_are_finite(trainer.network)
        steps.append(Step(trainer.current_epoch, milliseconds, loss_or_none, finite, peak))
        return result

    trainer.train_step = observed


def on_gpu(train_step: TrainStep, batch: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
    """Milliseconds until the GPU has finished, peak of its memory, and the step's result."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()

    def finished(batch: dict[str, Any]) -> dict[str, Any]:
        result = train_step(batch)
        torch.cuda.synchronize()
        return result

    milliseconds, result = timed(finished, batch)
    return milliseconds, torch.cuda.max_memory_allocated(), result


def timed(train_step: TrainStep, batch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    start = time.perf_counter()
    result = train_step(batch)
    return 1e3 * (time.perf_counter() - start), result


def with_counted_tensors(trainer: Any, train_step: TrainStep, batch: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Most bytes of tensors that exist at once in a step, and its result."""
    from nnunet_plugins.trainers.memory.tracker import MemoryTracker

    states = [v for state in trainer.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    with MemoryTracker() as memory:
        for tensor in [*trainer.network.parameters(), *trainer.network.buffers(), *states, *tensors_of(batch)]:
            memory.count(tensor)
        memory.reset_peak()
        result = train_step(batch)
    return memory.peak, result


def tensors_of(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]


def facts(trainer: Any) -> dict[str, Any]:
    """Facts about a trainer after its training, whether that was finished or not."""
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "compiled": bool(trainer._do_i_compile()),
        "gradient_scaler": trainer.grad_scaler is not None,
        "weights_finite": weights_are_finite(trainer.network),
    }


def estimate(trainer: Any) -> int:
    """Bytes that such a training step is estimated to need, in the precision of the trainer's device."""
    from nnunet_plugins.architectures.layers.recomputation import is_recomputing
    from nnunet_plugins.trainers.memory.estimate import estimate_training

    return estimate_training(
        type(trainer),
        trainer.plans_manager.plans,
        CONFIGURATION,
        trainer.dataset_json,
        recompute=is_recomputing(trainer.network),
        half_precision=trainer.device.type == "cuda",
    ).peak


def gradients_are_finite(network: nn.Module) -> bool:
    """Whether the gradients that the last step has left are finite."""
    from nnunet_plugins.trainers.checkpoints import all_finite

    return all_finite([p.grad for p in network.parameters() if p.grad is not None])


def weights_are_finite(network: nn.Module) -> bool:
    """Whether parameters and buffers, such as running statistics, are finite."""
    from nnunet_plugins.trainers.checkpoints import all_finite

    return all_finite([*network.parameters(), *network.buffers()])


def predict(trainer: Any, output: Path) -> None:
    """Predict the test images from the checkpoint, as ``nnUNetv2_predict`` does, and look at what it wrote.

    Raises:
        ValueError: a prediction is missing, or is no segmentation of its image.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    images = nnunet_folder(RAW) / DATASET / "imagesTs"
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (trainer.fold,), CHECKPOINT)
    output.mkdir()
    predictor.predict_from_files_sequential(str(images), str(output))
    for image in sorted(images.glob("*.png")):
        check_prediction(image, output / image.name.replace("_0000", ""), trainer.label_manager.all_labels)


def check_prediction(image: Path, prediction: Path, labels: list[int]) -> None:
    if not prediction.exists():
        raise ValueError(f"there is no prediction of {image.name}")
    size, predicted = imread(image).shape[:2], imread(prediction)
    if predicted.shape != size:
        raise ValueError(f"the prediction of {image.name} has the size {predicted.shape}, the image {size}")
    if unknown := sorted(set(np.unique(predicted).tolist()) - set(labels)):
        raise ValueError(f"the prediction of {image.name} has the labels {unknown}, which the dataset does not have")
