"""DICOM: a series of slices in a folder, or a single image, in Hounsfield units where the file has them."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.pictures import SAME_GRID, Geometry, Picture, last_line, refuse_empty
from nnunet_plugins.errors import UserError

DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
SERIES, SERIES_NAME, CLASS = "0020|000e", "0008|103e", "0008|0016"
POSITION, ORIENTATION = "0020|0032", "0020|0037"
KIND, KINDS = "0028|0004", ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422")
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")


class Slice(NamedTuple):
    """Header of a file."""

    path: Path
    tags: Mapping[str, str]

    def numbers(self, tag: str) -> NDArray[np.float64]:
        try:
            return np.array([float(text) for text in self.tags[tag].split("\\")])
        except (KeyError, ValueError):
            name = "ImagePositionPatient" if tag == POSITION else "ImageOrientationPatient"
            raise UserError(
                f"{self.path} has no {name}, which the slices of a series need: export the series again, or convert it "
                "to NIfTI"
            ) from None


def is_dicom(path: Path) -> bool:
    """Whether a path is a file of DICOM, by its ending or its content, or a folder with such files."""
    if path.is_dir():
        return any(map(is_dicom, files_of(path)))
    if path.name.lower().endswith(DICOM_ENDINGS):
        return True
    if (path.suffix and not path.suffix[1:].isdecimal()) or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def files_of(folder: Path) -> list[Path]:
    """Files in a folder that may be slices, in order, without subfolders and the index of a disk."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
    )


def slices_of(path: Path) -> list[Slice]:
    files = [file for file in files_of(path) if is_dicom(file)] if path.is_dir() else [path]
    return [Slice(file, read_tags(file)) for file in files]


def read_dicom(path: Path) -> Picture:
    """Read a folder's series, or a file, as a volume ``(D, H, W)`` in the place that it has in the patient.

    Raises:
        UserError: the folder has several series, or its slices are not all there, or not all alike.
    """
    slices = slices_of(path)
    refuse_several_series(path, slices)
    if len(slices) > 1:
        slices, step = in_order(path, slices)
    images = [read_slice(one) for one in slices]
    first = images[0]
    for one, image in zip(slices, images, strict=True):
        if image.GetSize() != first.GetSize() or not np.allclose(image.GetSpacing()[:2], first.GetSpacing()[:2], 1e-3):
            raise UserError(f"{one.path} has another size or spacing than {slices[0].path}: move it out of the series")
    array = np.concatenate([plain_values(one, image) for one, image in zip(slices, images, strict=True)])
    spacing = (*first.GetSpacing()[:2], step if len(slices) > 1 else first.GetSpacing()[2])
    return Picture(array, Geometry(spacing, first.GetOrigin(), first.GetDirection()))


def read_tags(path: Path) -> dict[str, str]:
    refuse_empty(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be read as DICOM ({last_line(error)}): it is damaged or holds no image; export it again"
        ) from error
    return {tag: reader.GetMetaData(tag).strip("\0 ") for tag in reader.GetMetaDataKeys()}


def read_slice(one: Slice) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(one.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        syntax = re.search(rb"\x02\x00\x10\x00UI..([0-9.]+)", one.path.read_bytes()[:4096], re.DOTALL)
        name = syntax[1].decode() if syntax else ""
        if name and name not in UNCOMPRESSED:
            raise UserError(
                f"{one.path} is compressed ({name}) and cannot be decoded: decompress the series, for example with "
                "gdcmconv --raw"
            ) from error
        raise UserError(f"{one.path} cannot be read ({last_line(error)}): it is damaged; export it again") from error
    if image.GetDimension() > 2 and image.GetSize()[2] > 1:
        raise UserError(
            f"{one.path} has {image.GetSize()[2]} frames, whose places in space are not read: convert it to NIfTI, for "
            "example with dcm2niix"
        )
    return image


def plain_values(one: Slice, image: sitk.Image) -> NDArray:
    """Values ``(1, H, W)``, or colours ``(1, H, W, 3)``; SimpleITK has turned them so that larger ones are brighter."""
    if (kind := one.tags.get(KIND, "MONOCHROME2")) not in KINDS:
        raise UserError(f"{one.path} holds values as {kind}, but {' or '.join(KINDS)} is expected: save it as PNG")
    return sitk.GetArrayFromImage(image)


# ---- series ----------------------------------------------------------------------------------------------------------


def refuse_several_series(path: Path, slices: list[Slice]) -> None:
    series = Counter((one.tags.get(SERIES, ""), one.tags.get(SERIES_NAME, "")) for one in slices)
    if len(series) > 1:
        found = ", ".join(f"{name or number}: {files}" for (number, name), files in series.most_common(3))
        raise UserError(
            f"{path} has {len(series)} DICOM series (files of {found}), but one is expected: move each series into a "
            "folder of its own"
        )


def in_order(path: Path, slices: list[Slice]) -> tuple[list[Slice], float]:
    """Sort the slices along their normal, and give the distance from one to the next.

    Raises:
        UserError: they are not parallel, not at equal distances, or not at right angles to their stack.
    """
    orientation = slices[0].numbers(ORIENTATION)
    for one in slices:
        if not np.allclose(one.numbers(ORIENTATION), orientation, atol=1e-3):
            raise UserError(
                f"{one.path} is not parallel to {slices[0].path}, as the slices of a series are: move it, perhaps a "
                "localizer, out of the folder"
            )
    normal = np.cross(orientation[:3], orientation[3:])
    order = sorted(slices, key=lambda one: float(one.numbers(POSITION) @ normal))
    positions = np.array([one.numbers(POSITION) for one in order])
    steps = np.diff(positions @ normal)
    step = float(np.median(steps))
    for before, after, distance in zip(order[:-1], order[1:], steps, strict=True):
        names = f"{before.path} and {after.path.name}"
        if distance < 1e-3:
            raise UserError(
                f"{names} lie at the same place, as in a time series: move each volume into a folder of its own"
            )
        if abs(distance - step) > SAME_GRID * step:
            raise UserError(
                f"{names} are {distance:.4g} mm apart, but most slices {step:.4g} mm: slices are missing, or the "
                "distances vary; export the whole series again, or resample it to NIfTI"
            )
    sideways = np.abs(positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)).max()
    if sideways > SAME_GRID * step:
        raise UserError(
            f"{path} has slices that are shifted by up to {sideways:.4g} mm, as with a tilted gantry: resample the "
            "series to NIfTI, for example with dcm2niix"
        )
    return order, float((positions[-1] - positions[0]) @ normal / (len(order) - 1))
