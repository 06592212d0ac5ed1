"""Records: a dataset as its converter declares it, a case in it, and the user's options."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_plugins.dataset_conversion.labels import LabelRule
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.dataset_conversion.source import Source

Part = Literal["train", "val", "test"]
RGB = ("R", "G", "B")  # nnU-Net normalises each channel by its z-score
PNG, NIFTI = ".png", ".nii.gz"


@dataclass(frozen=True)
class Case:
    """An image with its segmentation, as published."""

    name: str
    """Published name; with characters replaced that make trouble in file names, it becomes nnU-Net's identifier."""
    images: tuple[Path, ...]
    """One file for each channel, or one file with all of them."""
    label: tuple[Path, ...] | None
    """Most often one file, or files for the parts or classes; none: no foreground; None: the labels are not known."""
    classes: tuple[int, ...] = ()
    """Label of the foreground of each of these files, or 0 for a file whose values have labels of their own; empty:
    ``read_label`` reads all files at once."""
    group: str = ""
    """Group that folds must not divide, such as the patient; empty: the case is a group of its own."""
    test: bool = False
    """Whether the owners publish the case in a test set of its own."""
    paper_part: Part | None = None
    """The case's part in the published split; None: the split does not contain it."""


@dataclass(frozen=True)
class Dataset:
    """Dataset as its converter declares it; reading, checking and writing is the shared writer's work."""

    name: str
    """Name of the converter, as in ``nnunet-plugins convert NAME``."""
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
    """Description of the published folders and files."""
    find_cases: Callable[[Source], Iterable[Case]]
    to_labels: LabelRule
    labels: Mapping[str, int]
    num_cases: int | None
    """Number of published cases, test set included; None: any number."""
    channels: tuple[str, ...] = RGB
    file_ending: str = PNG
    flat: bool = False
    """Whether NIfTI files are written with two axes, for images that have a spacing or that PNG cannot hold."""
    regions: Mapping[str, tuple[int, ...]] | None = None
    """Overlapping regions instead of labels, for ``--regions``; the innermost last."""
    read_image: Callable[[Path], Picture] = read_picture
    read_label: Callable[[tuple[Path, ...], tuple[int, ...]], Picture] = read_mask
    """Reads the case's ``label`` files, given the image's size ``(H, W)`` or ``(D, H, W)``."""
    paper_split: str = ""
    """Description of the published split, in a few words; empty: the papers publish none."""
    paper_validation: bool = False
    """Whether the published split has a validation set besides the test set."""
    paper_ratio: tuple[int, int, int] | None = None
    """Training : validation : test, if only the ratio is published: groups are then drawn, always the same ones."""
    max_foreground_fraction: float | None = None
    """Default of ``--max-foreground-fraction``: only cases with less foreground are converted."""
    near_duplicates: bool = False
    """Whether images that look alike are found and kept in one group."""
    size: tuple[int, int] | None = None
    """Height and width of what is written, from ``--resize``; None: those of the published files."""


@dataclass(frozen=True)
class Options:
    """The user's decisions that apply to any dataset."""

    paper_split: bool = False
    trust_image_geometry: bool = False
    groups: Path | None = None
    """Table with the group of each case."""
    group: str | None = None
    """Regular expression that finds the group in the path of a case's image."""
    splits: Path | None = None
    """The user's own folds, or table of training, validation and test set."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All given options as JSON, by which a conversion is recognised as the same."""
