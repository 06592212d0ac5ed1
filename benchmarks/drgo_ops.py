"""What DRGO costs: its losses, its sampling of patches, and the distance to the boundary.

python benchmarks/drgo_ops.py --patch 256 256 --image 512 512
python benchmarks/drgo_ops.py --patch 64 64 64 --image 96 96 96 --batch 2 --channels 1
python benchmarks/drgo_ops.py --patch 128 128 128 --image 160 160 160 --batch 2 --channels 1 --only loader

Three comparisons, each in turns, of what true trainers have, initialised by nnU-Net from its own plan:

losses: Dice and cross-entropy alone (``L_seg``) against DRGO's loss without and with boundary refinement: forward and
    backward on given logits of full resolution, and a training step of DRGOTrainer with each of them, deep supervision
    and all.
loader: nnU-Net's loader, which oversamples the foreground, against RegionDataLoader, both with nnU-Net's default
    augmentation, on cases of ``--image`` pixels that nnU-Net's dataset class has written. Always in CPU time, loading in
    this process. In every turn both draw the same cases, and the same augmentation for every patch.
distances: the distance to the boundary by ``squared_distances`` on the device, for a batch, against scipy's distance
    transform, as workers of the loader would compute it, patch by patch. First both must agree.
"""

import argparse
import contextlib
import itertools
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from dcffsnet_ops import forward_and_gradient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from step_time import Contestant, Setting, add_setting, contestants, random_batch, read_setting, seconds, spread
from torch import Tensor, nn
from tqdm import trange

from nnunet_plugins.losses import DRGOLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.losses.drgo import REACH, squared_distances

PARTS = ("losses", "loader", "distances")
NUM_CASES = 10  # eight of them to train with


# ---- losses ----------------------------------------------------------------------------------------------------------


class LossTimes(NamedTuple):
    """Seconds of one turn."""

    on_logits: float
    step: float
    in_step: float
    """Forward and backward of the loss, down to the network's outputs."""


def drgo_and_its_parts(segmentation: nn.Module) -> list[nn.Module]:
    """``L_seg`` alone, DRGO's loss without boundary refinement, and all of it."""
    return [segmentation, *(DRGOLoss(segmentation, LabelFormat(), beta=beta) for beta in (0, 0.1))]


def compare_losses(made: dict[str, Contestant], setting: Setting, steps: int) -> list[tuple[str, ...]]:
    """A row for each loss: times and their ratios to those of ``L_seg``, and the loss's share of the training step."""
    supervised = made["nnUNetTrainer"].trainer.loss  # deeply
    contestant = made["DRGOTrainer"]
    trainer = contestant.trainer
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch, setting.classes, *contestant.patch)
    logits = torch.randn(shape, generator=generator).to(setting.device)
    target = contestant.batch["target"][0]
    plain, deep = drgo_and_its_parts(supervised.loss), drgo_and_its_parts(supervised)
    turns: list[list[LossTimes]] = [[] for _ in plain]
    with mock.patch.object(
        trainer, "region_sampling", False
    ):  # the batch comes from no loader, which tells its regions
        for turn in trange(steps + 1, desc="losses", leave=False):
            for on_logits, trainer.loss, kept in zip(plain, deep, turns, strict=True):
                times = LossTimes(
                    seconds(partial(forward_and_gradient, lambda x, loss=on_logits: loss(x, target), logits), setting),
                    seconds(contestant.train, setting),
                    seconds(contestant.loss_alone(), setting),
                )
                if turn:  # the first one warms up
                    kept.append(times)
    rows = []
    for name, own in zip(("L_seg", "DRGO, beta = 0", "DRGO"), turns, strict=True):
        row = [name]
        for field in ("on_logits", "step"):
            of_turns = [(getattr(a, field), getattr(b, field)) for a, b in zip(own, turns[0], strict=True)]
            row += [spread([1e3 * a for a, _ in of_turns]), spread([a / b for a, b in of_turns])]
        rows.append((*row, spread([100 * t.in_step / t.step for t in own], " %")))
    return rows


# ---- loader ----------------------------------------------------------------------------------------------------------


def write_cases(folder: Path, image: Sequence[int], setting: Setting) -> None:
    """Preprocessed cases of blobs in noise, in blocks and chunks as nnU-Net's preprocessing chooses them."""
    for placeholder in folder.iterdir():
        placeholder.unlink()
    blocks, chunks = comp_blosc2_params((setting.channels, *in_3d(image)), setting.patch)
    blocks_seg, chunks_seg = comp_blosc2_params((1, *in_3d(image)), setting.patch)
    of_cases = setting._replace(batch=NUM_CASES)
    for case, (x, y) in enumerate(zip(*(a.numpy() for a in random_batch(image, of_cases)), strict=True)):
        data, segmentation = (array.reshape(-1, *in_3d(image)) for array in (x, y))
        locations = DefaultPreprocessor._sample_foreground_locations(segmentation, list(range(1, setting.classes)))
        nnUNetDatasetBlosc2.save_case(
            data,
            segmentation,
            {"class_locations": locations},
            str(folder / f"case{case}"),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_seg,
            blocks_seg=blocks_seg,
        )


def in_3d(size: Sequence[int]) -> tuple[int, ...]:
    """As nnU-Net keeps images."""
    return (1,) * (3 - len(size)) + tuple(size)


