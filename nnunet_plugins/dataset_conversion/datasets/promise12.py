"""PROMISE12: the prostate in T2-weighted MRI (MedFusion-TransNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "Case#.mhd"
MASKS = "Case#_segmentation.mhd"


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS, name="Case{}".format)


DATASET = Dataset(
    name="promise12",
    dataset_id=522,
    folder_name="PROMISE12",
    title="PROMISE12: prostate in T2-weighted MRI",
    page="https://promise12.grand-challenge.org/",
    licence="CC BY 4.0, see the page",
    citation="Litjens et al., Evaluation of prostate segmentation algorithms for MRI: The PROMISE12 challenge, Medical "
    "Image Analysis 18(2):359-373 (2014)",
    modality="MRI",
    layout=f"{IMAGES} with Case#.raw, and {MASKS} with Case#_segmentation.raw",
    find_cases=find_cases,
    to_labels=LabelMap({0: 0, 1: 1}),
    labels={"background": 0, "prostate": 1},
    num_cases=50,
    channels=("T2",),
    file_ending=NIFTI,
)
