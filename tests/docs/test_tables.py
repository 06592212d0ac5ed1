"""Proves: the tables of README and docs agree with the code: trainers, parameters, dimensions, datasets, variables."""

import re
from functools import cache

import pytest
import torch
from support.repository import PACKAGE, REPOSITORY

from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.trainers import TRAINERS, find_trainer

PAGES = {
    "DCFFSNet": "dcffsnet.md",
    "ConDSeg": "condseg.md",
    "DLKUNet": "dlkunet.md",
    "MedFusion-TransNet": "medfusion_transnet.md",
    "DCSNet": "dcsnet.md",
    "TimmUNet": "timm_unet.md",
}
OWN_VARIABLE = re.compile(r"NNUNET_PLUGINS_\w+")


def table(page: str, first_heading: str, second_heading: str) -> list[list[str]]:
    """Rows of the page's only table with these headings of its first columns, as lists of cells."""
    text = (REPOSITORY / page).read_text()
    start = re.escape(f"| {first_heading} | {second_heading} ")
    (found,) = re.findall(rf"^{start}[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found.splitlines()]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def method(name: str) -> str:
    return find_trainer(name).method


@cache
def parameters(name: str) -> str:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in find_trainer(name).reference_network().parameters())
    return f"{count / 1e6:.2f} M"


def test_the_readme_has_every_trainer_once_with_its_method_and_dimensions():
    rows = {name: row for row in table("README.md", "`-tr`", "method") for name in in_code(row[0])}
    assert sorted(rows) == sorted(TRAINERS)
    assert sum(len(in_code(row[0])) for row in table("README.md", "`-tr`", "method")) == len(TRAINERS)
    for name, (_, method_cell, dimensions, _) in rows.items():
        named = re.sub(r"\[(.*)\]\(.*\)", r"\1", method_cell)
        assert named == ("DRGO" if name == "DRGOTrainer" else method(name)), name
        assert dimensions == ", ".join(f"{d}D" for d in find_trainer(name).supported_dimensions), name


def test_every_method_has_a_page():
    assert {method(name) for name in TRAINERS} == set(PAGES)


@pytest.mark.parametrize(("name_of_method", "page"), PAGES.items(), ids=PAGES)
def test_the_page_of_a_method_has_its_trainers_and_their_parameters(name_of_method, page):
    told = {}
    for names, _, cell in table(f"docs/{page}", "`-tr`", "paper"):
        values = cell.split(", ")
        told |= zip(in_code(names), values, strict=True)
    assert told == {name: parameters(name) for name in TRAINERS if method(name) == name_of_method}


def test_the_page_of_datasets_has_every_converter_with_its_number():
    rows = table("docs/datasets.md", "NAME", "id")
    told = {in_code(name)[0]: int(dataset_id) for name, dataset_id, *_ in rows}
    assert told == {name: dataset.dataset_id for name, dataset in CONVERTERS.items() if dataset.dataset_id}


def test_the_table_of_variables_has_those_of_the_source():
    sources = [*PACKAGE.rglob("*.py"), *REPOSITORY.glob("nnunet_plugins_autoload.*")]
    used = {name for path in sources for name in OWN_VARIABLE.findall(path.read_text())}
    rows = table("docs/environment_variables.md", "variable", "value")
    assert sorted(in_code(row[0])[0] for row in rows) == sorted(used)
