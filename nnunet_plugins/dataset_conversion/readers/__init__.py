"""Lossless reading of images, volumes and masks: one module for each family of file formats."""

from pathlib import Path

from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers.images import read_image, read_mask_image
from nnunet_plugins.dataset_conversion.readers.pages import Reading, as_mask, as_picture, split_page
from nnunet_plugins.dataset_conversion.readers.tiff import count_tiff_pages, read_tiff
from nnunet_plugins.dataset_conversion.readers.volumes import has_one_slice, read_volume
from nnunet_plugins.errors import UserError

VOLUME_ENDINGS = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".ppm.gz", ".pgm.gz")


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def is_tiff(path: Path) -> bool:
    return split_page(path)[0].name.lower().endswith((".tif", ".tiff"))


def has_pages(path: Path) -> bool:
    """Whether the file's format can hold several pages, and values that PNG cannot hold."""
    return is_tiff(path)


def read_picture(path: Path, reading: Reading = None) -> Picture:
    """Read an image or a volume, as the file's ending says.

    Raises:
        UserError: the file is empty or damaged, or nnU-Net cannot train on its content.
    """
    file, _ = split_page(path)
    if is_volume(file):
        return read_volume(file)
    if is_tiff(file):
        return as_picture(read_tiff(file, is_mask=False), path, reading)
    return Picture(read_image(file))


def read_mask(paths: tuple[Path, ...], shape: tuple[int, ...], reading: Reading = None) -> Picture:
    """Read a segmentation ``(H, W)`` or ``(D, H, W)`` with the values that the file has."""
    (path,) = paths
    file, _ = split_page(path)
    if is_volume(file):
        mask = read_volume(file)
    elif is_tiff(file):
        mask = as_mask(read_tiff(file, is_mask=True), path, reading)
    else:
        mask = Picture(read_mask_image(file))
    if mask.num_channels > 1:
        raise UserError(f"{path} has {mask.num_channels} channels, but a mask has one: save a file for each")
    return mask


def is_flat(path: Path, reading: Reading = None) -> bool:
    """Whether a file holds an image rather than a volume of several slices."""
    file, page = split_page(path)
    if is_tiff(file) and page is None and reading == "volume":
        return count_pages(file) == 1
    return not is_volume(file) or has_one_slice(file)


def count_pages(path: Path) -> int:
    return count_tiff_pages(path) if is_tiff(path) else 1
