"""Small valid downloads for tests to damage, and helpers that run `convert` and return its refusal."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from nnunet_plugins.cli import main
from support import cell_datasets

PNGS = ("folder", "--images", "images/*.png", "--masks", "masks/*.png", "--dataset-name", "Cells", "-d", "7")
TIFFS = tuple(option.replace(".png", ".tif") for option in PNGS)
VOLUMES = tuple(option.replace(".png", ".nii.gz") for option in PNGS)
SIZE = (20, 24)


def picture(seed: int = 0, size: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def mask(foreground: int = 255) -> np.ndarray:
    array = np.zeros(SIZE, np.uint8)
    array[5:15, 5:15] = foreground
    return array


def noise_volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 100, (4, 10, 12)).astype(np.float32)


def mask_volume() -> np.ndarray:
    array = np.zeros((4, 10, 12), np.uint8)
    array[1:3, 2:6, 2:6] = 1
    return array


def truncate(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


def everything_below(*folders: Path) -> dict[Path, bytes | None]:
    """Everything below the given folders, or nnU-Net's folders, hidden files too."""
    folders = folders or tuple(Path(os.environ[v]) for v in cell_datasets.NNUNET_FOLDERS if v in os.environ)
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def with_source(options: tuple[str, ...] | list[str], source: Path) -> tuple[object, ...]:
    """The options with the source after the converter's name."""
    return (options[0], source, *options[1:])


def raw_dataset(name: str = "Dataset007_Cells") -> Path:
    return Path(os.environ["nnUNet_raw"], name)


def convert(name: str, source: Path, *options: object) -> None:
    main(["convert", name, str(source), *map(str, options), *(() if "-np" in options else ("-np", "1"))])


def refusal_text(name: str, source: Path, *options: object) -> str:
    """Run the command, which must end with a message and leave nnU-Net's folders as before; return the message."""
    before = everything_below()
    with pytest.raises(SystemExit) as ended:
        convert(name, source, *options)
    assert everything_below() == before
    assert isinstance(ended.value.code, str)  # the interpreter prints it and exits with 1
    return ended.value.code


def refusal_in_one_sentence(name: str, source: Path, *options: object) -> str:
    """Run the command as ``refusal_text`` does; the message must be a sentence without line breaks or object names."""
    text = refusal_text(name, source, *options)
    assert "\n" not in text and "Traceback" not in text and " object at 0x" not in text
    assert not re.search(r"(?<!e\.g)[.!?] +[A-Z]", text), f"more than one sentence: {text}"
    return text


def assert_says(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text, f"{part!s:.200} is not in: {text}"
