"""Proves: ``--resize`` writes any dataset in one size, chooses cases as before, and says what is lost by it."""

import multiprocessing
from collections.abc import Callable
from functools import cache
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from PIL import Image
from support import cell_datasets
from support.conversions import NAMES, VOLUMES, Conversion, read, refused_convert, run_convert, states
from support.files import save
from support.miniatures import FACTS
from support.refusals import PNGS, assert_says, mask, picture, raw_dataset, refusal_in_one_sentence, with_source
from support.refusals import convert as convert_folder

from nnunet_plugins.dataset_conversion.resizing import resize_labels

SIZE = (16, 20)
RESIZE = ("--resize", *SIZE)
for_all = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def resized(tmp_path_factory, converted) -> Callable[[str], Conversion]:
    """``resized(name)``: the miniature of a dataset, converted in the size only once."""

    @cache
    def convert(name: str) -> Conversion:
        root = tmp_path_factory.mktemp(f"{name}_resized")
        miniature = converted(name).miniature
        with pytest.MonkeyPatch.context() as monkeypatch:
            cell_datasets.use_nnunet_folders(root, monkeypatch)
            run_convert(name, miniature.folder, *RESIZE)
        return Conversion(miniature, root)

    return convert


@for_all
def test_every_dataset_is_written_in_the_size(name, miniature, resized, monkeypatch):
    conversion = resized(name)
    for case, sample in conversion.cases():
        image = read(conversion.image(case, sample.part))
        assert image.shape[:2] == SIZE or image.shape == (len(sample.label), *SIZE)
        assert image.dtype == (np.uint16 if name == "brain_tumor" else sample.image.dtype)
        assert image.ndim == sample.image.ndim
        label = read(conversion.label(case, sample.part))
        np.testing.assert_array_equal(label, resize_labels(sample.label, SIZE))
    monkeypatch.setattr(multiprocessing.get_context("spawn"), "Pool", ThreadPool)
    verify_dataset_integrity(str(conversion.dataset), 1)
    assert conversion.description["conversion"]["resize"] == list(SIZE)
    assert sorted(conversion.folds[0]["train"] + conversion.folds[0]["val"]) == miniature(name).identifiers()


@for_all
def test_report_has_the_published_size_and_the_written_one(name, miniature, converted, resized):
    before = {row["case"]: row for row in converted(name).report}
    for row in resized(name).report:
        published = before[row["case"]]
        for column in ("shape", "spacing", "dtype", "label_counts", "foreground_fraction", "sha256", "group", "part"):
            assert row[column] == published[column]
        sample = miniature(name).samples[row["case"]]
        if sample.left_out:
            assert not row["resized_shape"]
            continue
        assert row["resized_shape"] == "x".join(map(str, (*sample.label.shape[:-2], *SIZE)))
        values, counts = np.unique(resize_labels(1 * sample.label, SIZE), return_counts=True)
        assert row["resized_label_counts"] == " ".join(f"{v}:{n}" for v, n in zip(values, counts, strict=True))
        assert bool(row["resized_spacing"]) == (name in VOLUMES)
        assert not any(published[column] for column in published if column.startswith("resized") or "vanish" in column)


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_keep_their_place(name, converted, resized):
    """Outer corners of the grid, which nnU-Net's resampling relies on, are where they were."""
    for case, sample in resized(name).cases():
        images = [sitk.ReadImage(str(c.image(case, sample.part))) for c in (converted(name), resized(name))]
        label = sitk.ReadImage(str(resized(name).label(case, sample.part)))
        for corner in ("first", "last"):
            places = [
                image.TransformContinuousIndexToPhysicalPoint(
                    [-0.5] * 3 if corner == "first" else [length - 0.5 for length in image.GetSize()]
                )
                for image in (*images, label)
            ]
            np.testing.assert_allclose(places[1:], [places[0]] * 2, atol=1e-3)
        assert images[1].GetSpacing()[2] == pytest.approx(images[0].GetSpacing()[2], rel=1e-6)


@pytest.mark.parametrize("name", ["kvasir_small", "brain_tumor", "kidney_stone"])
def test_cases_and_groups_are_chosen_before_resizing(name, converted, resized):
    both = converted(name), resized(name)
    for folder in ("imagesTr", "labelsTr"):
        names = [sorted(path.name for path in (c.dataset / folder).iterdir()) for c in both]
        assert names[0] == names[1] and names[0]
    assert both[0].folds == both[1].folds
    alike = [{row["case"]: row["group"] for row in c.report} for c in both]
    assert alike[0] == alike[1]


