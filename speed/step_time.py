"""Training-step time, inference time and peak memory of trainers against stock nnUNetTrainer, for the same plan.

python speed/step_time.py DCFFSNetTrainer --patch 256 256 --batch 2

Everything is nnU-Net's own: its planner makes the plan, true trainers are initialised from it and their ``train_step``
runs; only images and blob-like masks are random. The trainers take turns in one run (A B A B ...), so that whatever
else the machine does meets all of them, and ratios are taken turn by turn.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from tqdm import trange

from nnunet_plugins.benchmark import cost
from nnunet_plugins.benchmark.cost import Contestant, quartiles
from nnunet_plugins.trainers import find_trainer

DATASET = "Dataset999_StepTime"


class Setting(NamedTuple):
    """One plan on one device, with which all trainers are measured."""

    patch: tuple[int, ...] = (256, 256)
    batch: int = 2
    channels: int = 3
    classes: int = 2
    device: str = "cpu"
    compile: bool = False
    threads: int = torch.get_num_threads()
    cpu_time: bool = False


class Timing(NamedTuple):
    """Measured values of a trainer, one for each turn."""

    train: list[float]
    inference: list[float]
    loss: list[float]
    memory: int
    """Bytes that one training step needs."""
    flops: int
    """FLOPs of the forward pass of a training step."""


def contestant(trainer_class: type[nnUNetTrainer], plans: dict, dataset_json: dict, setting: Setting) -> Contestant:
    configuration = "2d" if len(setting.patch) == 2 else "3d_fullres"
    own_plans = json.loads(json.dumps(plans)) | {"continue_training": False}  # the constructor changes its argument
    trainer = trainer_class(own_plans, configuration, 0, dataset_json, torch.device(setting.device))
    patch = trainer.configuration_manager.patch_size
    return Contestant(trainer, *random_batch(patch, setting))


def random_batch(patch: Sequence[int], setting: Setting) -> tuple[Tensor, Tensor]:
    return cost.random_batch(patch, setting.batch, setting.channels, setting.classes)


def seconds(run: Callable[[], object], setting: Setting) -> float:
    """Wall-clock time, or this process's CPU time."""
    clock = time.process_time if setting.cpu_time else time.perf_counter
    return cost.seconds(run, torch.device(setting.device), clock)


