"""Conversion of one case, done by worker processes: read, check, and write without loss."""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.dataset import NIFTI, PNG, Case, Dataset
from nnunet_plugins.dataset_conversion.labels import histogram
from nnunet_plugins.dataset_conversion.masks import Shared, check_match, read_labels
from nnunet_plugins.dataset_conversion.near_duplicates import thumbnail
from nnunet_plugins.dataset_conversion.pictures import (
    Geometry,
    Picture,
    flat_volume,
    slice_first,
    write_image,
    write_volume,
)
from nnunet_plugins.dataset_conversion.readers import files_behind, has_pages
from nnunet_plugins.dataset_conversion.readers.images import one_channel
from nnunet_plugins.dataset_conversion.resizing import (
    in_plane,
    resize_labels,
    resize_picture,
    resized_geometry,
    vanished_objects,
)
from nnunet_plugins.dataset_conversion.source import composed, relative_path
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.files import digest


@dataclass
class Row:
    """Row of ``conversion_report.csv``, which describes one case."""

    case: str
    """Identifier that nnU-Net knows the case by."""
    part: str = ""
    """``Tr`` or ``Ts``; empty for a case that was left out."""
    group: str = ""
    images: str = ""
    label: str = ""
    sha256: str = ""
    """Hash of the bytes of all source files."""
    shape: str = ""
    """Published shape; this and the four that follow describe the case as it was before it was resized."""
    spacing: str = ""
    dtype: str = ""
    label_counts: str = ""
    """Number of pixels or voxels of each label."""
    foreground_fraction: str = ""
    resized_shape: str = ""
    """Shape as written, if ``--resize`` was given."""
    resized_spacing: str = ""
    resized_label_counts: str = ""
    vanished_objects: str = ""
    """Number of objects of each label that have no pixel left after resizing."""
    note: str = ""


@dataclass
class Outcome:
    """Result of checking and converting one case."""

    row: Row
    label_counts: dict[int, int] = field(default_factory=dict)
    """Number of pixels or voxels of each label, as written."""
    vanished: dict[int, int] = field(default_factory=dict)
    """Number of objects of each label that have no pixel left after resizing."""
    thumbnail: NDArray[np.float32] | None = None
    """Small copy of the image, if near-duplicates are looked for."""
    labelled: bool = True
    """Whether the labels are known."""
    shared: Shared = field(default_factory=dict)
    """Overlaps of the classes, if they become regions."""
    grey: bool = False
    """Whether an image with one channel became one with three equal ones, as the others have."""
    problem: str = ""
    """Flaw of the data in one sentence; empty if there is none."""
    left_out: bool = False
    """Whether the case has too much foreground to be converted."""
    ignored: int = 0
    """Label of what is to be ignored, which is no foreground; 0: there is none."""

    @property
    def has_foreground(self) -> bool:
        return not self.label_counts.keys() <= {0, self.ignored}


def identifier(name: str) -> str:
    """Make a published name fit for file names: letters and digits of any script, ``_`` and ``-``."""
    return re.sub(r"[^\w-]+", "_", composed(name))


