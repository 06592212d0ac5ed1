"""Volumes of NIfTI, MetaImage and NRRD."""

import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

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
        if "orthonormal" in str(error):
            raise UserError(
                f"{path} has axes that are not at right angles, which SimpleITK, nnU-Net's usual reader, refuses: "
                "resample it"
            ) from error
        remedy = "it is damaged or incomplete; download it again"
        if path.suffix in (".MHA", ".MHD"):
            remedy = f"rename it, as SimpleITK knows {path.suffix.lower()} in small letters only"
        raise UserError(f"{path} cannot be read ({last_line(error)}): {remedy}") from error
    array = channels_last(sitk.GetArrayFromImage(volume), volume.GetNumberOfComponentsPerPixel(), path)
    refuse_not_finite(path, bad or count_not_finite(array), array.size, "voxels")
    return Picture(array, geometry_of(volume))


def channels_last(array: NDArray, components: int, path: Path) -> NDArray:
    """Bring an array of SimpleITK's, with any number of axes, into the form ``(D, H, W)`` or ``(D, H, W, C)``.

    Raises:
        UserError: it has two more axes than space has.
    """
    space = array.shape[:-1] if components > 1 else array.shape
    space = (1,) * (3 - len(space)) + space
    further = [length for length in (*space[:-3], components) if length > 1]
    if len(further) > 1:
        sizes = " x ".join(map(str, (*space[::-1], *(() if components == 1 else (components,)))))
        raise UserError(f"{path} has the axes {sizes}, but three axes and channels are expected: save a file for each")
    if components > 1:
        return array.reshape(*space[-3:], components)
    return np.moveaxis(array.reshape(-1, *space[-3:]), 0, -1) if further else array.reshape(space[-3:])


def geometry_of(volume: sitk.Image) -> Geometry:
    """Place of a volume; a file with two axes lies in the plane z = 0."""
    axes = min(volume.GetDimension(), 3)
    direction = np.eye(3)
    direction[:axes, :axes] = np.reshape(volume.GetDirection(), (volume.GetDimension(),) * 2)[:axes, :axes]
    spacing, origin = (*volume.GetSpacing()[:axes], 1.0)[:3], (*volume.GetOrigin()[:axes], 0.0)[:3]
    return Geometry(spacing, origin, tuple(direction.ravel().tolist()))


def has_one_slice(path: Path) -> bool:
    """Whether a volume's header says that it is an image; a damaged header, which reading will name, says nothing."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return True
    return reader.GetDimension() < 3 or 1 in reader.GetSize()[:3]


def data_files(path: Path) -> list[Path]:
    """List the file with the voxels that a MetaImage header points to, if they are not in the header's file."""
    if path.suffix.lower() != ".mhd":
        return []
    entries = (line.partition("=") for line in path.read_text(errors="replace").splitlines())
    names = [value.strip() for key, _, value in entries if key.strip() == "ElementDataFile"]
    return [path.parent / name for name in names if (path.parent / name).is_file()]
