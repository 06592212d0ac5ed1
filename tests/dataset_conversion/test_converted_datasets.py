"""Proves: each published layout becomes the dataset that it should be: pixels, labels, geometry, files and report."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.conversions import (
    NAMES,
    VOLUMES,
    read,
)
from support.files import contents
from support.miniatures import FACTS

from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

for_all = pytest.mark.parametrize("name", NAMES)


def with_voxels(folder: Path, files: tuple[Path, ...]) -> Iterator[Path]:
    """The files, and after each MetaImage header the file of its voxels."""
    for path in files:
        yield folder / path
        if path.suffix == ".mhd":
            yield (folder / path).with_suffix(".raw")


def test_miniature_exists_of_every_published_dataset():
    assert [*NAMES, "folder"] == sorted(CONVERTERS, key=[*NAMES, "folder"].index)
    assert len({dataset.dataset_id for dataset in CONVERTERS.values()}) == len(CONVERTERS)


@for_all
def test_images_have_the_published_pixels(name, converted):
    for case, sample in converted(name).cases():
        image = read(converted(name).image(case, sample.part))
        assert image.dtype == sample.image.dtype
        np.testing.assert_array_equal(image, sample.image)


@for_all
def test_labels_are_the_truth(name, converted):
    for case, sample in converted(name).cases():
        label = read(converted(name).label(case, sample.part))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, sample.label)


@for_all
def test_each_class_occurs_in_the_miniature(name, converted):
    """Without this, the other tests would prove little."""
    values = set().union(*(np.unique(sample.label).tolist() for sample in converted(name).miniature.samples.values()))
    assert values == set(FACTS[name].labels.values())


@for_all
def test_nothing_but_the_dataset_is_written(name, converted):
    conversion, facts = converted(name), FACTS[name]
    expected = {"dataset.json", "conversion_report.csv", "splits_final.json", "preview.png"}
    for case, sample in conversion.cases():
        expected |= {
            f"images{sample.part}/{case}_0000{facts.ending}",
            f"labels{sample.part}/{case}{facts.ending}",
        }
    assert set(contents(conversion.dataset)) == expected
    assert list((conversion.root / "nnUNet_raw").iterdir()) == [conversion.dataset]
    assert list((conversion.root / "nnUNet_preprocessed").rglob("*")) == [conversion.splits.parent, conversion.splits]


@for_all
def test_dataset_json_is_complete(name, converted):
    conversion, facts = converted(name), FACTS[name]
    description = conversion.description
    record = CONVERTERS[name]
    assert list(description["labels"].items()) == list(facts.labels.items())
    assert description["channel_names"] == {str(index): channel for index, channel in enumerate(facts.channels)}
    assert description["numTraining"] == len(conversion.miniature.identifiers())
    assert description["file_ending"] == facts.ending
    assert description["licence"] == record.licence
    assert description["citation"] == record.citation and "20" in record.citation
    assert description["reference"] == record.page and record.page.startswith("https://")
    assert description["description"] == record.title
    assert description["name"] == facts.dataset.partition("_")[2]
    assert "regions_class_order" not in description


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_stay_where_they_are(name, converted):
    conversion = converted(name)
    for case, sample in conversion.cases():
        for path in (conversion.image(case, sample.part), conversion.label(case, sample.part)):
            volume = sitk.ReadImage(str(path))
            np.testing.assert_allclose(volume.GetSpacing(), sample.geometry.spacing, rtol=1e-5)
            np.testing.assert_allclose(volume.GetOrigin(), sample.geometry.origin, rtol=1e-5)
            np.testing.assert_allclose(volume.GetDirection(), sample.geometry.direction, atol=1e-5)


@for_all
def test_report_has_a_row_for_each_case(name, converted):
    miniature = converted(name).miniature
    rows = {row["case"]: row for row in converted(name).report}
    assert len(rows) == len(converted(name).report)
    assert rows.keys() == miniature.samples.keys()
    for case, sample in miniature.samples.items():
        row = rows[case]
        values, counts = np.unique(sample.label, return_counts=True)
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in with_voxels(miniature.folder, sample.files)))
        image, *labels = sample.files
        assert row["images"] == image.as_posix()
        masks = [path.as_posix() for path in labels or [image]]
        assert row["label"] == (
            " ".join(masks) if len(masks) < 5 else f"{labels[0].parent.as_posix()}/ ({len(masks)} files)"
        )
        assert row["sha256"] == digest.hexdigest()
        assert row["shape"] == "x".join(map(str, sample.label.shape))
        assert row["dtype"] == str(sample.image.dtype)
        assert row["label_counts"] == " ".join(f"{int(v)}:{c}" for v, c in zip(values, counts, strict=True))
        assert float(row["foreground_fraction"]) == pytest.approx((sample.label > 0).mean(), rel=1e-6)
        assert row["part"] == ("" if sample.left_out else sample.part)
        assert row["group"] == (sample.group or ("" if sample.left_out else case))
        assert row["note"].startswith("left out: foreground") == sample.left_out
        if sample.geometry:
            spacing = [float(length) for length in row["spacing"].split("x")]
            assert spacing == pytest.approx(sample.geometry.spacing[::-1], rel=1e-5)
        else:
            assert row["spacing"] == ""


@for_all
def test_user_reads_whose_data_these_are(name, miniature, convert, capsys):
    convert(miniature(name))
    printed = capsys.readouterr().out
    record, samples = CONVERTERS[name], miniature(name).samples
    for text in (record.licence, record.citation, record.page, FACTS[name].dataset, "nnUNetv2_plan_and_preprocess"):
        assert text in printed
    assert f"{len(miniature(name).identifiers())} for training" in printed
    assert f"{len(samples)} cases were found, and {record.num_cases} are published" in printed
    left_out = sum(sample.left_out for sample in samples.values())
    assert (f"{left_out} left out" in printed) == bool(left_out)


def test_jpeg_masks_are_cut_in_the_middle_of_their_blur(converted):
    """SimpleITK decodes the masks too, and no pixel's side of the threshold depends on the decoder."""
    conversion = converted("kvasir_seg")
    for case, sample in conversion.cases():
        decoded = sitk.GetArrayFromImage(sitk.ReadImage(str(conversion.miniature.folder / sample.files[1])))
        decoded = decoded if decoded.ndim == 2 else decoded[..., 0]
        assert ((decoded > 0) & (decoded < 255)).mean() > 0.1
        np.testing.assert_array_equal(read(conversion.label(case)), decoded > 127)
