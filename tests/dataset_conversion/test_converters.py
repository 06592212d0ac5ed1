"""Proves: each published layout becomes the dataset that it should be, through the command line.

Miniatures of all sixteen downloads are converted: pixels, labels, geometry, files, dataset.json, folds, published
splits and the report are compared with what is known of them, and two datasets go all the way to nnU-Net's training.
"""

import csv
import hashlib
import importlib
import json
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from skimage import io
from support import cell_datasets, miniatures
from support.miniatures import FACTS, NIFTI, PNG, WRITERS, Miniature, Sample

from nnunet_plugins.cli import main
from nnunet_plugins.dataset_conversion import command, writer
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

NAMES = list(WRITERS)
VOLUMES = [name for name in NAMES if FACTS[name].ending == NIFTI]
GROUPED = ["monuseg", "glas", "acdc", "chase_db1", "brain_tumor", "kidney_stone"]
UNGROUPED = [name for name in NAMES if name not in GROUPED]
LISTED_SPLIT = ["isic2016", "isic2017", "monuseg", "glas", "synapse", "acdc", "chase_db1", "lits17"]
DRAWN_SPLIT = ["kvasir_small", "brain_tumor", "kidney_stone"]
NO_SPLIT = [name for name in NAMES if name not in LISTED_SPLIT + DRAWN_SPLIT]

for_all = pytest.mark.parametrize("name", NAMES)


