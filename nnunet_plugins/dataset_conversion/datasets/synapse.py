"""Synapse multi-organ CT, "Beyond the Cranial Vault": eight abdominal organs (DLKUNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset, Part
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "Training/img/img#.nii.gz"
MASKS = "Training/label/label#.nii.gz"
ORGANS = {  # published number
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "pancreas": 11,
}
OTHER_ORGANS = frozenset({5, 9, 10, 12, 13})  # oesophagus, vena cava, portal and splenic vein, adrenal glands
TEST = {"0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038"}  # TransUNet's


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS, name="case{}".format, paper_part=part)


def part(number: str) -> Part:
    return "test" if number in TEST else "train"


DATASET = Dataset(
    name="synapse",
    dataset_id=520,
    folder_name="Synapse",
    title="Synapse multi-organ CT (BTCV), eight of thirteen organs",
    page="https://www.synapse.org/Synapse:syn3193805",
    licence="after registration, see the page",
    citation="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault - Workshop and Challenge (2015)",
    modality="CT",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    to_labels=LabelMap({0: 0} | {number: i for i, number in enumerate(ORGANS.values(), 1)}, dropped=OTHER_ORGANS),
    labels={"background": 0} | {organ: i for i, organ in enumerate(ORGANS, 1)},
    num_cases=30,
    channels=("CT",),
    file_ending=NIFTI,
    paper_split="TransUNet's 18 for training and 12 for validation",
)
