"""Proves: any name that a file can have reaches nnU-Net, and the first picture decides about channels."""

import csv
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.utils import (
    get_filenames_of_train_images_and_targets,
    get_identifiers_from_splitted_dataset_folder,
)
from PIL import Image

from nnunet_plugins.cli import main
from nnunet_plugins.dataset_conversion import writer
from nnunet_plugins.dataset_conversion.cases import identifier
from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.datasets import folder
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.source import Source, without_ending
from nnunet_plugins.dataset_conversion.tables import group_by_name
from nnunet_plugins.errors import UserError

AWKWARD = [
    "plain",
    "with space",
    "größe",
    "画像",
    "e\u0301",  # e and an accent: decomposed, as macOS writes it
    "dots.in.name",
    "v1.0",
    "quote's",
    'double"quote',
    "[brackets]",
    "(1)",
    "-dash",
    "--images",
    "_0000",
    "case_0000",
    "case_0001_0000",
    "a,b",
    "{a}",
    "100%",
    "$HOME",
    "UPPER",
    "upper",
    "star*star",
    "~",
]


def png(array: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        Image.fromarray(array).save(Path(place, "x.png"))
        return Path(place, "x.png").read_bytes()


def convert(download: Path, raw: Path, ending: str = ".png") -> Path:
    """Convert the download with the converter ``folder``, and return the dataset's folder."""
    with pytest.MonkeyPatch.context() as monkeypatch, Source(download) as source:
        monkeypatch.setenv("nnUNet_raw", str(raw))
        for variable in ("nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.delenv(variable, raising=False)
        dataset = folder.describe(
            source, [f"images/*{ending}"], [f"masks/*{ending}"], folder_name="Names", dataset_id=3
        )
        writer.convert(dataset, source, writer.Options(), processes=1, check=False)
    return raw / "Dataset003_Names"


def check(dataset: Path, names: list[str]) -> None:
    """Check that nnU-Net finds every case and its mask, and that the report names the files they come from."""
    found = get_identifiers_from_splitted_dataset_folder(str(dataset / "imagesTr"), ".png")
    assert sorted(found) == sorted(map(identifier, names))
    assert sorted(os.listdir(dataset / "imagesTr")) == sorted(f"{identifier(name)}_0000.png" for name in names)
    assert sorted(os.listdir(dataset / "labelsTr")) == sorted(f"{identifier(name)}.png" for name in names)
    with (dataset / "conversion_report.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row["images"] for row in csv.DictReader(file)}
    assert {case: without_ending(Path(image).name) for case, image in rows.items()} == {
        identifier(name): name for name in names
    }


def test_awkward_names_reach_nnunet(tmp_path):
    for name in AWKWARD:
        for kind in ("images", "masks"):
            (tmp_path / "download" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "download" / kind / f"{name}.png").write_bytes(PIXELS)
    dataset = convert(tmp_path / "download", tmp_path / "raw")
    check(dataset, AWKWARD)
    for name, files in get_filenames_of_train_images_and_targets(str(dataset)).items():  # starts processes
        assert files["images"] == [str(dataset / "imagesTr" / f"{name}_0000.png")]
        assert files["label"] == str(dataset / "labelsTr" / f"{name}.png")


def test_accents_of_a_mac_and_of_a_keyboard_are_the_same(tmp_path, nnunet_folders):
    """Images, masks, the pattern and the table come from different systems."""
    for index, names in enumerate([("mu\u0308ller", "m\u00fcller"), ("plain", "plain")]):
        for kind, name in zip(("a\u0308images", "masks"), names, strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{name}{index}.png").write_bytes(PIXELS)
    (tmp_path / "groups.csv").write_text("m\u00fcller0,b\u00e4r\nplain1,ba\u0308r\n", encoding="utf-8")
    options = ("--images", "\u00e4images/*.png", "--masks", "masks/*.png", "--groups", str(tmp_path / "groups.csv"))
    main(["convert", "folder", str(tmp_path), "-d", "3", "--dataset-name", "Names", *options, "-np", "1"])
    dataset = Path(os.environ["nnUNet_raw"], "Dataset003_Names")
    assert sorted(os.listdir(dataset / "labelsTr")) == ["m\u00fcller0.png", "plain1.png"]
    with (dataset / "conversion_report.csv").open(newline="", encoding="utf-8") as file:
        assert {row["group"] for row in csv.DictReader(file)} == {"b\u00e4r"}
    cases = [Case(name, (tmp_path / f"{name}.png",), None) for name in ("m\u00fcller1", "mu\u0308ller2", "other1")]
    groups = [case.group for case in group_by_name(cases, "(mu\u0308ller|other)", Source(tmp_path))]
    assert groups == ["m\u00fcller", "m\u00fcller", "other"]


file_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 200)


@given(
    st.lists(file_names, min_size=2, max_size=5, unique_by=lambda name: identifier(name).lower()),
    st.sampled_from([".png", ".PNG", ".Png"]),
)
def test_any_name_that_a_file_can_have_reaches_nnunet(names, ending):
    root = Path(tempfile.mkdtemp())
    try:
        for name in names:
            for kind in ("images", "masks"):
                (root / "download" / kind).mkdir(parents=True, exist_ok=True)
                (root / "download" / kind / f"{name}{ending}").write_bytes(PIXELS)
        check(convert(root / "download", root / "raw"), names)
    finally:
        shutil.rmtree(root)


PIXELS = png(np.full((3, 4), 255, np.uint8))


@given(file_names)
def test_identifiers_are_plain_and_stable(name):
    made = identifier(name)
    assert made and identifier(made) == made
    assert all(character.isalnum() or character in "_-" or not character.isascii() for character in made)
    assert not set(made) & set(" ./\\'\"()[]{}*?$")


def test_first_picture_decides_about_channels(tmp_path):
    for index in range(2):
        for kind, array in (("images", np.zeros((3, 4, 3), np.uint8)), ("masks", np.zeros((3, 4), np.uint8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{index}.png").write_bytes(png(array))
    with Source(tmp_path) as source:
        options = {"folder_name": "N", "dataset_id": 1}
        assert folder.describe(source, ["images/*"], ["masks/*"], **options).channels == ("R", "G", "B")
        assert folder.describe(source, ["images/*"], ["masks/*"], channels="abc", **options).channels == ("a", "b", "c")
        assert folder.describe(source, ["masks/*"], ["masks/*"], **options).channels == ("grey",)
        assert folder.describe(source, ["images/*"], ["masks/*"], **options).file_ending == ".png"
        with pytest.raises(UserError, match="contradict"):
            folder.describe(source, ["images/*"], ["masks/*"], label_map=["0=background"], threshold=0.0, **options)


def test_wildcards_pair_one_by_one_not_as_the_name_that_they_make(tmp_path):
    for path in ("i/p1/x_1.png", "m/p1_x/1.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(PIXELS)
    with Source(tmp_path) as source:
        assert not list(paired(source, "i/*/*.png", "m/*/*.png"))
        assert len(source.problems) == 2
