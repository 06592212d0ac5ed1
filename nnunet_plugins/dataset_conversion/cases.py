"""One case: read, checked, written without loss. This is what worker processes do."""

import errno
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset
from nnunet_plugins.dataset_conversion.labels import histogram
from nnunet_plugins.dataset_conversion.pictures import (
    Picture,
    data_files,
    grid_difference,
    one_channel,
    write_image,
    write_volume,
)
from nnunet_plugins.dataset_conversion.source import UNPACKED
from nnunet_plugins.errors import UserError

THUMBNAIL = 32


@dataclass
class Row:
    """A case in ``conversion_report.csv``."""

    case: str
    """nnU-Net's identifier."""
    part: str = ""
    """``Tr`` or ``Ts``; empty for a case that was left out."""
    group: str = ""
    images: str = ""
    label: str = ""
    sha256: str = ""
    """Of the bytes of all source files."""
    shape: str = ""
    spacing: str = ""
    dtype: str = ""
    label_counts: str = ""
    """Pixels or voxels of each label."""
    foreground_fraction: str = ""
    note: str = ""


@dataclass
class Outcome:
    """What a worker says of a case."""

    row: Row
    label_counts: dict[int, int] = field(default_factory=dict)
    thumbnail: NDArray[np.float32] | None = None
    problem: str = ""
    left_out: bool = False

    @property
    def has_foreground(self) -> bool:
        return not self.label_counts.keys() <= {0}


def identifier(name: str) -> str:
    """A published name as a part of file names: letters, digits, ``_`` and ``-``, of any script."""
    return re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name))


def convert_case(dataset: Dataset, trust_image_geometry: bool, root: Path, folder: Path | None, case: Case) -> Outcome:
    """Check a case and write it to ``folder/images`` and ``folder/labels``.

    Args:
        dataset: how to read, and what is expected.
        trust_image_geometry: whether a mask may have another grid than its image.
        root: of the download, to which paths in the report are relative.
        folder: where to write; None: nowhere.
        case: the case.

    Returns:
        What was found; a flaw of the data is a ``problem``.

    Raises:
        UserError: nothing can be written any more.
    """
    row = Row(identifier(case.name), group=case.group)
    row.images, row.label = (relative(files, root) for files in (case.images, case.label))
    outcome = Outcome(row)
    try:
        images = [fit_channels(dataset.read_image(path), path, dataset, len(case.images)) for path in case.images]
        image = images[0]
        for other, path in zip(images[1:], case.images[1:], strict=True):
            check_match(image, other, case.images[0], path, trust_image_geometry, "channel")
        mask = dataset.read_label(case.label, image.shape)
        check_match(image, mask, case.images[0], case.label[0], trust_image_geometry, "mask")
        labels = to_labels(dataset, mask, case.label[0])
        row.sha256 = digest(source_files(case))
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
    if folder:
        write_case(folder, row.case, images, Picture(labels, image.geometry))
    return outcome


def relative(paths: Iterable[Path], root: Path) -> str:
    """Paths for the report; those of archives as they are in there."""
    texts = []
    for path in paths:
        unpacked = [i for i, part in enumerate(path.parts) if part.startswith(UNPACKED)]
        texts.append(Path(*path.parts[unpacked[-1] + 1 :]) if unpacked else path.relative_to(root))
    return (
        " ".join(map(Path.as_posix, texts)) if len(texts) < 5 else f"{texts[0].parent.as_posix()}/ ({len(texts)} files)"
    )


def fit_channels(picture: Picture, path: Path, dataset: Dataset, num_files: int) -> Picture:
    """The picture with the channels that the dataset declares.

    Raises:
        UserError: it has others, or its values are too large for PNG.
    """
    array = picture.array
    if picture.geometry is not None:
        if dataset.file_ending != NIFTI:
            raise UserError(f"{path} is a volume, but the other images are two-dimensional: convert them separately")
        return picture
    if dataset.file_ending == NIFTI:
        raise UserError(f"{path} is a two-dimensional image, but the others are volumes: convert them separately")
    expected = len(dataset.channels) // num_files
    if array.ndim == 3 and expected == 1:
        array = one_channel(array, path)
    elif array.ndim == 2 and expected == 3:
        array = np.repeat(array[..., None], 3, -1)
    elif (channels := 1 if array.ndim == 2 else array.shape[-1]) != expected:
        raise UserError(f"{path} has {channels} channels, but {expected} are expected: name them with --channels")
    if array.dtype not in (np.uint8, np.uint16):
        if array.size and (array.min() < 0 or array.max() > np.iinfo(np.uint16).max):
            raise UserError(
                f"{path} has values from {array.min()} to {array.max()}, but PNG holds 0 to 65535: use NIfTI"
            )
        array = array.astype(np.uint16)
    return Picture(array)


