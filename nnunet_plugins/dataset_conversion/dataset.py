"""The record that a converter is, and the cases that it finds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_plugins.dataset_conversion.labels import LabelRule
from nnunet_plugins.dataset_conversion.pictures import Picture, read_mask, read_picture
from nnunet_plugins.dataset_conversion.source import Source

Part = Literal["train", "val", "test"]
RGB = ("R", "G", "B")  # nnU-Net's z-score for each channel
PNG, NIFTI = ".png", ".nii.gz"


@dataclass(frozen=True)
class Case:
    """An image with its segmentation, as published."""

    name: str
    """Becomes nnU-Net's identifier, once characters that make trouble in file names are replaced."""
    images: tuple[Path, ...]
    """One file for each channel, or one file with all of them."""
    label: tuple[Path, ...]
    """Most often one file; one for each object where the owners publish them so."""
    group: str = ""
    """What must not be torn apart by folds, such as the patient; empty: the case is a group of its own."""
    test: bool = False
    """Whether the owners publish the case in a test set of its own."""
    paper_part: Part | None = None
    """Its part in the published split; None: it is in none."""


@dataclass(frozen=True)
class Dataset:
    """What a converter declares. Everything else is the shared writer's work."""

    name: str
    """Of the converter: ``nnunet-plugins convert NAME``."""
    dataset_id: int | None
    """Default of ``--dataset-id``; None: the user must give one."""
    folder_name: str
    """``Name`` in ``DatasetNNN_Name``."""
    title: str
    page: str
    licence: str
    citation: str
    modality: str
    layout: str
    """The published folders and files, as a tree or in a line."""
    find_cases: Callable[[Source], Iterable[Case]]
    to_labels: LabelRule
    labels: Mapping[str, int]
    num_cases: int | None
    """That are published, test set included; None: any number."""
    channels: tuple[str, ...] = RGB
    file_ending: str = PNG
    regions: Mapping[str, tuple[int, ...]] | None = None
    """Overlapping regions instead of labels, for ``--regions``; the innermost last."""
    read_image: Callable[[Path], Picture] = read_picture
    read_label: Callable[[tuple[Path, ...], tuple[int, ...]], Picture] = read_mask
    """From the case's ``label`` and the image's size, ``(H, W)`` or ``(D, H, W)``."""
    paper_split: str = ""
    """What ``--paper-split`` does, in a few words; empty: the papers publish no split."""
    paper_validation: bool = False
    """Whether the published split has a validation set besides the test set."""
    paper_ratio: tuple[int, int, int] | None = None
    """Training : validation : test, where only that is published: groups are drawn, always the same ones."""
    max_foreground_fraction: float | None = None
    """Default of ``--max-foreground-fraction``: only cases with less foreground are converted."""
    near_duplicates: bool = False
    """Whether images that look alike are found and kept in one group."""
