"""Writing of pictures and volumes, and reading of all files below a folder."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

Numbers = tuple[float, ...]


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_volume(
    path: Path,
    array: np.ndarray,
    spacing: Numbers = (1, 1, 2),
    origin: Numbers = (3, 4, 5),
    direction: Numbers = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    """Write a volume ``(D, H, W)`` with its geometry, or another array with SimpleITK's."""
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each file below the folder, hidden files too, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