def convert_case(dataset: Dataset, trust_image_geometry: bool, root: Path, folder: Path | None, case: Case) -> Outcome:
    """Check a case and write it to ``folder/images`` and ``folder/labels``.

    Args:
        dataset: record that says how to read the files and what to expect in them.
        trust_image_geometry: whether a mask may have another grid than its image.
        root: the download's folder, to which paths in the report are relative.
        folder: where to write; None: only check.
        case: the case's files.

    Returns:
        The case's row of the report, its label counts, and a flaw of the data as ``problem``.

    Raises:
        UserError: nothing can be written any more.
    """
    row = Row(identifier(case.name), group=case.group)
    row.images, row.label = (relative(files, root) for files in (case.images, case.label or ()))
    outcome = Outcome(row, ignored=dataset.labels.get("ignore", 0))
    try:
        pictures = [dataset.read_image(path) for path in case.images]
        fitted = zip(pictures, case.images, strict=True)
        images = [fit_channels(picture, path, dataset, len(case.images)) for picture, path in fitted]
        image = images[0]
        outcome.grey = pictures[0].num_channels < image.num_channels
        for other, path in zip(images[1:], case.images[1:], strict=True):
            check_match(image, other, case.images[0], path, trust_image_geometry, "channel")
        images = [picture._replace(geometry=image.geometry) for picture in images]  # nnU-Net wants no difference at all
        labels, outcome.shared = read_labels(dataset, case, image, trust_image_geometry)
        row.sha256 = source_digest(case)
    except UserError as error:
        outcome.problem = str(error)
        return outcome
    describe(outcome, image, labels)
    if (fraction := float(row.foreground_fraction)) >= (limit := dataset.max_foreground_fraction or np.inf):
        row.note = f"left out: foreground {fraction:.4%} is not below {limit:.4%}"
        outcome.left_out = True
        return outcome
    if dataset.near_duplicates:
        outcome.thumbnail = thumbnail(image)
    if dataset.flat:
        labels = slice_first(Picture(labels, image.geometry)).array
        images = [slice_first(picture) for picture in images]
        image = images[0]
    if dataset.size:
        labels = resize_case_labels(outcome, dataset, image, labels, dataset.size)
        images = [resize_picture(picture, dataset.size) for picture in images] if folder else []
    if case.label is None:
        forget_labels(outcome)
    if folder:
        written = None if case.label is None else Picture(labels, images[0].geometry)
        write_case(folder, row.case, images, written, dataset.flat)
    return outcome


def relative(paths: Sequence[Path], root: Path) -> str:
    """Paths for the report, relative to the download or to the archive that a file comes from."""
    texts = [relative_path(path, root) for path in paths]
    return " ".join(texts) if len(texts) < 5 else f"{Path(texts[0]).parent.as_posix()}/ ({len(texts)} files)"


def fit_channels(picture: Picture, path: Path, dataset: Dataset, num_files: int) -> Picture:
    """Give the picture the number of channels that the dataset declares.

    Raises:
        UserError: the picture has other channels, or values that PNG cannot hold.
    """
    picture = in_form_of(dataset, picture, path)
    array, is_volume, expected = picture.array, picture.geometry is not None, len(dataset.channels) // num_files
    if not is_volume and picture.num_channels == 3 and expected == 1:
        array = one_channel(array, path)
    elif not is_volume and picture.num_channels == 1 and expected == 3:
        array = np.repeat(array.reshape(*picture.shape, 1), 3, -1)
    elif picture.num_channels != expected:
        raise UserError(
            f"{path} has {picture.num_channels} channels, but {expected} {'is' if expected == 1 else 'are'} expected: "
            "name them with --channels, or convert files with other channels separately"
        )
    return picture if is_volume else Picture(array if array.dtype == np.uint8 else as_unsigned(array, path))


def in_form_of(dataset: Dataset, picture: Picture, path: Path) -> Picture:
    """Return the picture as a volume or as an image, as the dataset has them; a file with pages may be either.

    Raises:
        UserError: it is of the other kind.
    """
    wants_volume, is_volume = dataset.file_ending == NIFTI, picture.geometry is not None
    if wants_volume and not is_volume and dataset.flat and has_pages(path):
        picture = flat_volume(picture.array)
    elif is_volume and not wants_volume and picture.shape[0] == 1 and has_pages(path):
        picture = Picture(as_unsigned(picture.array[0], path))
    elif is_volume and not wants_volume:
        raise UserError(f"{path} is a volume, but the other images are two-dimensional: convert them separately")
    elif wants_volume and not is_volume:
        raise UserError(f"{path} is a two-dimensional image, but the others are volumes: convert them separately")
    if dataset.flat and 1 not in picture.shape:
        raise UserError(f"{path} has several slices, but the first image has one: convert them separately")
    return picture


def as_unsigned(array: NDArray, path: Path) -> NDArray[np.uint16]:
    """Turn whole numbers of any type into those that PNG holds.

    Raises:
        UserError: PNG cannot hold the values.
    """
    lowest, highest = array.min(initial=0), array.max(initial=0)
    if array.dtype.kind == "f" or lowest < 0 or highest > 65535:
        raise UserError(
            f"{path} has {array.dtype} values from {lowest:g} to {highest:g}, but PNG holds integers from 0 to 65535, "
            "as the first image has: convert files with other values separately"
        )
    return array.astype(np.uint16)