def test_regions_are_made_of_the_resized_labels(miniature, convert):
    conversion = convert(miniature("lits17"), "--regions", *RESIZE)
    assert conversion.description["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2]}
    assert (
        conversion.description["conversion"] | {"regions": True, "resize": list(SIZE)}
        == (conversion.description["conversion"])
    )


# ---- repeated conversions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kvasir_seg", "synapse"])
def test_same_size_again_changes_nothing_and_another_is_refused(name, miniature, convert, refusal, capsys):
    conversion = convert(miniature(name), *RESIZE)
    before = states(conversion.dataset)
    convert(miniature(name), *RESIZE)
    assert "was already converted from these files" in capsys.readouterr().out
    assert states(conversion.dataset) == before
    for other in (("--resize", 20, 16), ()):
        now = " ".join(map(str, other[1:])) or "none"
        assert_says(
            refusal(miniature(name), *other), f"converted with other options (resize 16 20, now {now})", "--over"
        )
    convert(miniature(name), "--resize", 20, 16, "--overwrite")
    case, sample = next(conversion.cases())
    assert read(conversion.label(case, sample.part)).shape[-2:] == (20, 16)


def test_dataset_in_its_own_size_is_not_taken_for_a_resized_one(converted, monkeypatch):
    conversion = converted("glas")
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    before = states(conversion.root)
    assert "converted with other options" in refused_convert("glas", conversion.miniature.folder, *RESIZE)
    assert states(conversion.root) == before


# ---- what is lost ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stones(download):
    """Masks of 20 x 24 pixels: a large square, in the first also two single pixels, in the second nothing else."""
    for index in range(3):
        array = mask()
        if index == 0:
            array[1, 1], array[2, 20] = 255, 255
        if index == 2:
            array[:] = 0
            array[17, 17] = 255
        save(download / f"masks/{index}.png", array)
    return download


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_lost_objects_are_counted_and_said(stones, dry_run, capsys):
    convert_folder(*with_source(PNGS, stones), "--resize", 10, 12, *dry_run)
    printed = capsys.readouterr().out
    assert_says(
        printed,
        "size       10 x 12, resized from 20 x 24",
        "Resizing removes 1 objects of the label foreground, in 1 cases such as 0; 0 cases lose the label",
    )
    assert raw_dataset().exists() != bool(dry_run)


@pytest.mark.usefixtures("nnunet_folders")
def test_case_that_loses_a_label_is_named(stones, capsys):
    convert_folder(*with_source(PNGS, stones), "--resize", 8, 8)
    assert_says(capsys.readouterr().out, "removes 2 objects", "in 2 cases such as 0; 1 cases lose the label altogether")
    report = (raw_dataset() / "conversion_report.csv").read_text().splitlines()
    assert report[1].endswith(",1:1,") and report[2].endswith(",,") and ",1:1,lost by resizing: foreground" in report[3]
    assert read(raw_dataset() / "labelsTr/2.png").max() == 0


@pytest.mark.usefixtures("nnunet_folders")
def test_nothing_is_said_where_nothing_is_lost(download, capsys):
    convert_folder(*with_source(PNGS, download), "--resize", 10, 12)
    assert "Resizing removes" not in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
def test_regions_to_be_ignored_are_no_objects(stones, capsys):
    for path in (stones / "masks").iterdir():
        array = np.array(Image.open(path))
        array[8:18, :4] = 7
        save(path, array)
    convert_folder(*with_source(PNGS, stones), "--resize", 8, 8, "--label-map", "0=background", "255=ignore", "7=stone",
                   "--max-foreground-fraction", 1)  # fmt: skip
    assert "Resizing removes" not in capsys.readouterr().out


@pytest.mark.usefixtures("nnunet_folders")
def test_size_in_which_every_object_is_lost_is_refused(download):
    for index in range(3):
        array = np.zeros_like(mask())
        array[17, 17] = 255
        save(download / f"masks/{index}.png", array)
    text = refusal_in_one_sentence(*with_source(PNGS, download), "--resize", 8, 8)
    assert_says(text, "has any foreground", "--resize")


# ---- kinds of images, and sizes that will not do ---------------------------------------------------------------------


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(10, 12), (40, 36), (10, 36)])
def test_grey_images_keep_their_type(download, dtype, size):
    for index in range(3):
        save(download / f"images/{index}.png", picture(index)[..., 0].astype(dtype) * (1 if dtype == np.uint8 else 200))
    convert_folder(*with_source(PNGS, download), "--resize", *size)
    image = read(raw_dataset() / "imagesTr/0_0000.png")
    assert image.dtype == dtype and image.shape == size
    assert dtype == np.uint8 or image.max() > 255


@pytest.mark.usefixtures("nnunet_folders")
def test_each_channel_of_its_own_file_is_resized(download):
    options = ("--images", "images/*.png", "images/*.png", "--channels", *"abcdef", *PNGS[3:])
    convert_folder("folder", download, *options, "--resize", 10, 12)
    shapes = {read(path).shape for path in (raw_dataset() / "imagesTr").iterdir()}
    assert shapes == {(10, 12, 3)} and len(list((raw_dataset() / "imagesTr").iterdir())) == 6


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("size", [("0", "256"), ("256", "7"), ("-4", "256"), ("256", "9000")])
def test_size_out_of_bounds_is_refused(download, size):
    text = refusal_in_one_sentence(*with_source(PNGS, download), "--resize", *size)
    assert_says(text, f"--resize {' '.join(size)}", "a height and a width from 8 to 8192", "e.g. 256 256")


def test_papers_sizes_can_be_asked_for_every_dataset(miniature, convert):
    """256 x 256 enlarges the miniatures; no value lies outside those that were there."""
    for name in ("isic2018", "promise12"):
        conversion = convert(miniature(name), "--resize", 256, 256, "--overwrite")
        for case, sample in conversion.cases():
            image = read(conversion.image(case, sample.part))
            assert sample.image.min() <= image.min() and image.max() <= sample.image.max()
            assert FACTS[name].ending in conversion.image(case, sample.part).name


def test_next_step_is_the_plan_of_slices(miniature, convert, capsys):
    convert(miniature("synapse"), *RESIZE)
    assert "-d 520 -c 2d" in capsys.readouterr().out
    run_convert("promise12", miniature("promise12").folder)
    assert "-d 522 -c 3d_fullres" in capsys.readouterr().out