def check_match(
    image: Picture, other: Picture, image_path: Path, path: Path, trust_image_geometry: bool, what: str
) -> None:
    if image.shape != other.shape:
        ours, theirs = ("x".join(map(str, picture.shape[::-1])) for picture in (image, other))
        raise UserError(
            f"{path} is {theirs}, but its image {image_path} is {ours}: one of them is not the published file"
        )
    if not trust_image_geometry and (difference := grid_difference(image, other)):
        raise UserError(
            f"{path} lies elsewhere than its image {image_path}: it has {difference}; mend its header, or give "
            f"--trust-image-geometry if only the {what}'s header is wrong"
        )


def to_labels(dataset: Dataset, mask: Picture, path: Path) -> NDArray[np.uint8]:
    array = mask.array
    if array.dtype.kind == "f" and (np.rint(array) == array).all() and np.abs(array).max(initial=0) < 2**31:
        array = array.astype(np.int32)
    if array.dtype.kind in "iu" and array.min(initial=0) >= 0 and array.max(initial=0) < 2**16:
        array = array.astype(np.uint16)
    try:
        return dataset.to_labels(array)
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def describe(outcome: Outcome, image: Picture, labels: NDArray[np.uint8]) -> None:
    row = outcome.row
    row.shape = "x".join(map(str, image.shape))
    row.spacing = "" if image.geometry is None else "x".join(f"{s:.6g}" for s in image.geometry.spacing[::-1])
    row.dtype = str(image.array.dtype)
    values, counts = histogram(labels)
    outcome.label_counts = dict(zip(values.tolist(), counts.tolist(), strict=True))
    row.label_counts = " ".join(f"{value}:{count}" for value, count in outcome.label_counts.items())
    row.foreground_fraction = f"{1 - outcome.label_counts.get(0, 0) / max(labels.size, 1):.8g}"
    if not outcome.has_foreground:
        row.note = "no foreground"


def thumbnail(picture: Picture) -> NDArray[np.float32]:
    """``(32, 32)``, mean 0, length 1, so that the product of two is their correlation."""
    array = picture.array
    grey = array if array.ndim == 2 else array.mean(-1 if picture.geometry is None else 0)
    image = Image.fromarray(np.asarray(grey, np.float32))
    small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    small = small - small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-12)


def write_case(folder: Path, case: str, images: list[Picture], labels: Picture) -> None:
    """Write a case's images, one file for each picture, and its label map.

    A colour image of 16 bits becomes three files: nnU-Net's reader would keep 8 bits of it.
    """
    planes = [plane for image in images for plane in channel_planes(image)]
    try:
        for channel, plane in enumerate(planes):
            write(plane, folder / "images" / f"{case}_{channel:04}")
        write(labels, folder / "labels" / case)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise UserError(
            f"{case} could not be written to {folder}: {reason}; make room or set nnUNet_raw elsewhere"
        ) from error


def channel_planes(image: Picture) -> list[Picture]:
    if image.geometry is None and image.array.ndim == 3 and image.array.dtype != np.uint8:
        return [Picture(np.ascontiguousarray(plane)) for plane in np.moveaxis(image.array, -1, 0)]
    return [image]


def write(picture: Picture, stem: Path) -> None:
    if picture.geometry is None:
        write_image(picture.array, stem.with_name(stem.name + ".png"))
    else:
        write_volume(picture, stem.with_name(stem.name + NIFTI))


def source_files(case: Case) -> list[Path]:
    """All files that a case comes from, once each."""
    paths = dict.fromkeys((*case.images, *case.label))
    return list(dict.fromkeys(file for path in paths for file in (path, *data_files(path))))


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' bytes, one after the other.

    Raises:
        UserError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    total.update(chunk)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): check it and its permissions") from error
    return total.hexdigest()
