"""Memory of a training step of every main trainer on nnU-Net's default plans, with and without recomputation.

python speed/memory.py

Everything is estimated, as ``nnunet-plugins memory`` does it, without a GPU: the peak of a true training step in half
precision, on tensors without data. The smallest usual GPU on which a step fits has the estimate's margin free.
"""

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from step_time import Setting, plan
from tqdm import tqdm

from nnunet_plugins.planning.fitting import MAIN_TRAINERS
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.memory.cache import cached_estimate
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

DEFAULT_PLANS = (
    Setting(patch=(512, 512), batch=12, channels=1, classes=2),
    Setting(patch=(256, 256), batch=49, channels=1, classes=2),
    Setting(patch=(128, 128, 128), batch=2, channels=1, classes=2),
)
GPUS = (8, 12, 16, 24, 40, 80)
"""Memory of usual GPUs, in GiB."""


def rows_of(setting: Setting) -> list[tuple[str, ...]]:
    """Table rows of one plan, nnU-Net's own trainer first."""
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()):
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        with mock.patch.dict(os.environ, {name: str(Path(home, name)) for name in names}):
            plans, dataset_json = plan(setting)
    configuration = "2d" if len(setting.patch) == 2 else "3d_fullres"
    rows, own = [], 0
    for name in tqdm(MAIN_TRAINERS, desc=size(setting), leave=False):
        trainer = nnUNetTrainer if name == "nnUNetTrainer" else find_trainer(name)
        if len(setting.patch) not in getattr(trainer, "supported_dimensions", (2, 3)):
            continue
        keeping, recomputing = (
            cached_estimate(trainer, plans, configuration, dataset_json, recompute=recompute)
            for recompute in (False, True)
        )
        own = own or keeping.peak
        cells = [size(setting), name, *cells_of(keeping.peak, own)]
        rows.append((*cells, *(cells_of(recomputing.peak, own) if recomputing.recomputes else ("-", "-", "-"))))
    return rows


def size(setting: Setting) -> str:
    return " x ".join(map(str, (setting.batch, *setting.patch)))


def cells_of(peak: int, own: int) -> tuple[str, str, str]:
    """Estimate, its ratio to nnU-Net's own, and the smallest usual GPU on which it fits."""
    gpu = next((str(gpu) for gpu in GPUS if with_margin(peak) <= gpu * GIB), f"> {GPUS[-1]}")
    return f"{peak / GIB:.1f}", f"{peak / own:.2f}", gpu


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    header = ("plan", "trainer", "GiB", "ratio", "GPU", "GiB, recomputing", "ratio", "GPU")
    rows = [header, tuple("---" for _ in header), *(row for setting in DEFAULT_PLANS for row in rows_of(setting))]
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


if __name__ == "__main__":
    main()
