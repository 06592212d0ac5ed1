"""Proves: a series of DICOM becomes a volume in its order, units and place; what is not one series is refused."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from support.dicom_files import ORIGIN, SPACING, save_segmentation, save_series, save_slice
from support.files import save, save_volume
from support.property_inputs import noise
from support.refusals import assert_says, convert, raw_dataset, refusal_in_one_sentence

from nnunet_plugins.dataset_conversion.pictures import UNKNOWN_PLACE, Picture, grid_difference, in_place_of
from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.errors import UserError

CASES = range(3)
SHAPE = (5, 12, 10)
OPTIONS = ("--images", "*/ct", "--dataset-name", "Liver", "-d", "7", "--channels", "CT", "--masks")
CORONAL = (1.0, 0, 0, 0, 0, -1.0)
OBLIQUE = (0.8, 0.6, 0, -0.6, 0.8, 0)


def values(seed: int) -> np.ndarray:
    return noise(seed, SHAPE, np.uint16) % 4000


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:6, 3:8], array[2:4, 8:10, 1:3] = 1, 2
    return array


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_picture(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def series(tmp_path) -> Path:
    return save_series(tmp_path / "ct", values(0))


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1.0, 0), CORONAL, OBLIQUE], ids=["axial", "coronal", "oblique"])
def test_series_arrives_in_order_in_hounsfield_units_where_simpleitk_sees_it(tmp_path, orientation):
    series = save_series(tmp_path / "ct", values(0), orientation)
    read = read_picture(series)
    assert np.array_equal(read.array, values(0).astype(int) - 1024)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    theirs = reader.Execute()
    assert np.array_equal(read.array, sitk.GetArrayFromImage(theirs))
    assert read.geometry is not None and read.geometry.spacing == pytest.approx(theirs.GetSpacing())
    assert read.geometry.origin == pytest.approx(theirs.GetOrigin())
    assert read.geometry.direction == pytest.approx(theirs.GetDirection())


def test_slices_with_rescaling_of_their_own_keep_fractions(tmp_path):
    """SimpleITK's reader of series takes the type of the first slice and cuts off fractions, as in PET."""
    save_slice(tmp_path / "pt/0", values(0)[0], ORIGIN, RescaleSlope=1, RescaleIntercept=0)
    save_slice(tmp_path / "pt/1", values(0)[1], (*ORIGIN[:2], 102.5), RescaleSlope=0.25, RescaleIntercept=-10)
    array = read_picture(tmp_path / "pt").array
    assert np.array_equal(array, [values(0)[0], values(0)[1] * 0.25 - 10])


