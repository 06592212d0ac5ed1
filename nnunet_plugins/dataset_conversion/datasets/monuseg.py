"""MoNuSeg 2018: nuclei in haematoxylin and eosin stained tissue (DCFFSNet)."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from skimage.draw import polygon

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import instances
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.pictures import Picture, refuse_empty
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import UserError

TRAINING = "Tissue Images/*.tif", "Annotations/*.xml"
TEST = "MoNuSegTestData/*.tif", "MoNuSegTestData/*.xml"


def find_cases(source: Source) -> Iterator[Case]:
    yield from paired(source, *TRAINING, group=patient, paper_part="train")
    yield from paired(source, *TEST, group=patient, test=True, paper_part="test")


def patient(name: str) -> str:
    """Patient, as the first three fields of a TCGA barcode: project, site, participant."""
    return "-".join(name.split("-")[:3])


def read_polygons(paths: tuple[Path, ...], shape: tuple[int, ...]) -> Picture:
    """Draw the pixels inside any outline of an Aperio annotation (X: columns, Y: rows).

    Raises:
        UserError: the file is no such annotation.
    """
    (path,) = paths
    refuse_empty(path)
    mask = np.zeros(shape, np.uint8)
    try:
        regions = ElementTree.parse(path).getroot().findall(".//Region")
        for region in regions:
            vertices = [(float(v.attrib["Y"]), float(v.attrib["X"])) for v in region.findall("Vertices/Vertex")]
            if len(vertices) >= 3:  # the published files hold a few points and lines, which enclose nothing
                rows, columns = zip(*vertices, strict=True)
                mask[polygon(rows, columns, shape)] = 1
    except (ElementTree.ParseError, LookupError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is no Aperio annotation ({error}): download it again") from error
    if not regions:
        raise UserError(f"{path} has no Region with Vertices, as Aperio annotations have: download it again")
    return Picture(mask)


DATASET = Dataset(
    name="monuseg",
    dataset_id=515,
    folder_name="MoNuSeg",
    title="MoNuSeg 2018: nuclei in H&E stained tissue of several organs",
    page="https://monuseg.grand-challenge.org/Data/",
    licence="CC BY-NC-SA 4.0",
    citation="Kumar et al., A Multi-Organ Nucleus Segmentation Challenge, IEEE Transactions on Medical Imaging "
    "39(5):1380-1391 (2020)",
    modality="histopathology",
    layout=f"{' and '.join(TRAINING)}, {' and '.join(TEST)}",
    find_cases=find_cases,
    read_label=read_polygons,
    to_labels=instances,
    labels={"background": 0, "nucleus": 1},
    num_cases=51,
    paper_split="37 for training, the 14 of the test set for validation",
)
