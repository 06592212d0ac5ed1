"""2018 Data Science Bowl, stage 1: nuclei in microscopy of many kinds (DCFFSNet)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import read_mask
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError

IMAGES = "stage1_train/*/images/*.png"
MASKS = "stage1_train/*/masks/*.png"


def find_cases(source: Source) -> Iterator[Case]:
    masks: dict[Path, list[Path]] = {}
    for mask in source.find(MASKS).values():
        masks.setdefault(mask.parents[1], []).append(mask)
    for image in source.find(IMAGES).values():
        nuclei = masks.pop(image.parents[1], None)
        if nuclei:
            yield Case(image.stem, (image,), tuple(nuclei))
        else:
            source.problem(f"{image} has no mask: there is no PNG in {image.parents[1] / 'masks'}; download it again")
    for folder in masks:
        source.problem(f"{folder / 'masks'} has no image: there is no PNG in {folder / 'images'}; download it again")


def read_union(paths: tuple[Path, ...], shape: tuple[int, ...]) -> Picture:
    """Unite the masks of single nuclei."""
    union = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_mask((path,), shape).array
        if mask.shape != shape:
            ours, theirs = ("x".join(map(str, size[::-1])) for size in (shape, mask.shape))
            raise UserError(f"{path} is {theirs}, but its image is {ours}: download it again")
        union = np.maximum(union, mask)
    return Picture(union)


DATASET = Dataset(
    name="dsb2018",
    dataset_id=514,
    folder_name="DSB2018",
    title="2018 Data Science Bowl (BBBC038), stage 1: nuclei",
    page="https://bbbc.broadinstitute.org/BBBC038",
    licence="CC0",
    citation="Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature "
    "Methods 16:1247-1253 (2019)",
    modality="microscopy",
    layout=f"{IMAGES} and, one for each nucleus, {MASKS}",
    find_cases=find_cases,
    read_label=read_union,
    to_labels=Binary(),
    labels={"background": 0, "nucleus": 1},
    num_cases=670,
)
