"""Proves: nnU-Net's command trains from a plan of ``nnunet-plugins plan``, in 2D and 3D, on its preprocessed data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import cell_datasets
from support.cell_datasets import LABELS, VOLUMES

from nnunet_plugins.cli import main
from nnunet_plugins.planning.requirement import Estimator
from nnunet_plugins.planning.source import find_trainer_class, read_source
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("trainer", "dataset"), [("DLKUNetSTrainer_C64", LABELS), ("nnUNetTrainer", LABELS), ("nnUNetTrainer", VOLUMES)]
)
def test_a_training_from_the_plan(planned, results, capsys, trainer, dataset):
    source, name = read_source(dataset), cell_datasets.configuration_of(dataset)
    before = source.configuration(name)
    needed = with_margin(Estimator(source, find_trainer_class(trainer)).requirement(name, before).least)
    memory = (needed - 1) / GIB  # a byte less than the default plan needs
    main(["plan", "-d", str(dataset), "-tr", trainer, "--gpu-memory", str(memory), "-c", name])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"nnUNetv2_train {dataset} {name} FOLD -tr {trainer} -p ")
    command, plans_name = line.split(" -tr ")[0].replace("FOLD", "0").split(), line.split()[-1]
    after = json.loads((source.folder / f"{plans_name}.json").read_text())["configurations"][name]
    assert (after["patch_size"], after["batch_size"]) != (before["patch_size"], before["batch_size"])
    short = f"{trainer}_1epoch_2iterations"
    program = Path(sys.executable).with_name(command[0])
    arguments = [*command[1:], "-tr", short, "-p", plans_name, "-device", "cpu"]
    finished = subprocess.run(
        [program, *arguments], env=os.environ | {"nnUNet_n_proc_DA": "0"}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    model = results / source.dataset / f"{short}__{plans_name}__{name}"
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
