"""Conversions of the miniatures by the command, and what they wrote."""

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from skimage import io

from nnunet_plugins.cli import main
from nnunet_plugins.dataset_conversion import command, writer
from support.miniatures import FACTS, NIFTI, WRITERS, Miniature, Sample

NAMES = list(WRITERS)
VOLUMES = [name for name in NAMES if FACTS[name].ending == NIFTI]


class Conversion(NamedTuple):
    """A miniature and its converted dataset."""

    miniature: Miniature
    root: Path
    """Folder of nnU-Net's folders."""

    @property
    def dataset(self) -> Path:
        return self.root / "nnUNet_raw" / self.miniature.facts.dataset

    @property
    def description(self) -> dict:
        return json.loads((self.dataset / "dataset.json").read_text())

    @property
    def splits(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.miniature.facts.dataset / "splits_final.json"

    @property
    def folds(self) -> list[dict[str, list[str]]]:
        return json.loads(self.splits.read_text())

    @property
    def report(self) -> list[dict[str, str]]:
        with (self.dataset / "conversion_report.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def image(self, case: str, part: str = "Tr") -> Path:
        return self.dataset / f"images{part}" / f"{case}_0000{self.miniature.facts.ending}"

    def label(self, case: str, part: str = "Tr") -> Path:
        return self.dataset / f"labels{part}" / f"{case}{self.miniature.facts.ending}"

    def cases(self) -> Iterator[tuple[str, Sample]]:
        return ((case, sample) for case, sample in self.miniature.samples.items() if not sample.left_out)


def run_convert(name: str, source: Path, *options: object, processes: int = 1, check: bool = False) -> None:
    """Run the command; without nnU-Net's integrity check, for which it starts an interpreter, unless ``check``."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not check:
            monkeypatch.setattr(command, "convert", partial(writer.convert, check=False))
        main(["convert", name, str(source), "-np", str(processes), *map(str, options)])


def refused_convert(name: str, source: Path, *options: object) -> str:
    """Run the command, which must be refused in one sentence; return the sentence."""
    with pytest.raises(SystemExit) as refused:
        run_convert(name, source, *options)
    sentence = str(refused.value)
    assert sentence and "\n" not in sentence
    return sentence


def read(path: Path) -> np.ndarray:
    """Read an image or a volume with scikit-image or NiBabel, which the converters do not use."""
    return np.asarray(nibabel.load(path).dataobj).T if path.name.endswith(NIFTI) else io.imread(path)


def states(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Time of the last change, and content, of each file below the folder."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def group_of(miniature: Miniature, case: str) -> str:
    return miniature.samples[case].group or case
