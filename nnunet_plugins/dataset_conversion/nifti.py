"""Check of NIfTI files, of which SimpleITK reads incomplete ones, and writes them, without an error."""

import gzip
import math
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np

CHUNK = 1 << 20


def check_nifti(path: Path) -> int:
    """Check that a NIfTI file has all its voxels, and count those that are not a number or infinite.

    SimpleITK would read these as 0.

    Returns:
        The number of such voxels; 0 for files of other formats, which are not looked at.

    Raises:
        OSError, EOFError, zlib.error, ImageFileError: not all voxels are there.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return 0
    image: Any = nibabel.load(path)  # reads the header
    offset, dtype = image.dataobj.offset, image.dataobj.dtype
    size = math.prod(image.dataobj.shape) * dtype.itemsize
    is_float = dtype.kind in "fc"
    length = bad = 0
    with cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        length += len(file.read(offset))
        while chunk := file.read(CHUNK * dtype.itemsize):  # to the checksum at the end
            if is_float:
                voxels = chunk[: max(0, offset + size - length)]
                bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(voxels, dtype, len(voxels) // dtype.itemsize))))
            length += len(chunk)
    if length < offset + size:
        raise EOFError(f"it ends after {length} of {offset + size} bytes")
    return bad
