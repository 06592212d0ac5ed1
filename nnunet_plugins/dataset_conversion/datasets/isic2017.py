"""ISIC 2017, part 1: skin lesions in dermoscopic images (ConDSeg)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset, Part
from nnunet_plugins.dataset_conversion.datasets import isic2016
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "ISIC-2017_{part}_Data/ISIC_#.jpg"
MASKS = "ISIC-2017_{part}_Part1_GroundTruth/ISIC_#_segmentation.png"


PARTS: dict[str, Part] = {"Training": "train", "Validation": "val", "Test_v2": "test"}


def find_cases(source: Source) -> Iterator[Case]:
    return isic2016.find_parts(source, IMAGES, MASKS, PARTS)


DATASET = Dataset(
    name="isic2017",
    dataset_id=513,
    folder_name="ISIC2017",
    title="ISIC 2017 part 1: skin lesions",
    page="https://challenge.isic-archive.com/data/#2017",
    licence="CC0",
    citation="Codella et al., Skin Lesion Analysis Toward Melanoma Detection (ISBI 2017), arXiv:1710.05006",
    modality="dermoscopy",
    layout=f"{IMAGES} and {MASKS}, where {{part}} is Training, Validation or Test_v2",
    find_cases=find_cases,
    to_labels=Binary(),
    labels={"background": 0, "lesion": 1},
    num_cases=2750,
    paper_validation=True,
    paper_split="2000 for training, 150 for validation, 600 for testing",
)
