"""ISIC 2016, part 1: skin lesions in dermoscopic images (ConDSeg)."""

from collections.abc import Iterator, Mapping

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset, Part
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "ISBI2016_ISIC_Part1_{part}_Data/ISIC_#.jpg"
MASKS = "ISBI2016_ISIC_Part1_{part}_GroundTruth/ISIC_#_Segmentation.png"


PARTS: dict[str, Part] = {"Training": "train", "Test": "test"}


def find_parts(source: Source, images: str, masks: str, parts: Mapping[str, Part]) -> Iterator[Case]:
    """Find the cases of a challenge that publishes each part in folders of its own, ``{part}`` in the patterns."""
    for folder, part in parts.items():
        patterns = images.format(part=folder), masks.format(part=folder)
        yield from paired(source, *patterns, name="ISIC_{}".format, test=part == "test", paper_part=part)


def find_cases(source: Source) -> Iterator[Case]:
    return find_parts(source, IMAGES, MASKS, PARTS)


DATASET = Dataset(
    name="isic2016",
    dataset_id=512,
    folder_name="ISIC2016",
    title="ISIC 2016 part 1: skin lesions",
    page="https://challenge.isic-archive.com/data/#2016",
    licence="CC0",
    citation="Gutman et al., Skin Lesion Analysis toward Melanoma Detection (ISBI 2016), arXiv:1605.01397",
    modality="dermoscopy",
    layout=f"{IMAGES} and {MASKS}, where {{part}} is Training or Test",
    find_cases=find_cases,
    to_labels=Binary(),
    labels={"background": 0, "lesion": 1},
    num_cases=1279,
    paper_split="900 for training, the 379 of the test set for validation",
)
