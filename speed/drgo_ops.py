"""Cost of DRGO: its losses, its sampling of patches, and the distance to the boundary.

python speed/drgo_ops.py --patch 256 256 --image 512 512
python speed/drgo_ops.py --patch 64 64 64 --image 96 96 96 --batch 2 --channels 1
python speed/drgo_ops.py --patch 128 128 128 --image 160 160 160 --batch 2 --channels 1 --only loader

Losses: nnU-Net's Dice and cross-entropy (``L_seg``) against DRGO's loss without and with boundary refinement, forward
and backward on given logits, and in a training step of DRGOTrainer, deep supervision and all.

Loader: nnU-Net's, which oversamples the foreground, against DRGO's, as the trainers make them, augmentation and all, on
cases of ``--image`` pixels that nnU-Net's dataset class has written. In every turn both load the same cases and augment
the n-th patch alike. They load in this process, and always in CPU time.

Distances: ``squared_distances`` of a batch on the device against scipy's distance transform in a worker of the loader,
patch by patch. First both must agree.
"""

import argparse
import contextlib
import itertools
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from dcffsnet_ops import forward_and_gradient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from step_time import Setting, add_setting, contestants, random_batch, read_setting, seconds, spread
from torch import Tensor, nn
from tqdm import trange

from nnunet_plugins.benchmark.cost import Contestant
from nnunet_plugins.losses import DRGOLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.losses.drgo_boundary import REACH, squared_distances

Row = tuple[str, ...]
PARTS = ("losses", "loader", "distances")
NUM_CASES = 10  # nnU-Net trains with eight of them


def losses(segmentation: nn.Module) -> dict[str, nn.Module]:
    """Losses to compare, by name."""
    without, whole = (DRGOLoss(segmentation, LabelFormat(), beta=beta) for beta in (0, 0.1))
    return {"L_seg": segmentation, "DRGO, beta = 0": without, "DRGO": whole}


def on_logits(loss: nn.Module, logits: Tensor, target: Tensor) -> Callable[[], object]:
    """Forward and backward at full resolution."""
    return partial(forward_and_gradient, lambda x: loss(x, target), logits)


def compare_losses(made: dict[str, Contestant], setting: Setting, steps: int) -> list[Row]:
    """Table row for each loss: times with their ratios to those of ``L_seg``, and the share of a training step."""
    contestant, supervised = made["DRGOTrainer"], made["nnUNetTrainer"].trainer.loss
    trainer, target = contestant.trainer, contestant.batch["target"][0]
    shape = (setting.batch, setting.classes, *contestant.patch)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    alone = [on_logits(loss, logits, target) for loss in losses(supervised.loss).values()]
    in_trainer = losses(supervised)
    turns = np.empty((steps + 1, len(in_trainer), 3))
    no_loader = mock.patch.object(trainer, "region_sampling", False)  # which would tell the regions of the batch
    with no_loader, mock.patch.object(trainer, "loss", trainer.loss):
        for turn in trange(len(turns), desc="losses", leave=False):
            for index, (run, trainer.loss) in enumerate(zip(alone, in_trainer.values(), strict=True)):
                runs = (run, contestant.train, contestant.loss_alone())
                turns[turn, index] = [seconds(run, setting) for run in runs]
    rows = []
    for name, times in zip(in_trainer, turns[1:].swapaxes(0, 1), strict=True):  # the first turn warms up
        columns = zip(1e3 * times.T[:2], (times / turns[1:, 0]).T[:2], strict=True)
        share = spread(100 * times[:, 2] / times[:, 1], " %")
        rows.append((name, *(spread(column) for pair in columns for column in pair), share))
    return rows


def in_3d(size: Sequence[int]) -> tuple[int, ...]:
    """An array in the layout in which nnU-Net keeps images."""
    return (1, *size)[-3:]


def write_cases(folder: Path, image: Sequence[int], setting: Setting) -> None:
    """Preprocessed cases of blobs in noise, in the blocks and chunks that nnU-Net's preprocessing chooses."""
    for placeholder in folder.iterdir():
        placeholder.unlink()
    images, masks = (x.numpy() for x in random_batch(image, setting._replace(batch=NUM_CASES)))
    for number, arrays in enumerate(zip(images, masks, strict=True)):
        x, y = (array.reshape(-1, *in_3d(image)) for array in arrays)
        locations = DefaultPreprocessor._sample_foreground_locations(y, list(range(1, setting.classes)))
        layouts = [comp_blosc2_params(array.shape, setting.patch, array.itemsize)[::-1] for array in (x, y)]
        path = folder / f"case{number}"
        nnUNetDatasetBlosc2.save_case(x, y, {"class_locations": locations}, str(path), *layouts[0], *layouts[1])


