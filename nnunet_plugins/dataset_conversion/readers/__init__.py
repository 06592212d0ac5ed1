"""Lossless reading of images, volumes and masks: one module for each family of file formats."""

from pathlib import Path

from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers.images import image_array, mask_array, read_image
from nnunet_plugins.dataset_conversion.readers.volumes import read_volume

VOLUME_ENDINGS = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def read_picture(path: Path) -> Picture:
    """Read an image or a volume, as the file's ending says.

    Raises:
        UserError: the file is empty or damaged, or nnU-Net cannot train on its content.
    """
    return read_volume(path) if is_volume(path) else Picture(read_image(path, image_array))


def read_mask(paths: tuple[Path, ...], shape: tuple[int, ...]) -> Picture:
    """Read a segmentation ``(H, W)`` or ``(D, H, W)`` with the values that the file has."""
    (path,) = paths
    return read_volume(path) if is_volume(path) else Picture(read_image(path, mask_array))
