"""Figshare's brain tumours: slices of contrast-enhanced T1-weighted MRI (DCSNet)."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pictures import Picture, refuse_empty
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError

FILES = "#.mat"


def find_cases(source: Source) -> Iterator[Case]:
    for number, path in sorted(source.find(FILES).items(), key=lambda found: int(found[0])):
        try:
            patient = "".join(map(chr, read_field(path, "PID").ravel(order="F")))
        except UserError as error:
            source.problem(str(error))
            continue
        yield Case(f"slice_{int(number):04}", (path,), (path,), group=patient)


def read_field(path: Path, name: str) -> NDArray:
    """Read a field of the structure ``cjdata`` from a MATLAB 7.3 file, which is HDF5 with the axes in reverse order.

    Text is read as numbers of characters.

    Raises:
        UserError: the file or the field cannot be read.
    """
    refuse_empty(path)
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["cjdata"][name]).T
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} has no cjdata/{name} in MATLAB 7.3's format ({error}): download it again") from error


def read_slice(path: Path) -> Picture:
    return Picture(read_field(path, "image"))


def read_tumor(paths: tuple[Path, ...], shape: tuple[int, ...]) -> Picture:
    (path,) = paths
    return Picture(read_field(path, "tumorMask"))


DATASET = Dataset(
    name="brain_tumor",
    dataset_id=525,
    folder_name="BrainTumor",
    title="Figshare brain tumours of less than 1 % of the slice",
    page="https://doi.org/10.6084/m9.figshare.1512427",
    licence="CC BY 4.0",
    citation="Cheng et al., Enhanced Performance of Brain Tumor Classification via Tumor Region Augmentation and "
    "Partition, PLoS ONE 10(10):e0140381 (2015); Cheng et al., PLoS ONE 11(6):e0157112 (2016)",
    modality="MRI",
    layout=f"{FILES}, MATLAB 7.3 files 1.mat to 3064.mat with cjdata/image, tumorMask and PID",
    find_cases=find_cases,
    read_image=read_slice,
    read_label=read_tumor,
    to_labels=LabelMap({0: 0, 1: 1}),
    labels={"background": 0, "tumor": 1},
    num_cases=3064,
    channels=("T1ce",),
    paper_validation=True,
    paper_split="drawn 7:1:2 by patient",
    paper_ratio=(7, 1, 2),
    max_foreground_fraction=0.01,  # sec. 4.1
)
