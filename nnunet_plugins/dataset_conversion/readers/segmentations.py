"""DICOM SEG: segments with numbers, in frames of which those without foreground may be left out."""

from pathlib import Path

import numpy as np

from nnunet_plugins.dataset_conversion.pictures import Geometry, Picture, last_line
from nnunet_plugins.errors import UserError


def read_segmentation(path: Path) -> Picture:
    """Read the segments' numbers as a volume, which may cover a part of its image.

    Raises:
        UserError: ``highdicom`` is missing, segments overlap, or the file is damaged.
    """
    try:
        from highdicom.seg import segread
    except ImportError:
        raise UserError(f"{path} is a DICOM segmentation, which highdicom reads: pip install highdicom") from None
    try:
        volume = segread(path).get_volume(combine_segments=True)
    except Exception as error:  # highdicom raises anything for a damaged file
        remedy = "save each segment in a file of its own" if "overlap" in str(error).lower() else "save it as NIfTI"
        raise UserError(f"{path} cannot be read as one label map ({last_line(error)}): {remedy}") from error
    affine = np.asarray(volume.affine)[:3]
    columns = affine[:, 2::-1]  # columns, rows, slices, which are x, y, z
    spacing = np.linalg.norm(columns, axis=0)
    geometry = Geometry(
        tuple(spacing.tolist()), tuple(affine[:, 3].tolist()), tuple((columns / spacing).ravel().tolist())
    )
    return Picture(np.asarray(volume.array), geometry, is_part=True)
