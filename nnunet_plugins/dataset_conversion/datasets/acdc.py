"""ACDC: the heart in short-axis cine MRI, at end-diastole and end-systole (DLKUNet)."""

from collections.abc import Iterator

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset, Part
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source

IMAGES = "{part}/patient#/patient#_frame#.nii.gz"
MASKS = "{part}/patient#/patient#_frame#_gt.nii.gz"
# Split of the 100 training patients that TransUNet's successors share: the other 70 are for training.
VALIDATION = {19, 21, 29, 33, 41, 50, 61, 71, 76, 80}
TEST = {2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95}


def find_cases(source: Source) -> Iterator[Case]:
    for folder in ("training", "testing"):
        yield from paired(
            source,
            IMAGES.format(part=folder),
            MASKS.format(part=folder),
            name=frame,
            group=lambda key: f"patient{patient(key)}",
            test=folder == "testing",
            paper_part=part if folder == "training" else None,
        )


def patient(key: str) -> str:
    return key.split("/")[0]


def frame(key: str) -> str:
    """Name of a frame, from the pattern's three numbers: folder, patient and frame."""
    return f"patient{patient(key)}_frame{key.split('/')[-1]}"


def part(key: str) -> Part:
    number = int(patient(key))
    return "test" if number in TEST else "val" if number in VALIDATION else "train"


DATASET = Dataset(
    name="acdc",
    dataset_id=521,
    folder_name="ACDC",
    title="ACDC: ventricles and myocardium in cine MRI",
    page="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    licence="CC BY-NC-SA 4.0, see the page",
    citation="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and "
    "Diagnosis: Is the Problem Solved?, IEEE Transactions on Medical Imaging 37(11):2514-2525 (2018)",
    modality="MRI",
    layout=f"{IMAGES} and {MASKS}, where {{part}} is training or testing",
    find_cases=find_cases,
    to_labels=LabelMap({0: 0, 1: 1, 2: 2, 3: 3}),
    labels={"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3},
    num_cases=300,
    channels=("cine MRI",),
    file_ending=NIFTI,
    paper_validation=True,
    paper_split="70, 10 and 20 of the 100 training patients for training, validation and testing",
)
