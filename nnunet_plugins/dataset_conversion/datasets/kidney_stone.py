"""Kidney stones in coronal CT (DCSNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "{image,images}/*.{png,tif,tiff,jpg,jpeg,bmp}"
MASKS = "{mask,masks,label,labels}/*.{png,tif,tiff,jpg,jpeg,bmp}"


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS)


DATASET = Dataset(
    name="kidney_stone",
    dataset_id=526,
    folder_name="KidneyStone",
    title="Kidney stones in coronal CT",
    page="https://universe.roboflow.com/",
    licence="the publisher's, see the page",
    citation="Roboflow Universe, Kidney stone instance segmentation dataset (2023)",
    modality="CT, 8 bits",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    to_labels=Binary(),
    labels={"background": 0, "stone": 1},
    num_cases=957,
    channels=("CT window",),  # not "CT": nnU-Net would clip all images to the intensities inside stones
    near_duplicates=True,  # neighbouring slices
    paper_validation=True,
    paper_split="drawn 7:1:2 by groups of near-duplicates",
    paper_ratio=(7, 1, 2),
)
