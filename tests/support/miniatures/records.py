"""Records of a miniature: what its conversion must give, and what holds for its dataset in any size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

RGB, PNG, NIFTI = ("R", "G", "B"), ".png", ".nii.gz"


class Geometry(NamedTuple):
    """Place of a volume in space, in SimpleITK's order: x, y, z."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


class Sample(NamedTuple):
    """Expected result of a case's conversion."""

    image: np.ndarray
    label: np.ndarray
    files: tuple[Path, ...]
    """Files of the image and the label, relative to the download's folder."""
    group: str = ""
    part: str = "Tr"
    paper: str | None = None
    """Part in the published split: train, val or test."""
    geometry: Geometry | None = None
    left_out: bool = False


class Facts(NamedTuple):
    """Properties of a dataset that do not depend on its number of cases."""

    dataset: str
    labels: Mapping[str, int]
    channels: tuple[str, ...] = RGB
    ending: str = PNG


@dataclass
class Miniature:
    """A download's folder, with the expected result for each of nnU-Net's identifiers."""

    folder: Path
    facts: Facts
    samples: dict[str, Sample] = field(default_factory=dict)

    def identifiers(self, part: str = "Tr") -> list[str]:
        return sorted(name for name, s in self.samples.items() if s.part == part and not s.left_out)

    def of_paper(self, part: str) -> list[str]:
        return sorted(name for name, sample in self.samples.items() if sample.paper == part)

    def add(self, name: str, image: np.ndarray, label: np.ndarray, *files: Path, **truth) -> None:
        self.samples[name] = Sample(image, label, tuple(path.relative_to(self.folder) for path in files), **truth)


ABDOMEN = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
FACTS = {
    "isic2018": Facts("Dataset511_ISIC2018", {"background": 0, "lesion": 1}),
    "isic2016": Facts("Dataset512_ISIC2016", {"background": 0, "lesion": 1}),
    "isic2017": Facts("Dataset513_ISIC2017", {"background": 0, "lesion": 1}),
    "dsb2018": Facts("Dataset514_DSB2018", {"background": 0, "nucleus": 1}),
    "monuseg": Facts("Dataset515_MoNuSeg", {"background": 0, "nucleus": 1}),
    "kvasir_seg": Facts("Dataset516_KvasirSEG", {"background": 0, "polyp": 1}),
    "kvasir_sessile": Facts("Dataset517_KvasirSessile", {"background": 0, "polyp": 1}),
    "kvasir_small": Facts("Dataset518_KvasirSmall", {"background": 0, "polyp": 1}),
    "glas": Facts("Dataset519_GlaS", {"background": 0, "gland": 1}),
    "synapse": Facts(
        "Dataset520_Synapse",
        {"background": 0} | {organ: label for label, organ in enumerate(ABDOMEN, 1)},
        ("CT",),
        NIFTI,
    ),
    "acdc": Facts(
        "Dataset521_ACDC",
        {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3},
        ("cine MRI",),
        NIFTI,
    ),
    "promise12": Facts("Dataset522_PROMISE12", {"background": 0, "prostate": 1}, ("T2",), NIFTI),
    "chase_db1": Facts("Dataset523_CHASEDB1", {"background": 0, "vessel": 1}),
    "lits17": Facts("Dataset524_LiTS17", {"background": 0, "liver": 1, "tumour": 2}, ("CT",), NIFTI),
    "brain_tumor": Facts("Dataset525_BrainTumor", {"background": 0, "tumor": 1}, ("T1ce",)),
    "kidney_stone": Facts("Dataset526_KidneyStone", {"background": 0, "stone": 1}, ("CT window",)),
}
