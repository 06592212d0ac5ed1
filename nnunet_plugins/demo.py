"""The demo: nnU-Net's whole pipeline with one of our trainers on synthetic images, in minutes and without a download.

It runs the commands that a user types, each in a process of its own and shown as it is typed, as an example for data of
one's own. Scores on the synthetic images show that the pipeline works, not how good a method is.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.io import imread
from tqdm import tqdm

from nnunet_plugins import _startup
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, usable_cores
from nnunet_plugins.processes import end, end_workers, python_command
from nnunet_plugins.synthetic import write_dataset
from nnunet_plugins.trainers import TRAINERS

DEFAULT_EPOCHS = 4
ITERATIONS = 40
"""Training steps of an epoch; epochs are few and long because nnU-Net saves all weights after nearly every one."""
NUM_TRAIN, NUM_TEST = 32, 8
MINUTES_AROUND_TRAINING, MINUTES_OF_AN_ITERATION = 1.5, 1 / 64
LINE_LENGTH = 100
DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID}_SyntheticNuclei"
DEFAULT_FOLDER = Path("nnunet_plugins_demo")
MARKER = ".nnunet_plugins_demo"
"""File that marks a folder as made by the demo."""
ENTRIES = (
    *(f"{name}/{DATASET}" for name in ("raw", "preprocessed", "results")), "predictions", "demo.log", "demo.png",
)  # fmt: skip
"""Everything that the demo writes into its folder; nothing else is ever removed there, such as other datasets."""


def run_demo(
    keep: Path | None,
    trainer: str,
    epochs: int,
    *,
    iterations: int = ITERATIONS,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
) -> None:
    """Train, predict and evaluate on synthetic data with nnU-Net's own commands, and report.

    Args:
        keep: folder in which everything stays. Without it the demo works in ``nnunet_plugins_demo`` in the current
            directory, and removes the trained model in the end: its checkpoints take over a gigabyte.
        trainer: name from the table of trainers, without a length.
        epochs: number of epochs.
        iterations: number of training steps in each epoch.
        num_train: number of images to train on.
        num_test: number of held-out images.

    Raises:
        UserError: an argument, the folder or the installed nnU-Net will not do, or one of nnU-Net's commands failed.
    """
    if trainer not in TRAINERS:
        raise UserError(
            f"The demo has no trainer {trainer!r}: choose a name that `nnunet-plugins list` prints, and give the "
            "length with --epochs."
        )
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: expected at least 1.")
    require_nnunet()
    import torch

    start = time.monotonic()
    folder = prepare_folder(keep or DEFAULT_FOLDER)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"{trainer} in nnU-Net's pipeline, on the {'GPU' if device == 'cuda' else 'CPU'}.\n"
        f"The images are SYNTHETIC: touching, noisy nuclei, drawn now; {num_train} to train, {num_test} held out.\n"
        f"{duration(epochs, iterations)} Lines with a dollar sign are what you would type.\n"
    )
    write_dataset(folder / "raw" / DATASET, num_train=num_train, num_test=num_test)
    run_pipeline(Shell(folder), trainer, epochs, iterations, device)
    print_table(folder)
    draw_figure(folder)
    print(f"\nImage, truth and prediction: {folder / 'demo.png'}")
    if keep is None:
        shutil.rmtree(folder / "results" / DATASET)
        print(f"The log and the predictions are in {folder} too; the trained model is not: --keep DIR keeps it.")
    else:
        print(f"Data, trained model, predictions and log: {folder}")
    print_next_steps(trainer, device)
    print(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")


def duration(epochs: int, iterations: int) -> str:
    """Tell how long the demo takes on an idle machine of two cores, on which its default length was measured."""
    minutes = MINUTES_AROUND_TRAINING + MINUTES_OF_AN_ITERATION * epochs * iterations
    return f"It takes about {max(1, round(minutes))} minutes on two CPU cores, less on more or on a GPU."


def prepare_folder(folder: Path) -> Path:
    """Make the folder, or clean one that an earlier demo made; only the demo's own files are ever removed."""
    folder = folder.expanduser().absolute()
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise UserError(f"{folder} is not empty and was not made by the demo: choose another with --keep DIR.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        for path in (folder / entry for entry in ENTRIES):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The demo cannot use {folder} ({error.strerror}): choose another with --keep DIR.") from error
    return folder


