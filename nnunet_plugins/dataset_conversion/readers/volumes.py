"""Volumes of NIfTI, MetaImage and NRRD."""

import zlib
from pathlib import Path

import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError

from nnunet_plugins.dataset_conversion.nifti import check_nifti
from nnunet_plugins.dataset_conversion.pictures import (
    Geometry,
    Picture,
    count_not_finite,
    last_line,
    refuse_empty,
    refuse_not_finite,
)
from nnunet_plugins.errors import UserError


def read_volume(path: Path) -> Picture:
    refuse_empty(path)
    try:
        bad = check_nifti(path)
        volume = sitk.ReadImage(str(path))
    except (OSError, EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise UserError(
            f"{path} cannot be read ({last_line(error)}): it is damaged or incomplete; download it again"
        ) from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() > 1:
        channels = volume.GetNumberOfComponentsPerPixel()
        raise UserError(
            f"{path} has {volume.GetDimension()} dimensions and {channels} channel(s), but a volume with one is "
            "expected: save a file for each channel"
        )
    array = sitk.GetArrayFromImage(volume)
    refuse_not_finite(path, bad or count_not_finite(array), array.size, "voxels")
    return Picture(array, Geometry(volume.GetSpacing(), volume.GetOrigin(), volume.GetDirection()))


def data_files(path: Path) -> list[Path]:
    """List the file with the voxels that a MetaImage header points to, if they are not in the header's file."""
    if path.suffix.lower() != ".mhd":
        return []
    entries = (line.partition("=") for line in path.read_text(errors="replace").splitlines())
    names = [value.strip() for key, _, value in entries if key.strip() == "ElementDataFile"]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]
