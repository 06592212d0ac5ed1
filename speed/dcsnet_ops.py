"""Cost of what DCSNet does besides convolutions: finding boxes, selecting what to train on, and pasting segments.

python speed/dcsnet_ops.py --patch 512 512 --batch 12 --channels 1

Boxes: ``objects_in`` for 1, 8 and 40 objects in every patch, which runs before each training step on the CPU, against
the step of nnU-Net's own trainer and of DCSNet's. Selection: ``select`` for as many, in the middle of the step on the
CPU, where a GPU waits for it. Pasting: ``paste_boxes`` for 1, 8 and 32 boxes in every patch against
DCSNet's prediction of a patch without any.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from skimage.draw import ellipse
from step_time import Setting, add_setting, contestants, read_setting, seconds, spread
from tqdm import tqdm

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.layers.boxes import paste_boxes
from nnunet_plugins.architectures.layers.selection import select
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.trainers.data.object_boxes import objects_in

BASE_SIZE = 64


def segmentations(number: int, patch: Sequence[int], batch: int) -> torch.Tensor:
    """Label maps ``(B, 1, H, W)``, each with the given number of ellipses of 2 to 8 pixels' radius."""
    rng = np.random.default_rng(0)
    maps = np.zeros((batch, 1, *patch), np.int16)
    for labels in maps[:, 0]:
        for _ in range(number):
            center, radii = rng.integers(0, patch), rng.integers(2, 9, 2)
            labels[ellipse(*center, *radii, shape=labels.shape)] = 1
    return torch.from_numpy(maps)


def random_boxes(number: int, patch: Sequence[int], batch: int) -> torch.Tensor:
    """Boxes ``(N, 5)`` of 4 to 16 pixels, the given number in each image."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(batch * number, 2, generator=generator) * (torch.tensor([patch[1], patch[0]]) - 16)
    sides = 4 + 12 * torch.rand(batch * number, 2, generator=generator)
    images = torch.arange(batch).repeat_interleave(number)[:, None]
    return torch.cat((images, corners, corners + sides), 1)


@torch.no_grad()
def detectors_candidates(network: DCSNet, setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates ``(B, P, 6)`` that an untrained detector makes in training, and the anchors."""
    images = torch.randn(setting.batch, setting.channels, *setting.patch, device=setting.device)
    features, detector = network.train().pyramid(images), network.detector
    scores, offsets, counts = detector.propose(features).flat()
    anchors = detector.anchors(features)
    return detector.candidates(scores, offsets, anchors.to(setting.device), counts), anchors


def compare(setting: Setting, steps: int) -> list[tuple[str, ...]]:
    """Table row for each number of objects: time, and its shares in percent, turn by turn."""
    batch, patch = setting.batch, setting.patch
    with contestants(["DCSNetTrainer"], setting) as made:
        stock, ours = made["nnUNetTrainer"], made["DCSNetTrainer"]
        runs = {
            f"boxes of {number} objects": partial(objects_in, segmentations(number, patch, batch), LabelFormat())
            for number in (1, 8, 40)
        }
        candidates, anchors = detectors_candidates(ours.trainer.bare_network, setting)
        for number in (1, 8, 40):
            true = random_boxes(number, patch, batch)
            runs[f"selection for {number} objects"] = partial(select, candidates, anchors, true, None, patch, 2000, 24)
        canvas = torch.full((batch, setting.classes, *patch), -5.0, device=setting.device)
        for number in (1, 8, 32):
            boxes = random_boxes(number, patch, batch).to(setting.device)
            maps = torch.randn(len(boxes), setting.classes, BASE_SIZE, BASE_SIZE, device=setting.device)
            runs[f"pasting of {number} boxes"] = partial(paste_boxes, maps, boxes, canvas)
        times: dict[str, list[list[float]]] = {name: [] for name in runs}
        for turn in tqdm(range(steps + 1), desc="turns", leave=False):
            whole = [seconds(contestant.train, setting) for contestant in (stock, ours)]
            with ours.inference_mode():
                whole.append(seconds(ours.predict, setting))
                for name, run in runs.items():
                    own = seconds(run, setting)
                    if turn:  # the first warms up
                        times[name].append([own, *whole])
    rows = []
    for name, turns in times.items():
        own, *whole = np.array(turns).T
        shares = [spread(100 * own / other, " %") for other in whole]
        shares = ["-", "-", shares[2]] if name.startswith("pasting") else [*shares[:2], "-"]
        rows.append((name, spread(1e3 * own), *shares))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="turns")
    add_setting(parser)
    arguments = parser.parse_args(argv)
    setting = read_setting(parser, arguments)
    if len(setting.patch) != 2:
        parser.error("--patch: give two numbers, DCSNet is 2D")
    print(f"{setting}, {arguments.steps} turns, torch {torch.__version__}\n")
    print("| of a batch | ms | of nnUNetTrainer's step | of DCSNetTrainer's step | of DCSNet's prediction |")
    print("|---|---|---|---|---|")
    for row in compare(setting, arguments.steps):
        print("| " + " | ".join(row) + " |", flush=True)
    print("\nMedian (quartiles) over the turns; shares turn by turn.")


if __name__ == "__main__":
    main()