def plan(setting: Setting) -> tuple[dict, dict]:
    """Plans by nnU-Net for a dataset whose images are as large as the patch, without a limit of memory.

    nnU-Net enlarges a patch that its U-Net cannot halve often enough.
    """
    two_dimensional = len(setting.patch) == 2
    shape = [1, *setting.patch] if two_dimensional else list(setting.patch)
    dataset_json = {
        "channel_names": {str(c): "image" for c in range(setting.channels)},
        "labels": {"background": 0} | {f"class{k}": k for k in range(1, setting.classes)},
        "numTraining": 500,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    fingerprint = {
        "spacings": [[999.0 if two_dimensional else 1.0, 1.0, 1.0]],
        "shapes_after_crop": [shape],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    raw, preprocessed = (Path(os.environ[name], DATASET) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    for folder, name, content in (
        (raw, "dataset.json", dataset_json),
        (preprocessed, "dataset_fingerprint.json", fingerprint),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
    plans = ExperimentPlanner(DATASET, gpu_memory_target_in_gb=1e6).plan_experiment()
    for configuration in plans["configurations"].values():
        configuration["batch_size"] = setting.batch
        data = preprocessed / configuration["data_identifier"]
        data.mkdir()
        (data / "case.b2nd").touch()  # all that a trainer asks of its data before the first batch
    return plans, dataset_json


@contextlib.contextmanager
def contestants(names: Sequence[str], setting: Setting) -> Iterator[dict[str, Contestant]]:
    """Initialise nnUNetTrainer and the named trainers in a temporary nnU-Net home, in silence."""
    classes = {"nnUNetTrainer": nnUNetTrainer} | {name: find_trainer(name) for name in names}
    with tempfile.TemporaryDirectory() as home:
        variables = {name: str(Path(home, name)) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        variables |= {"nnUNet_compile": "t" if setting.compile else "f", "nnUNet_wandb_enabled": "0"}
        with mock.patch.dict(os.environ, variables), contextlib.redirect_stdout(io.StringIO()):
            plans, dataset_json = plan(setting)
            torch.set_num_threads(setting.threads)  # the planner changes it
            made = {name: contestant(cls, plans, dataset_json, setting) for name, cls in classes.items()}
        with mock.patch.dict(os.environ, variables):
            yield made


def measure(names: Sequence[str], setting: Setting, steps: int, warmup: int = 2) -> dict[str, Timing]:
    """Time nnUNetTrainer and the named trainers, taking turns."""
    with contestants(names, setting) as made:
        timings = {}
        for name, contestant in made.items():
            for _ in range(warmup):
                contestant.train()
            timings[name] = Timing([], [], [], contestant.training_memory(), contestant.training_flops())
            with contestant.inference_mode():
                contestant.predict()
        losses = {name: contestant.loss_alone() for name, contestant in made.items()}
        for _ in trange(steps, desc=" against ".join(made), leave=False):
            for name, contestant in made.items():
                timings[name].train.append(seconds(contestant.train, setting))
            for name, loss in losses.items():
                timings[name].loss.append(seconds(loss, setting))
            for name, contestant in made.items():
                with contestant.inference_mode():
                    timings[name].inference.append(seconds(contestant.predict, setting))
    return timings


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and quartiles, as text."""
    low, middle, high = quartiles(values)
    return f"{number(middle)}{unit} ({number(low)}-{number(high)})"


def number(value: float) -> str:
    """A number with three significant digits and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(timings: dict[str, Timing]) -> str:
    """Table row for each trainer, with ratios to the first."""
    header = ("trainer", "training step, ms", "ratio", "per multiplication", "inference, ms", "ratio")
    header += ("peak MB", "ratio", "loss / step")
    rows = [header, tuple("---" for _ in header)]
    stock = next(iter(timings.values()))
    for name, timing in timings.items():
        row = [name]
        training, inference = (
            [a / b for a, b in zip(own, other, strict=True)]
            for own, other in ((timing.train, stock.train), (timing.inference, stock.inference))
        )
        row += [spread([1e3 * t for t in timing.train]), spread(training)]
        row += [spread([ratio * stock.flops / timing.flops for ratio in training])]
        row += [spread([1e3 * t for t in timing.inference]), spread(inference)]
        row += [f"{timing.memory / 2**20:.0f}", f"{timing.memory / stock.memory:.2f}"]
        row += [spread(loss_shares(timing), " %")]
        rows.append(tuple(row))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def loss_shares(timing: Timing) -> list[float]:
    """Percentage of the training step that forward and backward of the loss alone take, turn by turn."""
    return [100 * loss / step for loss, step in zip(timing.loss, timing.train, strict=True)]


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that make a :class:`Setting`."""
    default = Setting()
    parser.add_argument("--patch", type=int, nargs="+", default=default.patch, help="two or three numbers")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--channels", type=int, default=default.channels)
    parser.add_argument("--classes", type=int, default=default.classes, help="with the background")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default.device)
    parser.add_argument("--compile", action="store_true", help="torch.compile, which nnU-Net uses on GPUs only")
    parser.add_argument("--threads", type=int, default=default.threads, help="of the CPU; 1 on a machine that is busy")
    parser.add_argument("--cpu-time", action="store_true", help="instead of wall-clock time, for the same reason")


def read_setting(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Setting:
    if arguments.compile and arguments.device == "cpu":
        parser.error("--compile needs --device cuda: nnU-Net does not compile on the CPU")
    if arguments.cpu_time and arguments.device == "cuda":
        parser.error("--cpu-time does not see the GPU: leave it out with --device cuda")
    if len(arguments.patch) not in (2, 3):
        parser.error(f"--patch has {len(arguments.patch)} numbers: give two or three")
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train sets it
    values = {name: getattr(arguments, name) for name in Setting._fields}
    return Setting(**values | {"patch": tuple(arguments.patch)})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainers", nargs="+", metavar="TRAINER", help="a name as for nnUNetv2_train -tr")
    parser.add_argument("--steps", type=int, default=10, help="turns of each trainer")
    add_setting(parser)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    timings = measure(arguments.trainers, setting, arguments.steps)
    print(f"{setting}, {arguments.steps} turns, torch {torch.__version__}\n")
    print(table(timings))
    print(f"\nMedian (quartiles) over the turns; ratios to {next(iter(timings))}, turn by turn.")
    print("Per multiplication: the step's ratio, divided by that of the multiplications of its forward pass.")
    if setting.device == "cpu":
        print("Peak MB: what autograd saves for the backward pass, parameters, gradients and the optimiser's state.")


if __name__ == "__main__":
    main()
