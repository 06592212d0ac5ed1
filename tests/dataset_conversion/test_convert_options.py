"""Proves: each option of the command does what it says, and a repeated conversion changes nothing."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from support import cell_datasets, miniatures
from support.conversions import NAMES, read, refused_convert, run_convert, states
from support.files import contents

for_all = pytest.mark.parametrize("name", NAMES)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_regions_overlap_as_nnunet_expects(miniature, convert):
    conversion = convert(miniature("lits17"), "--regions", check=True)
    description = conversion.description
    assert description["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2]}
    assert description["regions_class_order"] == [1, 2]
    manager = LabelManager(description["labels"], regions_class_order=description["regions_class_order"])
    assert manager.has_regions
    assert manager.foreground_regions == [(1, 2), 2] or manager.foreground_regions == [(1, 2), (2,)]
    for case, sample in conversion.cases():
        label = read(conversion.label(case))
        np.testing.assert_array_equal(label, sample.label)
        logits = np.stack([np.where(label >= 1, 9.0, -9.0), np.where(label == 2, 9.0, -9.0)]).astype(np.float32)
        np.testing.assert_array_equal(manager.convert_logits_to_segmentation(logits), label)


def test_regions_are_refused_where_none_overlap(miniature, refusal):
    assert "has no overlapping regions" in refusal(miniature("synapse"), "--regions")


def test_only_cases_with_less_foreground_are_kept(miniature, convert):
    fractions = {case: sample.label.mean() for case, sample in miniature("kvasir_seg").samples.items()}
    limit = sorted(fractions.values())[3]
    conversion = convert(miniature("kvasir_seg"), "--max-foreground-fraction", limit)
    kept = sorted(case for case, fraction in fractions.items() if fraction < limit)
    assert 0 < len(kept) <= 3
    assert sorted(path.stem for path in conversion.dataset.glob("labelsTr/*")) == kept
    assert conversion.description["numTraining"] == len(kept)
    assert len(conversion.report) == len(fractions)


@pytest.mark.parametrize("name", ["kvasir_small", "brain_tumor"])
def test_papers_limit_of_foreground_can_be_lifted(name, miniature, convert):
    conversion = convert(miniature(name), "--max-foreground-fraction", 1)
    assert {path.stem for path in conversion.dataset.glob("labelsTr/*")} == set(miniature(name).samples)


def test_limit_that_leaves_nothing_is_refused(miniature, refusal, tmp_path):
    sentence = refusal(miniature("glas"), "--max-foreground-fraction", 0.0001)
    assert "give a higher --max-foreground-fraction" in sentence
    assert not list(tmp_path.glob("nnUNet_*/*"))


def test_masks_that_lie_elsewhere_need_trust(convert, refusal, tmp_path):
    promise = miniatures.write("promise12", tmp_path / "source")
    case = "Case17"
    header = promise.folder / promise.samples[case].files[1]
    lines = [line if "Offset" not in line else "Offset = 0 0 0" for line in header.read_text().splitlines()]
    header.write_text("\n".join(lines) + "\n")
    sentence = refusal(promise)
    assert "origin (0, 0, 0)" in sentence and "--trust-image-geometry" in sentence
    conversion = convert(promise, "--trust-image-geometry")
    image, label = (sitk.ReadImage(str(path)) for path in (conversion.image(case), conversion.label(case)))
    assert label.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(read(conversion.label(case)), promise.samples[case].label)


@for_all
def test_dry_run_writes_nothing(name, miniature, convert, tmp_path, capsys):
    before = states(miniature(name).folder)
    (tmp_path / "nnUNet_raw").rmdir()
    convert(miniature(name), "--dry-run")
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "nnUNet_raw").exists() and not list(tmp_path.glob("nnUNet_*/*"))
    assert states(miniature(name).folder) == before


# ---- repeated conversions --------------------------------------------------------------------------------------------


@for_all
def test_same_conversion_again_changes_nothing(name, converted, monkeypatch, capsys):
    conversion = converted(name)
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    before = states(conversion.dataset)
    run_convert(name, conversion.miniature.folder)
    assert "was already converted from these files" in capsys.readouterr().out
    assert states(conversion.dataset) == before
    assert conversion.splits.read_bytes() == (conversion.dataset / "splits_final.json").read_bytes()


def test_another_split_of_the_same_dataset_is_refused(converted, monkeypatch):
    conversion = converted("glas")
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    before = states(conversion.root)
    sentence = refused_convert("glas", conversion.miniature.folder, "--paper-split")
    assert "converted with other options" in sentence and "--overwrite" in sentence
    assert states(conversion.root) == before


@pytest.mark.parametrize("name", ["isic2018", "dsb2018", "brain_tumor", "promise12"])
def test_changed_mask_is_converted_only_to_overwrite(name, convert, refusal, tmp_path):
    source = miniatures.write(name, tmp_path / "source")
    kept = [case for case, sample in source.samples.items() if not sample.left_out]
    conversion = convert(source)
    before = contents(conversion.dataset)
    ours, theirs = kept[0], kept[-1]
    mine, other = (source.folder / source.samples[case].files[-1] for case in (ours, theirs))
    if name == "promise12":
        mine, other = mine.with_suffix(".raw"), other.with_suffix(".raw")
    shutil.copyfile(other, mine)
    assert f"was converted from other files (1 differ, first {ours})" in refusal(source)
    assert contents(conversion.dataset) == before
    convert(source, "--overwrite")
    after = contents(conversion.dataset)
    changed = {path for path in before if before[path] != after[path]}
    assert conversion.label(ours).relative_to(conversion.dataset).as_posix() in changed
    assert not [path for path in changed if ours not in path and path.startswith(("images", "labels"))]
    assert list((tmp_path / "nnUNet_raw").iterdir()) == [conversion.dataset]
