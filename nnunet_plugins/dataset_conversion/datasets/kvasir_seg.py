"""Kvasir-SEG: polyps in colonoscopy (ConDSeg, MedFusion-TransNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import Threshold
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "Kvasir-SEG/images/*.jpg"
MASKS = "Kvasir-SEG/masks/*.jpg"


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS)


DATASET = Dataset(
    name="kvasir_seg",
    dataset_id=516,
    folder_name="KvasirSEG",
    title="Kvasir-SEG: polyps",
    page="https://datasets.simula.no/kvasir-seg/",
    licence="research and education only, see the page",
    citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MultiMedia Modeling 2020, 451-462",
    modality="colonoscopy",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    to_labels=Threshold(127),  # the masks are JPEG
    labels={"background": 0, "polyp": 1},
    num_cases=1000,
)