def describe(outcome: Outcome, image: Picture, labels: NDArray[np.uint8]) -> None:
    row = outcome.row
    row.shape = shape_text(image.shape)
    row.spacing = spacing_text(image.geometry)
    row.dtype = str(image.array.dtype)
    outcome.label_counts = count_labels(labels)
    row.label_counts = counts_text(outcome.label_counts)
    none = sum(outcome.label_counts.get(label, 0) for label in {0, outcome.ignored})
    row.foreground_fraction = f"{1 - none / max(labels.size, 1):.8g}"
    if not outcome.has_foreground:
        row.note = "no foreground"


def forget_labels(outcome: Outcome) -> None:
    """Describe a case whose labels are not known, rather than all background."""
    outcome.labelled, outcome.label_counts = False, {}
    row = outcome.row
    row.label_counts = row.foreground_fraction = row.resized_label_counts = ""
    row.note = "labels not known"


def resize_case_labels(
    outcome: Outcome, dataset: Dataset, image: Picture, labels: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize a case's labels, and describe in its row what is written and what was lost."""
    row, before = outcome.row, outcome.label_counts
    resized = resize_labels(labels, size)
    geometry = image.geometry and resized_geometry(image.geometry, in_plane(image.shape), size)
    row.resized_shape, row.resized_spacing = shape_text(resized.shape), spacing_text(geometry)
    outcome.label_counts = count_labels(resized)
    row.resized_label_counts = counts_text(outcome.label_counts)
    outcome.vanished = vanished_objects(labels, size)
    outcome.vanished.pop(dataset.labels.get("ignore", -1), None)
    row.vanished_objects = counts_text(outcome.vanished)
    if lost := [name for name, value in dataset.labels.items() if value in before.keys() - outcome.label_counts.keys()]:
        row.note = f"lost by resizing: {', '.join(lost)}"
    return resized


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def spacing_text(geometry: Geometry | None) -> str:
    return "" if geometry is None else "x".join(f"{length:.6g}" for length in geometry.spacing[::-1])


def count_labels(labels: NDArray[np.uint8]) -> dict[int, int]:
    values, counts = histogram(labels)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def counts_text(counts: Mapping[int, int]) -> str:
    return " ".join(f"{value}:{count}" for value, count in counts.items())


def write_case(folder: Path, case: str, images: list[Picture], labels: Picture | None, flat: bool = False) -> None:
    """Write a case's images, one file for each picture or channel, and its label map, if it has one.

    Only colours of 8 bits share a file: nnU-Net's reader would keep 8 bits of others.
    """
    planes = [plane for image in images for plane in channel_planes(image)]
    try:
        for channel, plane in enumerate(planes):
            write(plane, folder / "images" / f"{case}_{channel:04}", flat)
        if labels:
            write(labels, folder / "labels" / case, flat)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else reason(error)
        raise UserError(
            f"{case} could not be written to {folder}: {why}; make room or set nnUNet_raw (or --output) elsewhere"
        ) from error


def channel_planes(image: Picture) -> list[Picture]:
    array = image.array
    if array.ndim == len(image.shape) or (image.geometry is None and array.dtype == np.uint8 and array.shape[2] == 3):
        return [image]
    return [image._replace(array=np.ascontiguousarray(plane)) for plane in np.moveaxis(array, -1, 0)]


def write(picture: Picture, stem: Path, flat: bool) -> None:
    if picture.geometry is None:
        write_image(picture.array, stem.with_name(stem.name + PNG))
    else:
        write_volume(picture, stem.with_name(stem.name + NIFTI), flat)


def source_files(case: Case) -> list[Path]:
    """List all files that a case comes from, each once."""
    paths = (*case.images, *(case.label or ()))
    return list(dict.fromkeys(file for path in paths for file in files_behind(path)))


def source_digest(case: Case) -> str:
    """SHA-256 of all files that a case comes from."""
    return digest_of_unchanged(tuple((file, file.stat().st_mtime_ns) for file in source_files(case)))


@lru_cache(maxsize=2)
def digest_of_unchanged(files: tuple[tuple[Path, int], ...]) -> str:
    """SHA-256 of files with the times of their last changes; the pages of a file, which share it, come in a row."""
    return digest(*(file for file, _ in files))
