"""Kvasir-Sessile: small, flat polyps in colonoscopy (ConDSeg)."""

from collections.abc import Iterator
from dataclasses import replace

from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.datasets import kvasir_seg
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "sessile-main-Kvasir-SEG/images/*.jpg"
MASKS = "sessile-main-Kvasir-SEG/masks/*.jpg"


def find_cases(source: Source) -> Iterator[Case]:
    return paired(source, IMAGES, MASKS)


DATASET = replace(
    kvasir_seg.DATASET,
    name="kvasir_sessile",
    dataset_id=517,
    folder_name="KvasirSessile",
    title="Kvasir-Sessile: sessile polyps",
    citation="Jha et al., A Comprehensive Study on Colorectal Polyp Segmentation With ResUNet++, Conditional Random "
    "Field and Test-Time Augmentation, IEEE Journal of Biomedical and Health Informatics 25(6):2029-2040 (2021)",
    layout=f"{IMAGES} and {MASKS}",
    find_cases=find_cases,
    num_cases=196,
)
