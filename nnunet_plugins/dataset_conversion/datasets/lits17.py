"""LiTS17: the liver and its tumours in CT (MedFusion-TransNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset, Part
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "volume-#.{nii,nii.gz}"
MASKS = "segmentation-#.{nii,nii.gz}"
FIRST_TEST_VOLUME = 101


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS, name=lambda number: f"volume_{int(number):03}", paper_part=part)


def part(number: str) -> Part:
    """Part of a scan: the paper splits 130 scans into 100 and 30; of the published 131, we test on the last 30."""
    return "test" if int(number) >= FIRST_TEST_VOLUME else "train"


DATASET = Dataset(
    name="lits17",
    dataset_id=524,
    folder_name="LiTS17",
    title="LiTS 2017: liver and liver tumours",
    page="https://competitions.codalab.org/competitions/17094",
    licence="CC BY-NC-ND 4.0, see the page",
    citation="Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84:102680 (2023)",
    modality="CT",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    to_labels=LabelMap({0: 0, 1: 1, 2: 2}),
    labels={"background": 0, "liver": 1, "tumour": 2},
    regions={"liver": (1, 2), "tumour": (2,)},
    num_cases=131,
    channels=("CT",),
    file_ending=NIFTI,
    paper_split="101 for training, the last 30 for validation",
)
