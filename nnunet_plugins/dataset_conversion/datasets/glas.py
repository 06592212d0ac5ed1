"""GlaS (Warwick-QU): glands in colon histology (ConDSeg)."""

import csv
from collections.abc import Iterator
from dataclasses import replace

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import instances
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.errors import reason

GRADES = "Grade.csv"


def find_cases(source: Source) -> Iterator[Case]:
    patients = read_patients(source)
    for prefix in ("train", "testA", "testB"):
        for case in paired(
            source,
            f"{prefix}_#.bmp",
            f"{prefix}_#_anno.bmp",
            name=f"{prefix}_{{}}".format,
            test=prefix != "train",
            paper_part="train" if prefix == "train" else "test",
        ):
            if case.name not in patients:
                source.problem(f"{case.images[0]} has no patient: {GRADES} must lie with the images and name them all")
            yield replace(case, group=patients.get(case.name, ""))


def read_patients(source: Source) -> dict[str, str]:
    """Read the patient of each image from the table that comes with the images."""
    for table in source.find(GRADES).values():
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
            columns = [name.lower() for name in header]
            name, patient = columns.index("name"), columns.index("patient id")
            return {row[name]: f"patient{row[patient]}" for row in rows}
        except (OSError, ValueError, IndexError, csv.Error) as error:
            lacking = f"has no columns 'name' and 'patient ID' in all rows ({reason(error)})"
            source.problem(f"{table} {lacking}: download it again")
    return {}


DATASET = Dataset(
    name="glas",
    dataset_id=519,
    folder_name="GlaS",
    title="GlaS challenge (Warwick-QU): glands in colon histology",
    page="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/",
    licence="research only, see the page",
    citation="Sirinukunwattana et al., Gland segmentation in colon histology images: The GlaS challenge contest, "
    "Medical Image Analysis 35:489-502 (2017)",
    modality="histopathology",
    layout="train_#.bmp, testA_#.bmp and testB_#.bmp, each with ..._anno.bmp, and Grade.csv",
    find_cases=find_cases,
    to_labels=instances,
    labels={"background": 0, "gland": 1},
    num_cases=165,
    paper_split="85 for training, the 80 of test sets A and B for validation",
)
