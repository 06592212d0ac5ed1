"""The demo: nnU-Net's whole pipeline with one of our trainers on synthetic images, in minutes and without a download.

It runs the commands that a user types, each in a process of its own and shown as it is typed: whoever has watched the
demo knows how to treat data of their own. The images are drawn by :func:`synthetic_nuclei`; what is reached on them
says that the pipeline works, not how good a method is.
"""

import json
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
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.io import imread, imsave

from nnunet_plugins import _startup
from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import TRAINERS
from nnunet_plugins.trainers.compatibility import nnunet_problem

DEFAULT_EPOCHS = 4
ITERATIONS = 40
"""Training steps of an epoch: few, long epochs, for nnU-Net saves all weights after nearly every epoch."""
NUM_TRAIN, NUM_TEST = 32, 8
IMAGE_SIZE = 128
DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID}_SyntheticNuclei"
DEFAULT_FOLDER = Path("nnunet_plugins_demo")
MARKER = ".nnunet_plugins_demo"
"""File by which the demo knows a folder as its own."""
ENTRIES = ("raw", "preprocessed", "results", "predictions", "demo.log", "demo.png")
"""All that the demo writes into its folder, and all that it ever removes there."""


# ---- synthetic microscopy --------------------------------------------------------------------------------------------

STAINS = ("fluorescence", "haematoxylin")


