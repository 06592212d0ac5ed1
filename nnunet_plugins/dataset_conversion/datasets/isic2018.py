"""ISIC 2018, task 1: skin lesions in dermoscopic images (DCFFSNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "ISIC2018_Task1-2_Training_Input/ISIC_#.jpg"
MASKS = "ISIC2018_Task1_Training_GroundTruth/ISIC_#_segmentation.png"


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS, name="ISIC_{}".format)


DATASET = Dataset(
    name="isic2018",
    dataset_id=511,
    folder_name="ISIC2018",
    title="ISIC 2018 task 1: skin lesions",
    page="https://challenge.isic-archive.com/data/#2018",
    licence="CC BY-NC 4.0, see the page",
    citation="Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018, arXiv:1902.03368; Tschandl et al., "
    "The HAM10000 dataset, Scientific Data 5:180161 (2018)",
    modality="dermoscopy",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    to_labels=Binary(),
    labels={"background": 0, "lesion": 1},
    num_cases=2594,
)