class Conversion(NamedTuple):
    """A miniature and where its conversion lies."""

    miniature: Miniature
    root: Path
    """Of nnU-Net's folders."""

    @property
    def dataset(self) -> Path:
        return self.root / "nnUNet_raw" / self.miniature.facts.dataset

    @property
    def description(self) -> dict:
        return json.loads((self.dataset / "dataset.json").read_text())

    @property
    def splits(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.miniature.facts.dataset / "splits_final.json"

    @property
    def folds(self) -> list[dict[str, list[str]]]:
        return json.loads(self.splits.read_text())

    @property
    def report(self) -> list[dict[str, str]]:
        with (self.dataset / "conversion_report.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def image(self, case: str, part: str = "Tr") -> Path:
        return self.dataset / f"images{part}" / f"{case}_0000{self.miniature.facts.ending}"

    def label(self, case: str, part: str = "Tr") -> Path:
        return self.dataset / f"labels{part}" / f"{case}{self.miniature.facts.ending}"

    def cases(self) -> Iterator[tuple[str, Sample]]:
        return ((case, sample) for case, sample in self.miniature.samples.items() if not sample.left_out)


def nnunet_convert(name: str, source: Path, *options: object, processes: int = 1, check: bool = False) -> None:
    """Run the command; without nnU-Net's integrity check, for which it starts an interpreter, unless ``check``."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not check:
            monkeypatch.setattr(command, "convert", partial(writer.convert, check=False))
        main(["convert", name, str(source), "-np", str(processes), *map(str, options)])


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Callable[[str], Conversion]:
    """``converted(name)``: the miniature of a dataset, converted by the command as users give it, only once."""
    conversions: dict[str, Conversion] = {}

    def convert(name: str) -> Conversion:
        if name not in conversions:
            root = tmp_path_factory.mktemp(name)
            conversion = Conversion(miniatures.write(name, root / "source"), root)
            with pytest.MonkeyPatch.context() as monkeypatch:
                cell_datasets.use_nnunet_folders(root, monkeypatch)
                nnunet_convert(name, conversion.miniature.folder)
            conversions[name] = conversion
        return conversions[name]

    return convert


@pytest.fixture
def miniature(converted) -> Callable[[str], Miniature]:
    """``miniature(name)``: a download that no test may change."""
    return lambda name: converted(name).miniature


@pytest.fixture
def convert(tmp_path, monkeypatch) -> Callable[..., Conversion]:
    """``convert(miniature, *options)`` in folders of the test's own."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)

    def run(miniature: Miniature, *options: object, source: Path | None = None, **how) -> Conversion:
        name = next(name for name, facts in FACTS.items() if facts == miniature.facts)
        nnunet_convert(name, source or miniature.folder, *options, **how)
        return Conversion(miniature, tmp_path)

    return run


def read(path: Path) -> np.ndarray:
    """By readers that the converters do not use: scikit-image and NiBabel."""
    return np.asarray(nibabel.load(path).dataobj).T if path.name.endswith(NIFTI) else io.imread(path)


def with_voxels(folder: Path, files: tuple[Path, ...]) -> Iterator[Path]:
    """The files, each header of MetaImage with the file of its voxels."""
    for path in files:
        yield folder / path
        if path.suffix == ".mhd":
            yield (folder / path).with_suffix(".raw")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def refusal(refused: pytest.ExceptionInfo[SystemExit]) -> str:
    """The one sentence that the user reads."""
    sentence = str(refused.value)
    assert sentence and "\n" not in sentence
    return sentence


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_miniature_exists_of_every_published_dataset():
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
    """Or else the tests before this one would prove little."""
    values = set().union(*(np.unique(sample.label).tolist() for sample in converted(name).miniature.samples.values()))
    assert values == set(FACTS[name].labels.values())


@for_all
def test_nothing_but_the_dataset_is_written(name, converted):
    conversion, facts = converted(name), FACTS[name]
    expected = {"dataset.json", "conversion_report.csv", "splits_final.json"}
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


@for_all
def test_nnunet_reads_the_dataset_as_meant(name, converted):
    conversion = converted(name)
    description = conversion.description
    files = get_filenames_of_train_images_and_targets(str(conversion.dataset), description)
    assert sorted(files) == conversion.miniature.identifiers()
    for case, paths in files.items():
        sample = conversion.miniature.samples[case]
        reader = determine_reader_writer_from_dataset_json(description, paths["images"][0], verbose=False)()
        image, _ = reader.read_images(paths["images"])
        label, _ = reader.read_seg(paths["label"])
        expected = sample.image if sample.geometry else np.atleast_3d(sample.image).transpose(2, 0, 1)[:, None]
        np.testing.assert_array_equal(image, expected.reshape(len(FACTS[name].channels), *image.shape[1:]))
        np.testing.assert_array_equal(label, sample.label.reshape(label.shape))


@for_all
def test_nnunet_accepts_the_dataset(name, converted):
    verify_dataset_integrity(str(converted(name).dataset), 1)


@for_all
def test_nnunet_has_one_output_for_each_class(name, converted):
    manager = LabelManager(converted(name).description["labels"], regions_class_order=None)
    assert not manager.has_regions and not manager.has_ignore_label
    assert manager.all_labels == list(range(len(FACTS[name].labels)))
    assert manager.num_segmentation_heads == len(FACTS[name].labels)


@for_all
def test_only_hounsfield_units_are_clipped_by_nnunet(name, converted):
    schemes = {
        get_normalization_scheme(channel).__name__ for channel in converted(name).description["channel_names"].values()
    }
    assert schemes == {"CTNormalization" if name in ("synapse", "lits17") else "ZScoreNormalization"}


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
def test_the_report_has_a_row_for_each_case(name, converted):
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
def test_the_user_reads_whose_data_these_are(name, miniature, convert, capsys):
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
    """SimpleITK decodes them too, and no pixel's side of the threshold depends on the decoder."""
    conversion = converted("kvasir_seg")
    for case, sample in conversion.cases():
        decoded = sitk.GetArrayFromImage(sitk.ReadImage(str(conversion.miniature.folder / sample.files[1])))
        decoded = decoded if decoded.ndim == 2 else decoded[..., 0]
        assert ((decoded > 0) & (decoded < 255)).mean() > 0.1
        np.testing.assert_array_equal(read(conversion.label(case)), decoded > 127)


# ---- folds -----------------------------------------------------------------------------------------------------------


def group_of(miniature: Miniature, case: str) -> str:
    return miniature.samples[case].group or case


@for_all
def test_every_training_case_is_validated_once(name, converted):
    conversion = converted(name)
    assert len(conversion.folds) == 5
    assert sorted(case for fold in conversion.folds for case in fold["val"]) == conversion.miniature.identifiers()
    for fold in conversion.folds:
        assert fold["val"]
        assert sorted(fold["train"] + fold["val"]) == conversion.miniature.identifiers()
    assert conversion.splits.read_bytes() == (conversion.dataset / "splits_final.json").read_bytes()


@pytest.mark.parametrize("name", GROUPED)
def test_folds_never_divide_a_group(name, converted):
    miniature = converted(name).miniature
    sizes = Counter(group_of(miniature, case) for case in miniature.identifiers())
    assert max(sizes.values()) > 1
    for fold in converted(name).folds:
        train, val = ({group_of(miniature, case) for case in fold[part]} for part in ("train", "val"))
        assert train.isdisjoint(val)


@for_all
def test_groups_on_both_sides_of_a_published_split_are_told(name, miniature, convert, capsys):
    """Of GlaS's miniature: the patients 2 and 5 are in training and test set."""
    convert(miniature(name), "--dry-run")
    told = "2 groups, such as patient2, are on both sides of the published split" in capsys.readouterr().out
    assert told == (name == "glas")


@pytest.mark.parametrize("name", UNGROUPED)
def test_without_groups_the_folds_are_nnunets_own(name, converted):
    expected = generate_crossval_split(converted(name).miniature.identifiers(), seed=12345, n_splits=5)
    assert converted(name).folds == [{part: list(map(str, cases)) for part, cases in fold.items()} for fold in expected]


def test_a_table_of_groups_replaces_the_published_groups(miniature, convert, tmp_path):
    cases = sorted(miniature("isic2018").samples)
    groups = {case: f"clinic{index % 4}" for index, case in enumerate(cases)}
    table = tmp_path / "groups.csv"
    table.write_text("image,clinic\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    conversion = convert(miniature("isic2018"), "--groups", table)
    assert len(conversion.folds) == 4
    for fold in conversion.folds:
        assert len({groups[case] for case in fold["val"]}) == 1
        assert {groups[case] for case in fold["val"]}.isdisjoint(groups[case] for case in fold["train"])
    assert {row["case"]: row["group"] for row in conversion.report} == groups


# ---- published splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTED_SPLIT)
def test_paper_split_is_the_listed_one(name, miniature, convert):
    conversion = convert(miniature(name), "--paper-split")
    train, val, test = (miniature(name).of_paper(part) for part in ("train", "val", "test"))
    if not val:
        val, test = test, []
    assert train and val
    assert conversion.folds == [{"train": train, "val": val}]
    assert {path.name for path in conversion.dataset.glob("labelsTr/*")} == {
        conversion.label(case).name for case in train + val
    }
    assert {path.name for path in conversion.dataset.glob("labelsTs/*")} == {
        conversion.label(case).name for case in test
    }
    assert conversion.description["numTraining"] == len(train + val)
    for case in train + val:
        np.testing.assert_array_equal(read(conversion.label(case)), miniature(name).samples[case].label)


@pytest.mark.parametrize(
    ("name", "numbers", "expected"),
    [
        ("synapse", [f"{n:04}" for n in (*range(1, 11), *range(21, 41))], {"train": 18, "test": 12}),
        ("acdc", [f"{n:03}/{n:03}/01" for n in range(1, 101)], {"train": 70, "val": 10, "test": 20}),
        ("chase_db1", [f"{n:02}" for n in range(1, 15)], {"train": 10, "test": 4}),
        ("lits17", [str(n) for n in range(131)], {"train": 101, "test": 30}),
    ],
)
def test_the_published_split_of_all_cases_has_the_published_sizes(name, numbers, expected):
    module = importlib.import_module(f"nnunet_plugins.dataset_conversion.datasets.{name}")
    assert Counter(map(module.part, numbers)) == expected


@pytest.mark.parametrize("name", DRAWN_SPLIT)
def test_paper_split_is_drawn_by_group(name, miniature, convert):
    conversion = convert(miniature(name), "--paper-split")
    cases = miniature(name).identifiers()
    sizes = Counter(group_of(miniature(name), case) for case in cases)
    (fold,) = conversion.folds
    parts = {**fold, "test": sorted(path.name.removesuffix(PNG) for path in conversion.dataset.glob("labelsTs/*"))}
    assert sorted(case for part in parts.values() for case in part) == cases
    groups = [{group_of(miniature(name), case) for case in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(sizes)
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert parts[part]
        assert abs(len(parts[part]) - share * len(cases)) <= max(sizes.values()) / 2
    if max(sizes.values()) == 1:
        assert [len(parts[part]) for part in ("train", "val", "test")] == [7, 1, 2]


@pytest.mark.parametrize("name", NO_SPLIT)
def test_paper_split_is_refused_where_none_is_published(name, miniature, convert, tmp_path):
    with pytest.raises(SystemExit) as refused:
        convert(miniature(name), "--paper-split")
    assert refusal(refused).startswith(f"{name} has no published split")
    assert not list(tmp_path.glob("nnUNet_*/*"))


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


def test_regions_are_refused_where_none_overlap(miniature, convert):
    with pytest.raises(SystemExit) as refused:
        convert(miniature("synapse"), "--regions")
    assert "has no overlapping regions" in refusal(refused)


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
def test_the_papers_limit_of_foreground_can_be_lifted(name, miniature, convert):
    conversion = convert(miniature(name), "--max-foreground-fraction", 1)
    assert {path.stem for path in conversion.dataset.glob("labelsTr/*")} == set(miniature(name).samples)


def test_a_limit_that_leaves_nothing_is_refused(miniature, convert, tmp_path):
    with pytest.raises(SystemExit) as refused:
        convert(miniature("glas"), "--max-foreground-fraction", 0.0001)
    assert "give a higher --max-foreground-fraction" in refusal(refused)
    assert not list(tmp_path.glob("nnUNet_*/*"))


def test_masks_that_lie_elsewhere_need_trust(convert, tmp_path):
    promise = miniatures.write("promise12", tmp_path / "source")
    case = "Case17"
    header = promise.folder / promise.samples[case].files[1]
    lines = [line if "Offset" not in line else "Offset = 0 0 0" for line in header.read_text().splitlines()]
    header.write_text("\n".join(lines) + "\n")
    with pytest.raises(SystemExit) as refused:
        convert(promise)
    assert "origin (0, 0, 0)" in refusal(refused) and "--trust-image-geometry" in refusal(refused)
    conversion = convert(promise, "--trust-image-geometry")
    image, label = (sitk.ReadImage(str(path)) for path in (conversion.image(case), conversion.label(case)))
    assert label.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(read(conversion.label(case)), promise.samples[case].label)


@for_all
def test_a_dry_run_writes_nothing(name, miniature, convert, tmp_path, capsys):
    before = states(miniature(name).folder)
    (tmp_path / "nnUNet_raw").rmdir()
    convert(miniature(name), "--dry-run")
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "nnUNet_raw").exists() and not list(tmp_path.glob("nnUNet_*/*"))
    assert states(miniature(name).folder) == before


# ---- again -----------------------------------------------------------------------------------------------------------


@for_all
def test_the_same_conversion_again_changes_nothing(name, converted, monkeypatch, capsys):
    conversion = converted(name)
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    before = states(conversion.dataset)
    nnunet_convert(name, conversion.miniature.folder)
    assert "was already converted from these files" in capsys.readouterr().out
    assert states(conversion.dataset) == before
    assert conversion.splits.read_bytes() == (conversion.dataset / "splits_final.json").read_bytes()


def test_another_split_of_the_same_dataset_is_refused(converted, monkeypatch):
    conversion = converted("glas")
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    before = states(conversion.root)
    with pytest.raises(SystemExit) as refused:
        nnunet_convert("glas", conversion.miniature.folder, "--paper-split")
    assert "converted with other options" in refusal(refused) and "--overwrite" in refusal(refused)
    assert states(conversion.root) == before


@pytest.mark.parametrize("name", ["isic2018", "dsb2018", "brain_tumor", "promise12"])
def test_a_changed_mask_is_converted_only_to_overwrite(name, convert, tmp_path):
    source = miniatures.write(name, tmp_path / "source")
    kept = [case for case, sample in source.samples.items() if not sample.left_out]
    conversion = convert(source)
    before = contents(conversion.dataset)
    ours, theirs = kept[0], kept[-1]
    mine, other = (source.folder / source.samples[case].files[-1] for case in (ours, theirs))
    if name == "promise12":
        mine, other = mine.with_suffix(".raw"), other.with_suffix(".raw")
    shutil.copyfile(other, mine)
    with pytest.raises(SystemExit) as refused:
        convert(source)
    assert f"was converted from other files (1 differ, first {ours})" in refusal(refused)
    assert contents(conversion.dataset) == before
    convert(source, "--overwrite")
    after = contents(conversion.dataset)
    changed = {path for path in before if before[path] != after[path]}
    assert conversion.label(ours).relative_to(conversion.dataset).as_posix() in changed
    assert not [path for path in changed if ours not in path and path.startswith(("images", "labels"))]
    assert list((tmp_path / "nnUNet_raw").iterdir()) == [conversion.dataset]


# ---- where the download lies -----------------------------------------------------------------------------------------


def pack_zip(folder: Path, archive: Path, prefix: str = "", shadows: bool = True) -> None:
    """As macOS packs it: with a shadow of every file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            file.write(path, prefix + name.as_posix())
            if shadows:
                file.writestr(f"__MACOSX/{prefix}{name.parent.as_posix()}/._{name.name}", b"\0\5\26\7")


def pack_tar(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname="download")


def assert_same_dataset(conversion: Conversion, expected: Conversion) -> None:
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        assert contents(conversion.dataset / part) == contents(expected.dataset / part)
    assert conversion.folds == expected.folds
    assert list((conversion.root / "nnUNet_raw").iterdir()) == [conversion.dataset]


@for_all
@pytest.mark.parametrize(("pack", "ending"), [(pack_zip, ".zip"), (pack_tar, ".tar.gz")], ids=["zip", "tar.gz"])
def test_an_archive_gives_the_same_dataset(name, pack, ending, converted, convert, tmp_path):
    archive = tmp_path / f"download{ending}"
    pack(converted(name).miniature.folder, archive)
    before = archive.read_bytes()
    assert_same_dataset(convert(converted(name).miniature, source=archive), converted(name))
    assert archive.read_bytes() == before


def test_archives_within_an_archive_give_the_same_dataset(converted, convert, tmp_path):
    """As figshare gives it: one zip with a zip for every 766 slices."""
    download = tmp_path / "1512427"
    shutil.copytree(converted("brain_tumor").miniature.folder, download)
    for folder in sorted(download.glob("brainTumorDataPublic_*")):
        pack_zip(folder, folder.with_suffix(".zip"))
        shutil.rmtree(folder)
    pack_zip(download, tmp_path / "1512427.zip")
    shutil.rmtree(download)
    conversion = convert(converted("brain_tumor").miniature, source=tmp_path / "1512427.zip")
    assert_same_dataset(conversion, converted("brain_tumor"))


def test_an_archive_of_archives_without_folders_gives_the_same_dataset(converted, convert, tmp_path):
    """As Kaggle gives it: stage1_train.zip has no folder stage1_train."""
    download = tmp_path / "data-science-bowl-2018"
    download.mkdir()
    for folder in ("stage1_train", "stage1_test"):
        pack_zip(converted("dsb2018").miniature.folder / folder, download / f"{folder}.zip")
    pack_zip(download, tmp_path / "data-science-bowl-2018.zip", shadows=False)
    conversion = convert(converted("dsb2018").miniature, source=tmp_path / "data-science-bowl-2018.zip")
    assert_same_dataset(conversion, converted("dsb2018"))


@pytest.mark.parametrize("name", ["isic2016", "isic2017", "isic2018"])
@pytest.mark.parametrize("folder_within", [True, False])
def test_a_folder_of_archives_gives_the_same_dataset(name, folder_within, converted, convert, tmp_path):
    """The challenge's archives, some with the folder that they are named after and some without."""
    download = tmp_path / "archives"
    download.mkdir()
    for folder in sorted(converted(name).miniature.folder.iterdir()):
        if folder.is_dir():
            pack_zip(folder, download / f"{folder.name}.zip", f"{folder.name}/" if folder_within else "")
    assert_same_dataset(convert(converted(name).miniature, source=download), converted(name))


@for_all
def test_the_folder_around_the_download_will_do(name, converted, convert, tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    (around / "the download").symlink_to(converted(name).miniature.folder, target_is_directory=True)
    assert_same_dataset(convert(converted(name).miniature, source=around), converted(name))


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("dsb2018", "stage1_train"),
        ("kvasir_seg", "Kvasir-SEG"),
        ("kvasir_sessile", "sessile-main-Kvasir-SEG"),
        ("kvasir_small", "Kvasir-SEG"),
        ("glas", "Warwick QU Dataset (Released 2016_07_08)"),
        ("synapse", "RawData"),
        ("synapse", "RawData/Training"),
        ("acdc", "ACDC/database"),
    ],
)
def test_the_published_folder_itself_will_do(name, inner, converted, convert):
    miniature = converted(name).miniature
    assert_same_dataset(convert(miniature, source=miniature.folder / inner), converted(name))


def test_two_processes_write_the_same_bytes(converted, convert):
    conversion = convert(converted("glas").miniature, processes=2, check=True)
    assert contents(conversion.dataset) == contents(converted("glas").dataset)


@for_all
def test_a_download_of_another_dataset_is_recognised(name, miniature, convert):
    other = "isic2016" if name != "isic2016" else "isic2018"
    with pytest.raises(SystemExit) as refused:
        convert(miniature(other), source=miniature(name).folder)
    assert f"is not the published {other}" in refusal(refused)
    assert name in refusal(refused).rpartition("It looks like")[2]


# ---- the whole way to training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "configuration"), [("glas", "2d"), ("promise12", "3d_fullres")])
def test_nnunet_trains_on_our_folds(name, configuration, converted, monkeypatch):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    conversion = converted(name)
    cell_datasets.use_nnunet_folders(conversion.root, monkeypatch)
    dataset_id = CONVERTERS[name].dataset_id
    cell_datasets.extract_fingerprint(dataset_id)
    plan_experiments([dataset_id])
    preprocess([dataset_id], configurations=[configuration], num_processes=(1,))
    before = conversion.splits.read_bytes()
    for number, fold in enumerate(conversion.folds):
        trainer = cell_datasets.make_trainer("nnUNetTrainer", dataset_id, configuration=configuration, fold=number)
        assert trainer.do_split() == (fold["train"], fold["val"])
    assert conversion.splits.read_bytes() == before
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    assert sorted(dataset.identifiers) == conversion.miniature.identifiers()
    for case in dataset.identifiers:
        _, segmentation, *_ = dataset.load_case(case)
        assert set(np.unique(segmentation[:])) <= {-1, 0, 1}