def seed(number: int) -> None:
    """Seed what loaders draw from; ``torch.manual_seed`` takes half a millisecond, for it thinks of GPUs too."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (nnU-Net's loaders use the global generator)
    torch.default_generator.manual_seed(number)


def training_loader(contestant: Contestant) -> nnUNetDataLoader:
    """The trainer's own loader, without workers; it augments its n-th patch as all other loaders do."""
    with mock.patch.dict(os.environ, nnUNet_n_proc_DA="0"), contextlib.redirect_stdout(None):
        loader = contestant.trainer.get_dataloaders()[0].data_loader
    augment, seeds = loader.transforms, itertools.count()

    def seeded(**sample: Tensor) -> dict[str, Any]:
        seed(next(seeds))
        return augment(**sample)

    loader.transforms = seeded
    return loader


def compare_loaders(made: dict[str, Contestant], image: Sequence[int], setting: Setting, batches: int) -> list[Row]:
    """Table row for each loader: patches per second of CPU time, and the ratio to nnU-Net's."""
    write_cases(Path(made["nnUNetTrainer"].trainer.preprocessed_dataset_folder), image, setting)
    loaders = [training_loader(contestant) for contestant in made.values()]
    clock = setting._replace(device="cpu", cpu_time=True)
    turns = np.empty((batches + 1, len(loaders)))
    for turn in trange(len(turns), desc="loaders", leave=False):
        for index, loader in enumerate(loaders):
            seed(turn)
            turns[turn, index] = setting.batch / seconds(partial(next, loader), clock)
    names = [type(loader).__name__ for loader in loaders]
    ratios = turns / turns[:, :1]
    return [(name, *(spread(x[1:, i].tolist()) for x in (turns, ratios))) for i, name in enumerate(names)]


def distances_in_worker(points: Tensor) -> np.ndarray:
    """Distances by scipy, patch by patch, as a worker of the loader would compute them."""
    return np.stack([distance_transform_edt(sample) for sample in ~points[:, 0].numpy()])[:, None]


def require_agreement(points: Tensor) -> None:
    """Raise unless both ways give the same distances, as far as they count."""
    squared = torch.from_numpy(distances_in_worker(points)).square().round().clamp_max(REACH**2 + 1)
    if not torch.equal(squared_distances(points).double(), squared):
        raise AssertionError("squared_distances and scipy's distance transform differ")


def compare_distances(setting: Setting, steps: int) -> list[Row]:
    """Times for the boundaries of random masks, and the ratio of a worker's to the device's."""
    masks = random_batch(setting.patch, setting)[1].numpy()
    points = torch.from_numpy(np.stack([find_boundaries(mask[0], mode="thick") for mask in masks]))[:, None]
    require_agreement(points)
    print(f"Both ways agree on distances up to {REACH} pixels.\n")
    on_device = partial(squared_distances, points.to(setting.device))
    runs = (on_device, partial(distances_in_worker, points))
    turns = [[seconds(run, setting) for run in runs] for _ in trange(steps + 1, desc="distances", leave=False)][1:]
    return [(*(spread([1e3 * t for t in own]) for own in zip(*turns, strict=True)), spread([b / a for a, b in turns]))]


def print_table(header: str, rows: list[Row]) -> None:
    lines = [header.split(" | "), ["---"] * len(rows[0]), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines), end="\n\n", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="turns of each loss, and of the distances")
    parser.add_argument("--batches", type=int, default=50, help="turns of each loader")
    parser.add_argument("--image", type=int, nargs="+", help="size of the loaders' cases; default: 1.5 times the patch")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    add_setting(parser)
    parser.set_defaults(batch=8, classes=3)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    image = arguments.image or [3 * length // 2 for length in setting.patch]
    if len(image) != len(setting.patch):
        parser.error(f"--image has {len(image)} numbers: give {len(setting.patch)}, as to --patch")
    if setting.compile:
        parser.error("--compile: the losses are compared as they stand; step_time.py compiles")

    turns = f"{arguments.steps} turns, {arguments.batches} batches"
    print(f"{setting}, cases of {'x'.join(map(str, image))}, {turns}, torch {torch.__version__}\n")
    with contestants(["DRGOTrainer"], setting) as made:
        if "losses" in arguments.only:
            header = "loss | forward and backward, ms | ratio | training step, ms | ratio | loss / step"
            print_table(header, compare_losses(made, setting, arguments.steps))
        if "loader" in arguments.only:
            header = "loader | patches per CPU-second | ratio"
            print_table(header, compare_loaders(made, image, setting, arguments.batches))
    if "distances" in arguments.only:
        header = f"distances on {setting.device}, ms | in a worker, ms | ratio"
        print_table(header, compare_distances(setting, arguments.steps))
    print("Median (quartiles) over the turns; ratios turn by turn, to the first row or column.")


if __name__ == "__main__":
    main()