class Shell:
    """Runs nnU-Net's commands in the demo's folder: echoes each, sends its output to the log, times it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "demo.log"
        self.workers = max(1, min(4, usable_cores() // 2))
        settings = {
            "nnUNet_raw": "$PWD/raw",
            "nnUNet_preprocessed": "$PWD/preprocessed",
            "nnUNet_results": "$PWD/results",
            # nnU-Net's own numbers of processes suit a workstation; here their start would take longer than their work.
            **dict.fromkeys(("nnUNet_def_n_proc", "nnUNet_n_proc_DA", "nnUNet_npp", "nnUNet_nps"), str(self.workers)),
            "nnUNet_compile": "f",
            "NNUNET_PLUGINS_SEED": os.environ.get("NNUNET_PLUGINS_SEED", "0"),
            # Threads that wait by spinning make a training on the CPU several times slower when other programs compute
            # too, or when a container has fewer cores than it sees.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        # The user's own nnU-Net settings would steer the demo elsewhere; only the search path of trainers is kept.
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
        self.environment |= {key: value.replace("$PWD", str(folder)) for key, value in settings.items()}
        self.environment[_startup.SEARCH_PATH_VARIABLE] = _startup.search_path(os.getenv(_startup.SEARCH_PATH_VARIABLE))
        self.environment["PYTHONUNBUFFERED"] = "1"
        exports = [f'{key}="{value}"' if "$" in value else f"{key}={value}" for key, value in settings.items()]
        print(f"$ cd {shlex.quote(str(folder))}\n$ export {' '.join(exports[:3])}\n$ export {' '.join(exports[3:])}")
        print(*(f"$ {line}\n" for line in activation()), sep="", end="", flush=True)

    def run(self, command: str, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Run a command as the user would, and call ``on_line`` with each line of its output.

        Raises:
            UserError: the command failed.
        """
        print(f"$ {command}", flush=True)
        start = time.monotonic()
        tail: deque[str] = deque(maxlen=15)
        with (
            self.log.open("a", buffering=1, encoding="utf-8") as log,
            subprocess.Popen(
                python_command(shlex.split(command)),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            threading.Thread(target=end_workers, args=(process,), daemon=True).start()
            log.write(f"$ {command}\n")
            try:
                with live_line(tail):
                    for line in process.stdout or ():
                        log.write(line)
                        tail.append(line)
                        on_line(line)
                    process.wait()
            finally:
                end(process)
        if process.returncode:
            killed = ", killed, perhaps for want of memory" if process.returncode == -signal.SIGKILL else ""
            raise UserError(
                f"{command.split()[0]} failed (exit code {process.returncode}{killed}): see {self.log}, which ends with"
                f"\n\n{''.join(tail)}"
            )
        print(f"  done in {time.monotonic() - start:.0f} s\n", flush=True)


@contextmanager
def live_line(said: Sequence[str]) -> Iterator[None]:
    """Show on a terminal, while the block runs, for how long it has, and the last line that was said."""
    done = threading.Event()

    def show() -> None:
        with tqdm(bar_format="  {elapsed}  {desc}", leave=False, disable=None) as line:
            while not line.disable and not done.wait(0.5):
                line.set_description_str(said[-1].strip()[:LINE_LENGTH] if said else "")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_pipeline(shell: Shell, trainer: str, epochs: int, iterations: int, device: str) -> None:
    name = f"{trainer}_{epochs}epoch{'s' if epochs > 1 else ''}_{iterations}iterations"
    workers = f"-npfp {shell.workers} -np {shell.workers}"
    model = f"-d {DATASET_ID} -c 2d -f 0 -tr {name} -device {device}"
    shell.run(f"nnUNetv2_plan_and_preprocess -d {DATASET_ID} -c 2d --verify_dataset_integrity {workers}")
    shell.run(f"nnUNetv2_train {DATASET_ID} 2d 0 -tr {name} -device {device}", EpochReport(epochs))
    shell.run(f"nnUNetv2_predict -i raw/{DATASET}/imagesTs -o predictions {model}")
    shell.run(
        f"nnUNetv2_evaluate_folder raw/{DATASET}/labelsTs predictions "
        "-djfile predictions/dataset.json -pfile predictions/plans.json"
    )


def activation() -> list[str]:
    """Commands that the user's shell needs to find nnU-Net, and nnU-Net to find our trainers; often none."""
    lines = []
    scripts, name = Path(sys.executable).parent, "nnUNetv2_train"
    if (scripts / name).is_file() and shutil.which(name) != str(scripts / name):
        lines.append(f'export PATH="{scripts}:$PATH"')
    if _startup.DISCOVERY_FOLDER not in os.environ.get(_startup.SEARCH_PATH_VARIABLE, "").split(os.pathsep):
        lines.append('eval "$(nnunet-plugins env)"')
    return lines


class EpochReport:
    """Prints a line for each epoch of a training, from nnU-Net's output."""

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.epoch = 0
        self.dice = "?"

    def __call__(self, line: str) -> None:
        if match := re.search(r"Epoch (\d+)\s*$", line):
            self.epoch = int(match[1]) + 1
        elif match := re.search(r"Pseudo dice \[(?:np\.float\d+\()?([\d.]+|nan)", line):
            self.dice = match[1]
        elif match := re.search(r"Epoch time: ([\d.]+) s", line):
            tqdm.write(
                f"  epoch {self.epoch}/{self.epochs}: Dice {self.dice} on patches of the validation fold, "
                f"{float(match[1]):.0f} s"
            )


def held_out_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of the nuclei in each test image, as nnU-Net measured them."""
    summary = read_json(folder / "predictions" / "summary.json", "run the demo again")
    return {Path(case["reference_file"]).stem: case["metrics"]["1"] for case in summary["metric_per_case"]}


def print_table(folder: Path) -> None:
    metrics = held_out_metrics(folder)
    print(f"{len(metrics)} held-out synthetic images   mean ± sd        lowest")
    for metric in ("Dice", "IoU"):
        values = np.array([case[metric] for case in metrics.values()])
        print(f"{metric:>28}   {values.mean():.3f} ± {values.std(ddof=1):.3f}    {values.min():.3f}")


def draw_figure(folder: Path, number: int = 4) -> None:
    """Draw image, truth and prediction of the first held-out images into ``demo.png``."""
    from matplotlib.figure import Figure

    raw = folder / "raw" / DATASET
    cases = list(held_out_metrics(folder).items())[:number]
    figure = Figure(figsize=(2.6 * len(cases), 8.2), layout="constrained")
    axes = figure.subplots(3, len(cases), squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for column, (case, metrics) in zip(axes.T, cases, strict=True):
        image = imread(raw / "imagesTs" / f"{case}_0000.png")
        truth, prediction = imread(raw / "labelsTs" / f"{case}.png"), imread(folder / "predictions" / f"{case}.png")
        column[0].imshow(image)
        column[0].set_title(case, fontsize=10)
        column[1].imshow(truth, cmap="gray", vmin=0, vmax=1)
        column[2].imshow(comparison(truth, prediction))
        column[2].set_xlabel(f"Dice {metrics['Dice']:.3f}, IoU {metrics['IoU']:.3f}")
    for row, title in zip(axes, ("image (synthetic)", "truth", "prediction"), strict=True):
        row[0].set_ylabel(title, fontsize=12)
    figure.supxlabel("Prediction: white right, red missed, blue too much", fontsize=10)
    figure.savefig(folder / "demo.png", dpi=120)


def comparison(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour ``(H, W, 3)`` true foreground white, missed foreground red and false foreground blue."""
    colours = np.array([[[0, 0, 0], [60, 120, 255]], [[255, 70, 60], [255, 255, 255]]], np.uint8)
    return colours[(truth > 0).astype(int), (prediction > 0).astype(int)]


def print_next_steps(trainer: str, device: str) -> None:
    option, images, masks = "" if device == "cuda" else " -device cpu", "'images/*.png'", "'masks/*.png'"
    commands = [
        *activation(),
        'export nnUNet_raw="$PWD/raw" nnUNet_preprocessed="$PWD/preprocessed" nnUNet_results="$PWD/results"',
        f"nnunet-plugins convert folder my_data -d 123 --dataset-name Mine --images {images} --masks {masks}",
        "nnUNetv2_plan_and_preprocess -d 123 -c 2d --verify_dataset_integrity",
        f"nnUNetv2_train 123 2d 0 -tr {trainer}{option}",
        f"nnunet-plugins convert folder new_data -d 123 --test-images {images} -o new_data_123",
        f"nnUNetv2_predict -i new_data_123/imagesTs -o predictions -d 123 -c 2d -f 0 -tr {trainer}{option}",
    ]
    print("\nYour own data: images and masks in two folders of my_data, one mask for each image. Type\n")
    print(*(f"  {command}" for command in commands), sep="\n")
    print("\nSeveral images of one patient need --groups, so that no fold divides a patient: docs/datasets.md.")
    print(f"A training is 1000 epochs of 250 steps; {trainer}_100epochs, or any other number, makes it shorter.")
