"""GlaS (Warwick-QU): glands in colon histology (ConDSeg)."""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.labels import instances
from nnunet_plugins.dataset_conversion.source import Source, paired

GRADES = "Grade.csv"


def find_cases(source: Source) -> Iterator[Case]:
    patients = read_patients(source)
    for prefix in ("train", "testA", "testB"):
        yield from paired(
            source,
            f"{prefix}_#.bmp",
            f"{prefix}_#_anno.bmp",
            name=f"{prefix}_{{}}".format,
            group=partial(patient, patients, prefix),
            test=prefix != "train",
            paper_part="train" if prefix == "train" else "test",
        )


def patient(patients: Mapping[str, str], prefix: str, number: str) -> str:
    return patients.get(f"{prefix}_{number}", "")


def read_patients(source: Source) -> dict[str, str]:
    """The patient of each image, from the table that comes with them."""
    tables: list[Path] = list(source.find(GRADES).values())
    if not tables:
        return {}
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    columns = {name.lower(): index for index, name in enumerate(header)}
    if not {"name", "patient id"} <= columns.keys():
        source.problem(
            f"{tables[0]} has the columns {header}, but 'name' and 'patient ID' are needed: download it again"
        )
        return {}
    return {row[columns["name"]]: f"patient{row[columns['patient id']]}" for row in rows}


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
