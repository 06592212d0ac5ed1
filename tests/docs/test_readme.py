"""Proves: the commands of the README run as printed, and what it says about their results is true."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread, imsave
from support.repository import REPOSITORY

from nnunet_plugins.synthetic import write_dataset

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
OWN_DATA = [block for block in BLOCKS if re.search(r"\b123\b|new_data_123", block)]
ELSEWHERE = {
    "nnUNetv2_train 501": "test_demo",
    "make ": "test_workflows, and .ci/run",
    "python3 -m venv": "every fresh environment of .ci/run",
    "pip install": ".ci/run, and discovery/test_installs",
    "nnunet-plugins demo": "test_demo",
    "pytest ": ".ci/run",
    "nnunet-plugins benchmark run": "benchmark/jobs",
}
"""Starts of the commands that other tests run."""
SHORT = "_1epoch_2iterations"


def test_every_command_is_run_by_a_test():
    others = [line for block in BLOCKS if block not in OWN_DATA for line in block.splitlines()]
    assert not [line for line in others if not line.startswith(tuple(ELSEWHERE))]


def test_the_networks_work_without_nnunet():
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(code, names)
    assert names["logits"].shape == (1, 2, 96, 80)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with what the README presumes: images and masks of five patients, and new images with masks."""
    home = tmp_path_factory.mktemp("readme")
    write_dataset(home / "synthetic", num_train=10, num_test=2)
    for folder, part in {"my_data": "Tr", "new_data": "Ts"}.items():
        for name, source in {"images": f"images{part}", "masks": f"labels{part}"}.items():
            (home / folder / name).mkdir(parents=True)
            for path in sorted((home / "synthetic" / source).glob("*.png")):
                pixels = imread(path)
                target = home / folder / name / f"{path.stem.removesuffix('_0000')}.png"
                imsave(target, pixels * np.uint8(255) if name == "masks" else pixels, check_contrast=False)
    cases = sorted(path.stem for path in (home / "my_data" / "images").glob("*.png"))
    rows = [f"{case},patient{number // 2}" for number, case in enumerate(cases)]
    (home / "patients.csv").write_text("\n".join(["case,patient", *rows]) + "\n")
    activate = home / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{sysconfig.get_path("scripts")}:$PATH"\n')
    return home


@pytest.mark.slow
def test_own_data_come_from_two_folders_to_scores(home):
    """The commands run as printed, but for the training's length, the device and the number of processes."""
    script = "\n".join(OWN_DATA).replace("DCFFSNetTrainer", f"DCFFSNetTrainer{SHORT}")
    script = re.sub(r"^(nnUNetv2_(train|predict) .*)$", r"\1 -device cpu", script, flags=re.MULTILINE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=home, env=environment, capture_output=True)
    assert run.returncode == 0, (run.stdout + run.stderr).decode()[-3000:]
    stated = re.search(r"lies in\s+`(results/\S+)`", README)
    fold = home / stated[1].replace("DCFFSNetTrainer", f"DCFFSNetTrainer{SHORT}")
    for name in ("progress.png", "checkpoint_final.pth", "validation/summary.json"):
        assert (fold / name).is_file()
    assert list(fold.glob("training_log_*.txt"))
    assert (home / "predictions" / "summary.json").is_file() and (home / "metrics.csv").is_file()
    for path in (home / "predictions").glob("*.png"):
        assert (imread(home / "predictions_of_my_model" / path.name) == imread(path)).mean() > 0.999
    patients = dict(line.split(",") for line in (home / "patients.csv").read_text().split()[1:])
    for split in json.loads((home / "preprocessed" / "Dataset123_Mine" / "splits_final.json").read_text()):
        assert not {patients[case] for case in split["train"]} & {patients[case] for case in split["val"]}
