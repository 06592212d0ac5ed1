"""Lossless reading of images, volumes and masks: one module for each family of file formats."""

from functools import lru_cache
from pathlib import Path

from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers.arrays import ARRAY_ENDINGS, is_array, read_array
from nnunet_plugins.dataset_conversion.readers.dicom import (
    CLASS,
    DICOM_ENDINGS,
    SEGMENTATIONS,
    files_of,
    is_dicom,
    read_dicom,
    slices_of,
)
from nnunet_plugins.dataset_conversion.readers.images import read_image, read_mask_image
from nnunet_plugins.dataset_conversion.readers.pages import Pages, Reading, as_mask, as_picture, page_path, split_page
from nnunet_plugins.dataset_conversion.readers.segmentations import read_segmentation
from nnunet_plugins.dataset_conversion.readers.tiff import count_tiff_pages, read_tiff
from nnunet_plugins.dataset_conversion.readers.volumes import data_files, has_one_slice, read_volume
from nnunet_plugins.errors import UserError

VOLUME_ENDINGS = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".ppm.gz", ".pgm.gz")
IMAGE_ENDINGS = (*PICTURE_ENDINGS, *ARRAY_ENDINGS, *DICOM_ENDINGS)


@lru_cache(maxsize=2)
def read_stack(path: Path, is_mask: bool, changed: int) -> Pages:
    """Read a file whose pages are asked for one after the other; ``changed`` is the time of its last change."""
    return read_tiff(path, is_mask) if is_tiff(path) else read_array(path, is_mask)


def read_pages(path: Path, is_mask: bool) -> Pages:
    """Read the file that a path with or without the number of a page names."""
    file, page = split_page(path)
    if page is not None and file.is_file():
        return read_stack(file, is_mask, file.stat().st_mtime_ns)
    return read_tiff(file, is_mask) if is_tiff(file) else read_array(file, is_mask)


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def is_tiff(path: Path) -> bool:
    return path.name.lower().endswith((".tif", ".tiff"))


def has_pages(path: Path) -> bool:
    """Whether the file's format can hold several pages, and values that PNG cannot hold."""
    file, _ = split_page(path)
    return is_tiff(file) or is_array(file)


def read_picture(path: Path, reading: Reading = None) -> Picture:
    """Read an image or a volume, as the file's ending says.

    Raises:
        UserError: the file is empty or damaged, or nnU-Net cannot train on its content.
    """
    file, _ = split_page(path)
    if is_volume(file):
        return read_volume(file)
    if is_dicom(file):
        return read_dicom(file)
    if has_pages(file):
        return as_picture(read_pages(path, is_mask=False), path, reading)
    return Picture(read_image(file))


def read_mask(paths: tuple[Path, ...], shape: tuple[int, ...], reading: Reading = None) -> Picture:
    """Read a segmentation ``(H, W)`` or ``(D, H, W)`` with the values that the file has."""
    (path,) = paths
    file, _ = split_page(path)
    if is_volume(file):
        mask = read_volume(file)
    elif is_dicom(file):
        mask = read_dicom_mask(file)
    elif has_pages(file):
        mask = as_mask(read_pages(path, is_mask=True), path, reading)
    else:
        mask = Picture(read_mask_image(file))
    if mask.num_channels > 1:
        raise UserError(f"{path} has {mask.num_channels} channels, but a mask has one: save a file for each")
    return mask


def read_dicom_mask(path: Path) -> Picture:
    """Read a segmentation object, alone in its folder or as a file, or a series of masks."""
    slices = slices_of(path)
    if slices[0].tags.get(CLASS) in SEGMENTATIONS and len(slices) == 1:
        return read_segmentation(slices[0].path)
    return read_dicom(path)


def files_behind(path: Path) -> list[Path]:
    """List the files that are opened for a path: those of a series, of a page, or of a header and its voxels."""
    file, _ = split_page(path)
    return files_of(file) if file.is_dir() else [file, *data_files(file)]


def is_flat(path: Path, reading: Reading = None) -> bool:
    """Whether a file holds an image rather than a volume of several slices."""
    if has_pages(path):
        return reading != "volume" or count_pages(path) == 1
    if path.is_dir():
        return len(files_of(path)) == 1
    return not is_volume(path) or has_one_slice(path)


def count_pages(path: Path) -> int:
    """Number of pages of a file; 1 if it is damaged, which reading will say."""
    if is_tiff(path):
        return count_tiff_pages(path)
    try:
        content = read_pages(page_path(path, 1), is_mask=False) if is_array(path) else None
    except UserError:
        return 1
    return len(content.array) if content and content.several else 1