@pytest.mark.usefixtures("nnunet_folders")
@pytest.mark.parametrize("kind", ["nifti", "segmentation", "segmentation alone", "series"])
def test_series_with_masks_of_any_kind_become_a_dataset(tmp_path, kind):
    for index in CASES:
        patient = tmp_path / f"download/p{index}"
        series = save_series(patient / "ct", values(index))
        match kind:
            case "nifti":
                save_volume(patient / "mask.nii.gz", labels(), SPACING, ORIGIN)
            case "segmentation":
                save_segmentation(patient / "seg/1-1.dcm", series, labels())
            case "segmentation alone":
                save_segmentation(patient / "mask.dcm", series, labels())
            case "series":
                save_series(patient / "seg", labels().astype(np.uint16), RescaleIntercept=0)
    mask = {"nifti": "*/mask.nii.gz", "segmentation alone": "*/mask.dcm"}.get(kind, "*/seg")
    label_map = ("--label-map", "0=background", "1=liver", "2=tumour")
    convert("folder", tmp_path / "download", *OPTIONS, mask, *label_map)
    for index in CASES:
        image = sitk.ReadImage(raw_dataset("Dataset007_Liver") / f"imagesTr/p{index}_0000.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(image), values(index).astype(int) - 1024)
        assert image.GetSpacing() == pytest.approx(SPACING) and image.GetOrigin() == pytest.approx(ORIGIN)
        label = sitk.ReadImage(raw_dataset("Dataset007_Liver") / f"labelsTr/p{index}.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(label), labels())
    convert("folder", tmp_path / "download", *OPTIONS, mask, *label_map)  # recognised as the same
    path = tmp_path / "download/p1/ct/IM00.dcm"
    path.write_bytes(path.read_bytes() + b"\0\0")
    text = refusal_in_one_sentence("folder", tmp_path / "download", *OPTIONS, mask, *label_map)
    assert_says(text, "1 differ, first p1")


@pytest.mark.usefixtures("nnunet_folders")
def test_single_images_without_ending_become_two_axis_nifti_with_png_masks(tmp_path, capsys):
    for index in CASES:
        save_slice(tmp_path / f"download/xray/IM{index}", values(index)[0])
        save(tmp_path / f"download/masks/IM{index}.png", labels()[1])
    convert("folder", tmp_path / "download", "--images", "xray/*", "--masks", "masks/*.png", *OPTIONS[2:6])
    image = sitk.ReadImage(raw_dataset("Dataset007_Liver") / "imagesTr/IM1_0000.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(image), values(1)[0])
    assert image.GetSpacing() == pytest.approx(SPACING[:2])
    assert "-c 2d" in capsys.readouterr().out


def test_inverted_grey_values_are_turned(tmp_path):
    path = save_slice(
        tmp_path / "x.dcm", values(0)[0], PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11
    )
    assert np.array_equal(read_picture(path).array[0], 4095 - values(0)[0])


@pytest.mark.parametrize("compressed", [True, False])
def test_colours_arrive_as_pillow_sees_them(tmp_path, compressed):
    """Ultrasound is stored so."""
    path = save_slice(tmp_path / "x.dcm", values(0)[0])
    image = Image.fromarray(noise(0, (8, 16, 3)))
    dataset = pydicom.dcmread(path)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = 8, 16, 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    if compressed:
        image.save(tmp_path / "x.jpg")
        image = Image.open(tmp_path / "x.jpg")
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.PixelData = pydicom.encaps.encapsulate([(tmp_path / "x.jpg").read_bytes()])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = image.convert("YCbCr").tobytes()
        image = image.convert("YCbCr").convert("RGB")
    dataset.PhotometricInterpretation = "YBR_FULL_422" if compressed else "YBR_FULL"
    dataset.save_as(path)
    assert np.abs(read_picture(path).array[0].astype(int) - np.asarray(image)).max() <= 2


# ---- segmentations ---------------------------------------------------------------------------------------------------


def test_segmentation_of_an_oblique_or_coronal_series_lies_on_it(tmp_path):
    for name, orientation in (("coronal", CORONAL), ("oblique", OBLIQUE)):
        series = save_series(tmp_path / name, values(0), orientation)
        path = save_segmentation(tmp_path / f"{name}.dcm", series, labels()[[0, 1, 1, 1, 0]])
        image = read_picture(series)
        mask = in_place_of(read_mask((path,), image.shape), image)
        assert grid_difference(image, mask) == "" and np.array_equal(mask.array, labels()[[0, 1, 1, 1, 0]])


@pytest.mark.usefixtures("nnunet_folders")
def test_segmentation_of_another_series_is_refused(tmp_path):
    for index in CASES:
        series = save_series(tmp_path / f"download/p{index}/ct", values(index))
        save_segmentation(tmp_path / f"download/p{index}/mask.dcm", series, labels())
    shutil.rmtree(tmp_path / "download/p1/ct")
    save_series(tmp_path / "download/p1/ct", values(0)[:2])
    text = refusal_in_one_sentence(
        "folder", tmp_path / "download", *OPTIONS, "*/mask.dcm", "--label-map", "0=background", "1=a", "2=b"
    )
    assert_says(text, tmp_path / "download/p1/mask.dcm", "but its image", tmp_path / "download/p1/ct", "is 10x12x2")


def test_overlapping_segments_are_refused(tmp_path, series):
    both = np.stack([labels() > 0, labels() == 1], -1).astype(np.uint8)
    path = save_segmentation(tmp_path / "seg.dcm", series, both)
    with pytest.raises(UserError, match=r"seg\.dcm cannot be read as one label map .*save each segment in a file"):
        read_mask((path,), SHAPE)


def test_mask_that_does_not_cover_its_image_is_completed_only_if_it_may_be_a_part():
    image = Picture(np.zeros(SHAPE), UNKNOWN_PLACE)
    part = Picture(labels()[1:4], UNKNOWN_PLACE._replace(origin=(0, 0, 1)), is_part=True)
    assert np.array_equal(in_place_of(part, image).array, labels())
    turned = part._replace(
        array=part.array[::-1],
        geometry=UNKNOWN_PLACE._replace(origin=(0, 0, 3), direction=(1, 0, 0, 0, 1, 0, 0, 0, -1)),
    )
    assert np.array_equal(in_place_of(turned, image).array, labels())
    assert in_place_of(part._replace(is_part=False), image).shape == (3, 12, 10)
    for origin in ((0, 0, 1.3), (0, 0, 3), (-1, 0, 1)):
        elsewhere = part._replace(geometry=UNKNOWN_PLACE._replace(origin=origin))
        assert in_place_of(elsewhere, image) is elsewhere


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_several_series_in_a_folder_are_refused(series):
    save_slice(series / "scout.dcm", values(0)[0], SeriesInstanceUID="1.2.4", SeriesDescription="Scout")
    text = refusal(series)
    assert_says(text, f"{series} has 2 DICOM series", "files of 1.2.3: 5, Scout: 1", "a folder of its own")


@pytest.mark.parametrize("name", ["IM07.dcm", "IM14.dcm"])
def test_missing_slice_is_refused(series, name):
    (series / name).unlink()
    assert_says(refusal(series), "are 5 mm apart, but most slices 2.5 mm", "slices are missing", "export the whole")


def test_slices_at_one_place_are_refused(series):
    save_slice(series / "again.dcm", values(1)[0])
    assert_says(refusal(series), "lie at the same place", "a folder of its own")


def test_slices_of_a_tilted_gantry_are_refused(tmp_path):
    for index in range(4):
        save_slice(tmp_path / f"ct/{index}.dcm", values(0)[index], (0, index * 0.5, 2.5 * index))
    assert_says(refusal(tmp_path / "ct"), "shifted by up to 1.5 mm", "tilted gantry")


def test_slice_that_is_not_parallel_is_refused(series):
    path = save_slice(series / "x.dcm", values(0)[0], (0, 0, 500), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert_says(refusal(series), path, "is not parallel", "localizer")


def test_slice_without_position_is_refused(series):
    path = save_slice(series / "x.dcm", values(0)[0], ImagePositionPatient=None)
    assert_says(refusal(series), f"{path} has no ImagePositionPatient")


def test_slice_of_another_size_is_refused(series):
    path = save_slice(series / "x.dcm", values(0)[0, :-1], (*ORIGIN[:2], ORIGIN[2] + 5 * SPACING[2]))
    assert_says(refusal(series), path, "has another size or spacing")


def test_slice_that_lacks_its_last_bytes_is_refused(series):
    path = series / "IM07.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    assert_says(refusal(series), path, "cannot be read", "export it again")


def test_file_that_is_no_dicom_is_refused(series):
    (series / "IM99.dcm").write_text("<html>404</html>")
    assert_says(refusal(series), series / "IM99.dcm", "cannot be read as DICOM")


def test_compression_without_a_codec_is_refused(series):
    dataset = pydicom.dcmread(series / "IM07.dcm")
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # high-throughput JPEG 2000
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(series / "IM07.dcm")
    text = refusal(series)
    assert_says(text, series / "IM07.dcm", "is compressed (1.2.840.10008.1.2.4.201)", "gdcmconv --raw")


def test_compressed_series_arrives(series):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
    assert np.array_equal(read_picture(series).array, values(0).astype(int) - 1024)


def test_values_of_another_kind_are_refused(tmp_path):
    path = save_slice(tmp_path / "x.dcm", values(0)[0], PhotometricInterpretation="HSV")
    assert_says(refusal(path), f"{path} holds values as HSV, but MONOCHROME1 or", "is expected: save it as PNG")


def test_segmentation_without_highdicom_is_one_sentence(tmp_path, series, monkeypatch):
    path = save_segmentation(tmp_path / "seg.dcm", series, labels())
    monkeypatch.setitem(__import__("sys").modules, "highdicom.seg", None)
    with pytest.raises(UserError, match="which highdicom reads: pip install highdicom"):
        read_mask((path,), SHAPE)
