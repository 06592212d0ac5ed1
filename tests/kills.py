"""Kill trainings of the five main trainers at random, go on with each, and compare them with uninterrupted ones.

``python tests/kills.py [seed]`` prints the table of ``docs/interruptions.md``: four SIGKILLs for each trainer, most of
them at a random moment while a checkpoint is written, the others at a random moment of an epoch.
"""

import multiprocessing
import os
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import pytest
from support import cell_datasets
from support.killed_training import differences, train_and_tell

from nnunet_plugins.trainers import HALVES, MAIN_TRAINERS

MODULES = ("condseg", "dcffsnet", "dcsnet", "dlkunet", "medfusion_transnet")
SERVER = multiprocessing.get_context("forkserver")  # processes that have imported torch already
SERVER.set_forkserver_preload(["support.killed_training", *(f"nnunet_plugins.trainers.{row}" for row in MODULES)])

KILLS = 4
EPOCHS = 12
ENVIRONMENT = {
    "nnUNet_n_proc_DA": "0",
    "nnUNet_def_n_proc": "1",
    "nnUNet_compile": "f",
    "NNUNET_PLUGINS_SEED": "4",
    "MPLBACKEND": "agg",
}


class Kill(NamedTuple):
    """A moment at which a training is killed."""

    message: str
    """``save`` or ``epoch``, which the training sends when it begins to write a checkpoint or an epoch."""
    number: int
    """Number of such messages before it."""
    delay: float
    """Seconds after the last of them."""


def random_kill(chance: random.Random, seconds_of: dict[str, float]) -> Kill:
    message = chance.choices(("save", "epoch"), (2, 1))[0]
    return Kill(message, chance.randint(1, 2), chance.random() * seconds_of[message])


def start(name: str, results: Path, resume: bool):
    """Start a training in a process of its own; its messages come through the second value."""
    messages, sender = SERVER.Pipe(duplex=False)
    environment = {**ENVIRONMENT, "nnUNet_results": str(results)}
    process = SERVER.Process(target=train_and_tell, args=(environment, name, resume, sender))
    process.start()
    sender.close()
    return process, messages


def seconds_between_messages(messages: Connection) -> dict[str, float]:
    """Longest time from a message to the next one, of each kind, until the training ends."""
    longest, last, begun = {"save": 0.0, "epoch": 0.0}, None, 0.0
    while True:
        try:
            message = messages.recv()
        except EOFError:
            return longest
        now = time.monotonic()
        if last is not None:
            longest[last] = max(longest[last], now - begun)
        last, begun = message, now


def killed(process, messages: Connection, kill: Kill) -> bool:
    """Kill a training at a moment, unless it ends before."""
    seen = 0
    while seen < kill.number:
        try:
            seen += messages.recv() == kill.message
        except EOFError:
            process.join()
            return False
    time.sleep(kill.delay)
    process.kill()
    process.join()
    return process.exitcode == -9


def goes_on(messages: Connection) -> bool:
    """Whether a training begins an epoch."""
    try:
        return messages.recv() == "epoch"
    except EOFError:
        return False


def half_written(results: Path) -> int:
    return len(list(results.rglob("*.partial*")))


def trial(main_trainer: str, root: Path, chance: random.Random) -> str:
    """Row of the table: kills, how many of them left a checkpoint half written, and whether all was resumed."""
    name = f"{main_trainer}_{EPOCHS}epochs_1iterations"
    process, messages = start(name, root / "whole", resume=False)
    seconds_of = seconds_between_messages(messages)
    process.join()
    kills = in_the_middle = resumed = 0
    process, messages = start(name, root / "killed", resume=False)
    while kills < KILLS and killed(process, messages, random_kill(chance, seconds_of)):
        kills += 1
        in_the_middle += bool(half_written(root / "killed"))
        process, messages = start(name, root / "killed", resume=True)
        resumed += goes_on(messages)
    seconds_between_messages(messages)
    process.join()
    different = differences(root / "killed", root / "whole", EPOCHS) if process.exitcode == 0 else ["it failed"]
    equal = "no: " + ", ".join(different[:3]) if different else "yes"
    return f"| `{main_trainer}` | {kills} | {in_the_middle} | {resumed} | {equal} |"


def main(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        root = Path(folder)
        os.environ.update(ENVIRONMENT | {"nnUNet_n_proc_DA": "1"})  # 0 breaks nnU-Net's planning
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)
        cell_datasets.write_raw_dataset(cell_datasets.LABELS)
        cell_datasets.plan_and_preprocess([cell_datasets.LABELS])
        print("| Trainer | SIGKILLs | of them in a checkpoint | resumed | equals an uninterrupted training |")
        print("|---|---|---|---|---|", flush=True)
        for main_trainer in (name for name in MAIN_TRAINERS if name not in HALVES):
            print(trial(main_trainer, root / main_trainer, chance), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
