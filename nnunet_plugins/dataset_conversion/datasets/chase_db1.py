"""CHASE_DB1: vessels of the retina, both eyes of 14 children (MedFusion-TransNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset, Part
from nnunet_plugins.dataset_conversion.labels import Binary
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "Image_#{eye}.jpg"
MASKS = "Image_#{eye}_1stHO.png"  # the first observer's
LAST_TRAINING_CHILD = 10


def find_cases(source: Source) -> Iterator[Case]:
    for eye in "LR":
        images, masks = IMAGES.format(eye=eye), MASKS.format(eye=eye)
        yield from paired(
            source, images, masks, name=f"Image_{{}}{eye}".format, group="child{}".format, paper_part=part
        )


def part(child: str) -> Part:
    return "train" if int(child) <= LAST_TRAINING_CHILD else "test"


DATASET = Dataset(
    name="chase_db1",
    dataset_id=523,
    folder_name="CHASEDB1",
    title="CHASE_DB1: retinal vessels",
    page="https://researchinnovation.kingston.ac.uk/en/datasets/chasedb1-retinal-vessel-reference-dataset-4/",
    licence="CC BY 4.0, see the page",
    citation="Fraz et al., An Ensemble Classification-Based Approach Applied to Retinal Blood Vessel Segmentation, "
    "IEEE Transactions on Biomedical Engineering 59(9):2538-2548 (2012)",
    modality="fundus photography",
    layout=f"{IMAGES} and {MASKS}, where {{eye}} is L or R",
    find_cases=find_cases,
    to_labels=Binary(),
    labels={"background": 0, "vessel": 1},
    num_cases=28,
    paper_split="the first 20 images for training, the last 8 for validation",
)