def seed(number: int) -> None:
    """Every generator that loaders draw from; ``torch.manual_seed`` would take half a millisecond to seed GPUs too."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (nnU-Net's loaders use the global generator)
    torch.default_generator.manual_seed(number)


def make_loader(contestant: Contestant) -> nnUNetDataLoader:
    """The trainer's own for its training, without workers; the n-th patch of any loader gets the same augmentation."""
    with mock.patch.dict(os.environ, nnUNet_n_proc_DA="0"), contextlib.redirect_stdout(None):
        loader = contestant.trainer.get_dataloaders()[0].data_loader
    augmentation, seeds = loader.transforms, itertools.count()

    def seeded(**sample: Tensor) -> dict[str, Any]:
        seed(next(seeds))
        return augmentation(**sample)

    loader.transforms = seeded
    return loader


def compare_loaders(
    made: dict[str, Contestant], image: Sequence[int], setting: Setting, steps: int
) -> list[tuple[str, ...]]:
    """A row for each loader: patches per second of CPU time, and the ratio to nnU-Net's."""
    write_cases(Path(made["nnUNetTrainer"].trainer.preprocessed_dataset_folder), image, setting)
    loaders = [make_loader(contestant) for contestant in made.values()]
    clock = setting._replace(device="cpu", cpu_time=True)
    turns: list[list[float]] = [[] for _ in loaders]
    for turn in trange(steps + 1, desc="loaders", leave=False):
        for loader, kept in zip(loaders, turns, strict=True):
            seed(turn)
            elapsed = seconds(partial(next, loader), clock)
            if turn:
                kept.append(setting.batch / elapsed)
    return [
        (type(loader).__name__, spread(own), spread([a / b for a, b in zip(own, turns[0], strict=True)]))
        for loader, own in zip(loaders, turns, strict=True)
    ]


# ---- distances -------------------------------------------------------------------------------------------------------


def boundary_points(patch: Sequence[int], setting: Setting) -> Tensor:
    """Pixels with a neighbour of another label, ``(B, 1, *S)``."""
    masks = random_batch(patch, setting)[1].numpy()
    return torch.from_numpy(np.stack([find_boundaries(mask[0], mode="thick") for mask in masks]))[:, None]


def distances_in_worker(points: Tensor) -> list[np.ndarray]:
    """Patch by patch."""
    return [distance_transform_edt(sample) for sample in ~points[:, 0].numpy()]


def require_agreement(points: Tensor) -> None:
    """Raise unless both ways give the same distances as far as they count."""
    scipys = torch.from_numpy(np.stack(distances_in_worker(points))[:, None]).square().round()
    if not torch.equal(squared_distances(points).double(), scipys.clamp_max(REACH**2 + 1)):
        raise AssertionError("distances: squared_distances and scipy's distance transform differ")


def compare_distances(points: Tensor, setting: Setting, steps: int) -> tuple[str, ...]:
    """Times of a batch on the device and in a worker, and how often the former fits into the latter."""
    on_device = points.to(setting.device)
    ways: list[tuple[Callable[[], object], Setting]] = [
        (partial(squared_distances, on_device), setting),
        (partial(distances_in_worker, points), setting._replace(device="cpu")),
    ]
    turns = [[seconds(*way) for way in ways] for _ in trange(steps + 1, desc="distances", leave=False)][1:]
    return (*(spread([1e3 * t for t in own]) for own in zip(*turns, strict=True)), spread([b / a for a, b in turns]))


def print_table(header: str, rows: Sequence[Sequence[str]]) -> None:
    lines = [header.split(" | "), ["---"] * len(rows[0]), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines), end="\n\n", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="turns of each loss and way to compute distances")
    parser.add_argument("--batches", type=int, default=50, help="turns of each loader")
    parser.add_argument("--image", type=int, nargs="+", help="size of the cases; default: 1.5 times the patch")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="default: all three")
    add_setting(parser)
    parser.set_defaults(batch=8, classes=3)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    image = arguments.image or [3 * length // 2 for length in setting.patch]
    if len(image) != len(setting.patch):
        parser.error(f"--image has {len(image)} numbers: give as many as to --patch")
    if setting.compile:
        parser.error("--compile: the losses are compared as they stand; step_time.py compiles")

    print(
        f"{setting}, images {image}, {arguments.steps} turns, {arguments.batches} batches, torch {torch.__version__}\n"
    )
    with contestants(["DRGOTrainer"], setting) as made:
        if "losses" in arguments.only:
            header = "loss | on logits, ms | ratio | training step, ms | ratio | loss / step"
            print_table(header, compare_losses(made, setting, arguments.steps))
        if "loader" in arguments.only:
            header = "loader | patches per CPU-second | ratio"
            print_table(header, compare_loaders(made, image, setting, arguments.batches))
    if "distances" in arguments.only:
        points = boundary_points(setting.patch, setting)
        require_agreement(points)
        print(f"Both ways agree on distances up to {REACH} pixels.\n")
        header = f"distances on {setting.device}, ms | in a worker, ms | ratio"
        print_table(header, [compare_distances(points, setting, arguments.steps)])
    print("Median (quartiles) over the turns; ratios turn by turn, to the first row.")


if __name__ == "__main__":
    main()