def synthetic_nuclei(
    rng: np.random.Generator, size: int = IMAGE_SIZE, *, stain: str | None = None, density: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a microscopy image of noisy nuclei, many of which touch.

    Args:
        rng: the only source of randomness.
        size: edge of the image in pixels.
        stain: ``"fluorescence"`` (bright on black), ``"haematoxylin"`` (dark on pink) or, by default, either.
        density: nuclei for each 20 x 20 pixels.

    Returns:
        image ``(size, size, 3)`` and mask ``(size, size)`` with 1 in nuclei.
    """
    instances = place_nuclei(rng, size, max(3, round(density * (size / 20) ** 2)))
    stain = stain or STAINS[rng.integers(2)]
    render = render_fluorescence if stain == "fluorescence" else render_haematoxylin
    return render(rng, instances), (instances > 0).astype(np.uint8)


def place_nuclei(rng: np.random.Generator, size: int, number: int) -> NDArray[np.int64]:
    """A label map ``(size, size)`` of ``number`` irregular ellipses, many of them touching; 0 is background."""
    axes = rng.uniform(4.5, 9.0, (number, 1)) * rng.uniform(0.8, 1.25, (number, 2))
    centres = rng.uniform(0, size, (number, 2))
    for i in range(1, number):
        if rng.random() < 0.5:  # beside an earlier nucleus, so that the outlines meet
            neighbour, angle = rng.integers(i), rng.uniform(0, 2 * np.pi)
            distance = 0.9 * (axes[i].mean() + axes[neighbour].mean())
            centres[i] = centres[neighbour] + distance * np.array([np.sin(angle), np.cos(angle)])

    rows, columns = np.mgrid[:size, :size][:, None] - centres.T[:, :, None, None]  # (N, H, W) each
    turn = rng.uniform(0, np.pi, (number, 1, 1))
    along = (np.cos(turn) * rows + np.sin(turn) * columns) / axes[:, :1, None]
    across = (np.cos(turn) * columns - np.sin(turn) * rows) / axes[:, 1:, None]
    bearing = np.arctan2(across, along)
    outline = np.ones_like(bearing)
    for lobes in (2, 3, 5):
        amplitude = rng.normal(0, 0.1 / lobes**0.5, (number, 1, 1))
        outline += amplitude * np.cos(lobes * bearing + rng.uniform(0, 2 * np.pi, (number, 1, 1)))
    distance = np.hypot(along, across) / outline  # 1 on the outline
    return np.where(distance.min(0) < 1, distance.argmin(0) + 1, 0)


def render_fluorescence(rng: np.random.Generator, instances: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bright nuclei of one colour on a dark field: uneven light, out-of-focus haze, photon and camera noise."""
    shape = instances.shape
    nuclei = brightness(rng, instances, 0.35, 1.0) * (1 + 0.35 * texture(rng, shape, 1.5))
    haze = gaussian_filter(nuclei, shape[0] / 12)
    light = (gaussian_filter(nuclei, 0.9) + 0.35 * haze + 0.06) * illumination(rng, shape)
    photons = rng.poisson(90 * light.clip(0)) / 90 + rng.normal(0, 0.02, shape)
    colour = np.array([[0.25, 0.45, 1.0], [0.3, 1.0, 0.45], [1.0, 1.0, 1.0]])[rng.integers(3)]
    return to_uint8(photons[..., None] * colour)


def render_haematoxylin(rng: np.random.Generator, instances: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Violet nuclei on pink, fibrous tissue: two dyes absorb (Beer-Lambert), uneven light, photon and camera noise."""
    shape = instances.shape
    haematoxylin = gaussian_filter(brightness(rng, instances, 0.5, 1.1) * (1 + 0.3 * texture(rng, shape, 1.2)), 0.8)
    haematoxylin += 0.12 + 0.08 * texture(rng, shape, 4)
    fibres = texture(rng, shape, tuple(rng.permutation([1.5, 8.0])))
    eosin = 0.3 + 0.12 * fibres + 0.1 * texture(rng, shape, 10)
    absorbed = haematoxylin[..., None] * [1.30, 1.40, 0.58] + eosin[..., None] * [0.14, 1.10, 0.45]
    light = 0.97 * np.exp(-absorbed) * illumination(rng, shape)[..., None]
    return to_uint8(rng.poisson(250 * light) / 250 + rng.normal(0, 0.015, absorbed.shape))


def brightness(rng: np.random.Generator, instances: NDArray[np.int64], low: float, high: float) -> NDArray[np.float64]:
    """A value for each nucleus, 0 in the background."""
    return np.append(0.0, rng.uniform(low, high, instances.max()))[instances]


def texture(rng: np.random.Generator, shape: tuple[int, ...], scale: float | tuple[float, ...]) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.normal(size=shape), scale, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def illumination(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Light that falls off from a random spot in or near the image."""
    spot = rng.uniform(0.1, 0.9, (2, 1, 1))
    return 1 - 0.35 * ((np.mgrid[: shape[0], : shape[1]] / shape[0] - spot) ** 2).sum(0)


def to_uint8(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (255 * image).clip(0, 255).round().astype(np.uint8)


def write_dataset(folder: Path, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST, seed: int = 0) -> None:
    """Write synthetic nuclei as an nnU-Net dataset, RGB PNG: ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``.

    Every image has a generator of its own: image ``i`` is the same however many are asked for.
    """
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num_train + num_test):
        part = "Tr" if i < num_train else "Ts"
        image, mask = synthetic_nuclei(np.random.default_rng((seed, i)), stain=STAINS[i % 2])
        imsave(folder / f"images{part}" / f"nuclei_{i:03}_0000.png", image, check_contrast=False)
        imsave(folder / f"labels{part}" / f"nuclei_{i:03}.png", mask, check_contrast=False)
    description = {
        "name": folder.name,
        "description": "Synthetic microscopy, drawn by nnunet_plugins.demo: no real data.",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": num_train,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


# ---- the demo --------------------------------------------------------------------------------------------------------


def run_demo(keep: Path | None, trainer: str, epochs: int, *, iterations: int = ITERATIONS) -> None:
    """Train, predict and evaluate on synthetic data with nnU-Net's own commands, and report.

    Args:
        keep: folder in which everything stays. Without it the demo works in ``nnunet_plugins_demo`` in the current
            directory, and removes the trained model in the end: its checkpoints take over a gigabyte.
        trainer: a name from the table of trainers, without a length.
        epochs: of ``iterations`` training steps each.

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
    if problem := nnunet_problem():
        raise UserError(f"nnunet-plugins cannot use this nnU-Net: {problem}")
    start = time.monotonic()
    folder = prepare_folder(keep or DEFAULT_FOLDER)
    device = choose_device()
    name = f"{trainer}_{epochs}epoch{'s' if epochs > 1 else ''}_{iterations}iterations"
    print(
        f"{trainer} in nnU-Net's pipeline, on the {'GPU' if device == 'cuda' else 'CPU'}.\n"
        f"The images are SYNTHETIC: touching, noisy nuclei, drawn now; {NUM_TRAIN} to train, {NUM_TEST} held out.\n"
        "Lines with a dollar sign are what you would type.\n"
    )
    write_dataset(folder / "raw" / DATASET)

    shell = Shell(folder)
    workers = f"-npfp {shell.workers} -np {shell.workers}"
    model = f"-d {DATASET_ID} -c 2d -f 0 -tr {name} -device {device}"
    shell.run(f"nnUNetv2_plan_and_preprocess -d {DATASET_ID} -c 2d --verify_dataset_integrity {workers}")
    shell.run(f"nnUNetv2_train {DATASET_ID} 2d 0 -tr {name} -device {device}", EpochReport(epochs))
    shell.run(f"nnUNetv2_predict -i raw/{DATASET}/imagesTs -o predictions {model}")
    shell.run(
        f"nnUNetv2_evaluate_folder raw/{DATASET}/labelsTs predictions "
        "-djfile predictions/dataset.json -pfile predictions/plans.json"
    )

    print_table(folder)
    draw_figure(folder)
    print(f"\nImage, truth and prediction: {folder / 'demo.png'}")
    if keep is None:
        shutil.rmtree(folder / "results")
        print(f"The log and the predictions are in {folder} too; the trained model is not: --keep DIR keeps it.")
    else:
        print(f"Data, trained model, predictions and log: {folder}")
    print_next_steps(trainer, device)
    print(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")


def prepare_folder(folder: Path) -> Path:
    """Make the folder, or clean one that an earlier demo made; nothing that is not the demo's is ever removed."""
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


def choose_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
            # Where others compute too, or a container has fewer cores than it sees, threads that wait by spinning make
            # a training on the CPU several times slower.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        # The user's own nnU-Net settings would steer the demo elsewhere; all but the search path of trainers stay out.
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
        self.environment |= {key: value.replace("$PWD", str(folder)) for key, value in settings.items()}
        self.environment[_startup.VARIABLE] = _startup.search_path(os.environ.get(_startup.VARIABLE))
        self.environment["PYTHONUNBUFFERED"] = "1"
        echo(f"cd {shlex.quote(str(folder))}")
        exports = [f'{key}="{value}"' if "$" in value else f"{key}={value}" for key, value in settings.items()]
        echo("export " + " ".join(exports[:3]))
        echo("export " + " ".join(exports[3:]))
        for line in activation():
            echo(line)

    def run(self, command: str, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Run a command as the user would, ``on_line`` seeing each line of its output.

        Raises:
            UserError: it failed.
        """
        echo(command)
        start = time.monotonic()
        tail: deque[str] = deque(maxlen=15)

        def read(process: subprocess.Popen[str]) -> None:
            assert process.stdout is not None
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"$ {command}\n")
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    tail.append(line)
                    on_line(line)

        with subprocess.Popen(
            python_command(shlex.split(command)),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            reader = threading.Thread(target=read, args=(process,), daemon=True)
            reader.start()
            try:
                process.wait()
            finally:
                end(process)
                reader.join()
        if process.returncode:
            killed = ", killed, perhaps for want of memory" if process.returncode == -signal.SIGKILL else ""
            raise UserError(
                f"{command.split()[0]} failed (exit code {process.returncode}{killed}): see {self.log}, which ends with"
                f"\n\n{''.join(tail)}"
            )
        print(f"  done in {time.monotonic() - start:.0f} s\n", flush=True)


def echo(command: str) -> None:
    print(f"$ {command}", flush=True)


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container or a batch job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def activation() -> list[str]:
    """The lines without which nnU-Net, or in it our trainers, are not found in the user's shell; often none."""
    lines = []
    scripts, name = Path(sys.executable).parent, "nnUNetv2_train"
    if (scripts / name).is_file() and shutil.which(name) != str(scripts / name):
        lines.append(f'export PATH="{scripts}:$PATH"')
    if _startup.DISCOVERY_FOLDER not in os.environ.get(_startup.VARIABLE, "").split(os.pathsep):
        lines.append('eval "$(nnunet-plugins env)"')
    return lines


def python_command(arguments: list[str]) -> list[str]:
    """One of nnU-Net's console scripts as a call of this interpreter with this process's ``sys.path``.

    The script itself may be missing from PATH, and a new interpreter may not find what this one has found, for
    instance after ``pip install --target``.
    """
    script = next(iter(entry_points(group="console_scripts", name=arguments[0])))
    path = [os.path.abspath(entry) for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; sys.argv[0] = {arguments[0]!r}; "
        f"from {script.module} import {script.attr} as run; run()"
    )
    return [sys.executable, "-P", "-c", code, *arguments[1:]]


def end(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a command, its worker processes included: those outlive an nnU-Net that was killed."""
    if os.name == "posix":
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


class EpochReport:
    """Follows a training through nnU-Net's output: a line for each epoch."""

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
            print(
                f"  epoch {self.epoch}/{self.epochs}: Dice {self.dice} on patches of the validation fold, "
                f"{float(match[1]):.0f} s",
                flush=True,
            )


# ---- the report ------------------------------------------------------------------------------------------------------


def held_out_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """What nnU-Net measured: metrics of the nuclei for each test image."""
    summary = json.loads((folder / "predictions" / "summary.json").read_text())
    return {Path(case["reference_file"]).stem: case["metrics"]["1"] for case in summary["metric_per_case"]}


def print_table(folder: Path) -> None:
    metrics = held_out_metrics(folder)
    print(f"{len(metrics)} held-out synthetic images   mean ± sd        lowest")
    for metric in ("Dice", "IoU"):
        values = np.array([case[metric] for case in metrics.values()])
        print(f"{metric:>28}   {values.mean():.3f} ± {values.std(ddof=1):.3f}    {values.min():.3f}")


def draw_figure(folder: Path, number: int = 4) -> None:
    """Write ``demo.png``: image, truth and prediction of the first held-out images."""
    from matplotlib.figure import Figure

    raw = folder / "raw" / DATASET
    cases = list(held_out_metrics(folder).items())[:number]
    figure = Figure(figsize=(2.6 * len(cases), 8.2), layout="constrained")
    axes = figure.subplots(3, len(cases), squeeze=False)
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
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.supxlabel("Prediction: white right, red missed, blue too much", fontsize=10)
    figure.savefig(folder / "demo.png", dpi=120)


def comparison(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W, 3)``: white where truth and prediction are both foreground, red where missed, blue where too much."""
    colours = np.array([[[0, 0, 0], [60, 120, 255]], [[255, 70, 60], [255, 255, 255]]], np.uint8)
    return colours[(truth > 0).astype(int), (prediction > 0).astype(int)]


def print_next_steps(trainer: str, device: str) -> None:
    option = "" if device == "cuda" else " -device cpu"
    lines = [
        "\nYour own data: put imagesTr, labelsTr and dataset.json into raw/Dataset123_Mine, as nnU-Net documents it",
        "(https://github.com/MIC-DKFZ/nnUNet/tree/master/documentation), and type",
        "",
        *(f"  {line}" for line in activation()),
        '  export nnUNet_raw="$PWD/raw" nnUNet_preprocessed="$PWD/preprocessed" nnUNet_results="$PWD/results"',
        "  nnUNetv2_plan_and_preprocess -d 123 -c 2d --verify_dataset_integrity",
        f"  nnUNetv2_train 123 2d 0 -tr {trainer}{option}",
        f"  nnUNetv2_predict -i NEW_IMAGES -o PREDICTIONS -d 123 -c 2d -f 0 -tr {trainer}{option}",
        "",
        f"A training is 1000 epochs of 250 steps; {trainer}_100epochs, or any other number, makes it shorter.",
    ]
    print("\n".join(lines))
