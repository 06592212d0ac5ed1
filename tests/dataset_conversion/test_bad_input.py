"""Proves that bad data, options and machines end ``nnunet-plugins convert`` with one clear sentence, and leave nothing.

Every test goes through the command. ``refusal`` compares all of nnU-Net's folders before and after.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from support import cell_datasets

from nnunet_plugins.cli import main
from nnunet_plugins.dataset_conversion import command, writer

PNGS = ("folder", "--images", "images/*.png", "--masks", "masks/*.png", "--dataset-name", "Cells", "-d", "7")
TIFFS = tuple(option.replace(".png", ".tif") for option in PNGS)
VOLUMES = tuple(option.replace(".png", ".nii.gz") for option in PNGS)
SIZE = (20, 24)
NOBODY = 65534


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Iterator[Path]:
    """nnU-Net's folders and the download. nnU-Net's own check, which starts processes, is not the point here."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    monkeypatch.setattr(command, "convert", partial(writer.convert, check=False))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    yield tmp_path
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.fixture
def download(root) -> Path:
    """Three pictures with masks of 0 and 255."""
    for index in range(3):
        save(root / f"download/images/{index}.png", picture(index))
        save(root / f"download/masks/{index}.png", mask())
    return root / "download"


@pytest.fixture
def volumes(root) -> Path:
    """Three volumes with masks of 0 and 1."""
    for index in range(3):
        save_volume(root / f"download/images/{index}.nii.gz", noise(index))
        save_volume(root / f"download/masks/{index}.nii.gz", mask_volume())
    return root / "download"


def picture(seed: int = 0, size: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def mask(foreground: int = 255) -> np.ndarray:
    array = np.zeros(SIZE, np.uint8)
    array[5:15, 5:15] = foreground
    return array


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 100, (4, 10, 12)).astype(np.float32)


def mask_volume() -> np.ndarray:
    array = np.zeros((4, 10, 12), np.uint8)
    array[1:3, 2:6, 2:6] = 1
    return array


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_volume(path: Path, array: np.ndarray, *, spacing=(1, 1, 2), origin=(3, 4, 5), direction=None) -> Path:
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction or (1, 0, 0, 0, 1, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)
    return path


def truncate(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Everything below nnU-Net's folders, hidden files too."""
    folders = folders or tuple(Path(os.environ[v]) for v in cell_datasets.NNUNET_FOLDERS if v in os.environ)
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def convert(name: str, source: Path, *options: object) -> None:
    main(["convert", name, str(source), *map(str, options), *(() if "-np" in options else ("-np", "1"))])


def refused(name: str, source: Path, *options: object) -> str:
    """What the user reads; nnU-Net's folders are as before."""
    before = contents()
    with pytest.raises(SystemExit) as exit:
        convert(name, source, *options)
    assert contents() == before
    assert isinstance(exit.value.code, str)  # the interpreter prints it and exits with 1
    return exit.value.code


def refusal(name: str, source: Path, *options: object) -> str:
    """As ``refused``, and it is one sentence: no lines, no full stops within, no representation of objects."""
    text = refused(name, source, *options)
    assert "\n" not in text and "Traceback" not in text and " object at 0x" not in text
    assert not re.search(r"(?<!e\.g)[.!?] +[A-Z]", text), f"more than one sentence: {text}"
    return text


def says(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text, f"{part!s:.200} is not in: {text}"


# ---- files that lack, exceed, or do not match ------------------------------------------------------------------------


def test_missing_mask_is_named(download):
    (download / "masks/1.png").unlink()
    says(refusal(*at(PNGS, download)), download / "images/1.png", "has no mask", "masks/1.png", "add it, or remove")


def test_mask_without_image_is_named(download):
    save(download / "masks/9.png", mask())
    says(refusal(*at(PNGS, download)), download / "masks/9.png", "has no image", "images/9.png", "add it, or remove")


def test_missing_channel_is_named(download):
    for index in range(2):
        save(download / f"second/{index}.png", picture(index)[..., 0])
    for index in range(3):
        save(download / f"images/{index}.png", picture(index)[..., 0])
    options = ("--images", "images/*.png", "second/*.png", "--channels", "a", "b", *PNGS[3:])
    says(refusal("folder", download, *options), download / "images/2.png", "there is no second/2.png", "add it")


def test_image_and_mask_of_different_sizes_are_named_with_sizes(download):
    path = save(download / "masks/1.png", mask()[:, :-1])
    says(refusal(*at(PNGS, download)), path, "is 23x20", download / "images/1.png", "is 24x20", "published file")


def test_mask_turned_by_90_degrees_is_refused(download):
    path = save(download / "masks/1.png", np.rot90(mask()))
    says(refusal(*at(PNGS, download)), path, "is 20x24", "is 24x20")


def test_volumes_of_different_sizes_are_named_with_sizes(volumes):
    path = save_volume(volumes / "masks/1.nii.gz", mask_volume()[:-1])
    says(refusal(*at(VOLUMES, volumes)), path, "is 12x10x3", volumes / "images/1.nii.gz", "is 12x10x4")


def test_two_files_for_one_case_are_named(download):
    again = save(download / "masks/1.tif", mask())
    options = [option.replace("masks/*.png", "masks/*.{png,tif}") for option in PNGS]
    says(refusal(*at(options, download)), download / "masks/1.png", again, "'1'", "keep one of them")


def test_two_names_that_become_one_identifier_are_named(download):
    for name in ("a (1)", "a [1]"):
        save(download / f"images/{name}.png", picture())
        save(download / f"masks/{name}.png", mask())
    text = refusal(*at(PNGS, download))
    says(text, download / "images/a (1).png", download / "images/a [1].png", "'a_1_'", "rename one")


def test_masks_of_another_folder_are_refused_by_name(download):
    (download / "masks").rename(download / "annotations")
    says(refusal(*at(PNGS, download)), download, "'masks/*.png'", "the end of a file's path")


# ---- values of masks -------------------------------------------------------------------------------------------------


def test_grey_values_in_binary_mask_are_shown_with_their_shares(download):
    array = mask()
    array[0, :12] = 100
    path = save(download / "masks/1.png", array)
    text = refusal(*at(PNGS, download))
    says(
        text, path, "0 (76.67%), 100 (2.50%), 255 (20.83%)", "only 0 and 255, or 0 and 1", "--threshold", "--label-map"
    )


def test_many_grey_values_are_counted_and_not_listed(download):
    save(download / "masks/1.png", picture()[..., 0])
    text = refusal(*at(PNGS, download))
    says(text, "rarer ones")
    assert len(text) < 600


def test_mask_with_0_1_and_255_is_refused(download):
    array = mask()
    array[0, 0] = 1
    save(download / "masks/1.png", array)
    says(refusal(*at(PNGS, download)), "0 (78.96%), 1 (0.21%), 255 (20.83%)")


def test_grey_photo_among_jpeg_masks_is_refused(root):
    source = root / "Kvasir-SEG"
    for index in range(3):
        save(source / f"images/{index}.jpg", picture(index))
        save(source / f"masks/{index}.jpg", mask())
    path = save(source / "masks/1.jpg", np.tile(np.arange(0, 240, 10, dtype=np.uint8), (20, 1)))
    says(refusal("kvasir_seg", root), path, "even a JPEG", "% are not", "replace the file by the published one")


def test_coloured_mask_is_refused(download):
    path = save(download / "masks/1.png", picture())
    says(refusal(*at(PNGS, download)), path, "is coloured", "grey values are expected", "save it with one channel")


def test_unexpected_label_value_is_shown_with_the_expected_ones(volumes):
    array = mask_volume()
    array[0, 0, 0] = 7
    path = save_volume(volumes / "masks/1.nii.gz", array)
    text = refusal(*at(VOLUMES, volumes), "--label-map", "0=background", "1=cell")
    says(text, path, "7 (0.21%)", "only 0 and 1 are expected", "name every value in --label-map")


def test_fractional_and_negative_label_values_are_shown(volumes):
    array = mask_volume().astype(np.float32)
    array[0, 0, :2] = 0.5, -3
    save_volume(volumes / "masks/1.nii.gz", array)
    says(refusal(*at(VOLUMES, volumes), "--label-map", "0=background", "1=cell"), "-3 (0.21%)", "0.5 (0.21%)")


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_empty_file_is_named(download, kind):
    path = download / kind / "1.png"
    path.write_bytes(b"")
    says(refusal(*at(PNGS, download)), path, "is empty (0 bytes)", "download it again")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif", ".gif"])
def test_truncated_picture_is_named(download, kind, ending):
    for index in range(3):
        save(download / f"{kind}/{index}{ending}", picture(index) if kind == "images" else mask())
    path = truncate(download / kind / f"1{ending}")
    options = [option.replace(f"{kind}/*.png", f"{kind}/*{ending}") for option in PNGS]
    says(refusal(*at(options, download)), path, "cannot be read", "download it again")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_truncated_volume_is_named(volumes, kind, ending, share):
    """SimpleITK itself fills what is missing of NIfTI with zeros or whatever lies in memory."""
    array = np.random.default_rng(0).integers(0, 2, (4, 10, 12), np.uint8)
    for index in range(3):
        save_volume(volumes / f"{kind}/{index}{ending}", noise(index) if kind == "images" else array)
    path = volumes / kind / f"1{ending}"
    os.truncate(path, int(share * path.stat().st_size))
    options = [option.replace(f"{kind}/*.nii.gz", f"{kind}/*{ending}") for option in VOLUMES]
    says(refusal(*at(options, volumes)), path, "cannot be read", "download it again")


def test_header_without_its_voxels_is_named(root):
    for index in range(3):
        save_volume(root / f"download/Case0{index}.mhd", noise(index))
        save_volume(root / f"download/Case0{index}_segmentation.mhd", mask_volume())
    (root / "download/Case01.raw").unlink()
    text = refusal("promise12", root / "download")
    says(text, root / "download/Case01.mhd", "cannot be read", "damaged or incomplete; download it again")


@pytest.mark.parametrize("first", [True, False])
def test_text_named_as_picture_is_named(download, first):
    path = download / f"images/{0 if first else 2}.png"
    path.write_text("<html>404 Not Found</html>")
    says(refusal(*at(PNGS, download)), path, "cannot be read", "no image")


def test_text_named_as_volume_is_named(volumes):
    path = volumes / "images/0.nii.gz"
    path.write_text("<html>404 Not Found</html>")
    says(refusal(*at(VOLUMES, volumes)), path, "cannot be read", "download it again")


def test_dangling_link_is_named(download):
    path = download / "images/1.png"
    path.unlink()
    path.symlink_to(download / "nowhere.png")
    says(refusal(*at(PNGS, download)), path, "cannot be read", "No such file")


# ---- pictures and volumes that nnU-Net cannot train on ---------------------------------------------------------------


def test_tiff_of_several_frames_is_refused(download):
    path = download / "images/0.tif"
    Image.fromarray(picture()).save(path, save_all=True, append_images=[Image.fromarray(picture(1))] * 2)
    shutil.copy(download / "masks/0.png", download / "masks/0.tif")
    save(download / "masks/0.tif", mask())
    says(refusal(*at(TIFFS, download)), path, "has 3 frames", "one image is expected", "save volumes as NIfTI")


def test_floating_point_tiff_is_refused(download):
    path = save(download / "images/0.tif", noise()[0])
    save(download / "masks/0.tif", mask()[:10, :12])
    says(refusal(*at(TIFFS, download)), path, "floating-point values", "save it as NIfTI")


def test_volume_among_pictures_and_picture_among_volumes_are_refused(download):
    volume = save_volume(download / "images/9.nii.gz", noise())
    save_volume(download / "masks/9.nii.gz", mask_volume())
    options = [option.replace(".png", ".{png,nii.gz}") for option in PNGS]
    says(refusal(*at(options, download)), volume, "is a volume", "convert them separately")
    shutil.move(volume, download / "images/-.nii.gz")
    shutil.move(download / "masks/9.nii.gz", download / "masks/-.nii.gz")
    for index in (1, 2):
        (download / f"images/{index}.png").unlink()
        (download / f"masks/{index}.png").unlink()
    says(refusal(*at(options, download)), download / "images/0.png", "two-dimensional", "convert them separately")


def test_coloured_picture_among_grey_ones_is_refused(download):
    save(download / "images/0.png", picture()[..., 0])
    text = refused(*at(PNGS, download))
    says(text, download / "images/1.png", download / "images/2.png", "is coloured", "2 problems")


def test_4d_nifti_is_refused(volumes):
    path = volumes / "images/1.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(noise(index)) for index in range(2)]), path)
    text = refusal(*at(VOLUMES, volumes))
    says(text, path, "4 dimensions", "a volume with one is expected", "save a file for each channel")


def test_voxels_that_are_no_number_are_refused(volumes):
    array = noise()
    array[0, 0, 0] = np.nan
    path = save_volume(volumes / "images/1.mha", array)
    (volumes / "images/1.nii.gz").unlink()
    options = [option.replace("images/*.nii.gz", "images/*.{nii.gz,mha}") for option in VOLUMES]
    says(refusal(*at(options, volumes)), path, "not a number (NaN)", "replace them")


def test_volume_of_vectors_is_refused(volumes):
    path = save_volume(volumes / "images/1.nii.gz", np.stack([noise(), noise(1)], -1), spacing=(1, 1, 1))
    says(refusal(*at(VOLUMES, volumes)), path, "channel(s)", "save a file for each channel")


TURNED = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
OTHER_GRIDS = {
    "spacing": ({"spacing": (1, 1, 3)}, "spacing (1, 1, 3) and not (1, 1, 2)"),
    "origin": ({"origin": (3, 4, 6)}, "origin (3, 4, 6) and not (3, 4, 5)"),
    "direction": ({"direction": TURNED}, "direction (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1) and not (1, 0, 0, 0"),
}


@pytest.mark.parametrize("what", OTHER_GRIDS)
def test_mask_that_lies_elsewhere_is_refused_unless_the_image_is_trusted(volumes, what, capsys):
    grid, sentence = OTHER_GRIDS[what]
    path = save_volume(volumes / "masks/1.nii.gz", mask_volume(), **grid)
    text = refusal(*at(VOLUMES, volumes))
    says(text, path, "lies elsewhere than its image", volumes / "images/1.nii.gz", sentence, "--trust-image-geometry")
    assert all(other not in text for other in OTHER_GRIDS if other != what and other != "spacing")

    convert(*at(VOLUMES, volumes), "--trust-image-geometry")
    folder = written()
    image, label = (sitk.ReadImage(folder / name) for name in ("imagesTr/1_0000.nii.gz", "labelsTr/1.nii.gz"))
    assert label.GetSpacing() == image.GetSpacing() == (1, 1, 2)
    assert label.GetOrigin() == image.GetOrigin() == (3, 4, 5)
    assert label.GetDirection() == image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(sitk.GetArrayFromImage(label), mask_volume())


def test_channel_that_lies_elsewhere_is_refused(volumes):
    for index in range(3):
        save_volume(volumes / f"second/{index}.nii.gz", noise(index), origin=(0, 0, 0) if index == 2 else (3, 4, 5))
    options = ("--images", "images/*.nii.gz", "second/*.nii.gz", "--channels", "T1", "T2", *VOLUMES[3:])
    text = refusal("folder", volumes, *options)
    says(text, volumes / "second/2.nii.gz", "origin (0, 0, 0) and not (3, 4, 5)", "the channel's header")


# ---- options ---------------------------------------------------------------------------------------------------------


def at(options: tuple[str, ...] | list[str], source: Path) -> tuple[object, ...]:
    return (options[0], source, *options[1:])


def written(name: str = "Dataset007_Cells") -> Path:
    return Path(os.environ["nnUNet_raw"], name)


def test_pattern_that_the_shell_has_expanded_is_refused(download):
    options = ("--images", *(str(path) for path in sorted(download.glob("images/*.png"))), *PNGS[3:])
    says(refusal("folder", download, *options), download / "images/0.png", "no wildcard", "in quotes")


@pytest.mark.parametrize(
    "entries, parts",
    [
        (["0=background", "1=cell", "2=cell"], ["'2=cell'", "repeats a value or a name"]),
        (["0=background", "1=cell", "1=nucleus"], ["'1=nucleus'", "repeats a value or a name"]),
        (["0=cell", "1=nucleus"], ["names no background", "0=background"]),
        (["background"], ["'background'", "VALUE=NAME"]),
        (["zero=background"], ["'zero=background'", "VALUE=NAME"]),
        (["0=background", "1="], ["'1='", "VALUE=NAME"]),
        (["0=background", " --5=cell"], ["--5=cell", "VALUE=NAME"]),
    ],
)
def test_label_map_that_is_no_bijection_or_unclear_is_refused(download, entries, parts):
    says(refusal(*at(PNGS, download), "--label-map", *entries), "--label-map", *parts)


def test_label_map_with_threshold_is_refused(download):
    text = refusal(*at(PNGS, download), "--label-map", "0=background", "255=cell", "--threshold", "127")
    says(text, "--label-map and --threshold", "one of them")


def test_several_patterns_without_names_of_channels_are_refused(download):
    text = refusal("folder", download, "--images", "images/*.png", "masks/*.png", *PNGS[3:])
    says(text, "2 patterns", "--channels")


def test_number_of_names_of_channels_that_does_not_fit_is_refused(download):
    text = refused(*at(PNGS, download), "--channels", "a", "b")
    says(text, download / "images/0.png", "has 3 channels, but 2 are expected", "--channels")
    two = ("--images", "images/*.png", "masks/*.png", *PNGS[3:])
    says(refusal("folder", download, *two, "--channels", "a", "b", "c"), "names 3", "2 patterns")


def test_grey_picture_has_one_channel_and_not_as_many_as_columns(download):
    for index in range(3):
        save(download / f"images/{index}.png", picture(index)[..., 0])
    says(refused(*at(PNGS, download), "--channels", "a", "b"), "has 1 channel", "2 are expected")


def test_several_names_of_channels_for_one_file_of_volumes_are_refused(volumes):
    says(refused(*at(VOLUMES, volumes), "--channels", "T1", "T2"), "--channels")


@pytest.mark.parametrize("pattern", ["images/{a*.png", "images/{*.png"])
def test_pattern_with_an_open_brace_is_refused(download, pattern):
    says(refusal("folder", download, "--images", pattern, *PNGS[3:]), pattern)


@pytest.mark.parametrize("lacking", ["--images", "--masks", "--dataset-name", "-d"])
def test_folder_says_which_options_it_needs(download, lacking):
    index = PNGS.index(lacking)
    text = refusal(*at((*PNGS[:index], *PNGS[index + 2 :]), download))
    says(text, "--dataset-id" if lacking == "-d" else lacking, "--images 'images/*.png'")


@pytest.mark.parametrize("name", ["../Cells", "a b", "", "a.b", "a/b"])
def test_dataset_name_that_is_no_folder_name_is_refused(download, name):
    options = [name if option == "Cells" else option for option in PNGS]
    says(refusal(*at(options, download)), repr(name), "letters, digits, _ and -")


@pytest.mark.parametrize(
    "option", [("--images", "*.png"), ("--masks", "*.png"), ("--dataset-name", "a"), ("--threshold", "0")]
)
def test_option_of_folder_with_a_named_dataset_is_refused(download, option):
    says(refusal("isic2018", download, *option), option[0], "'folder' only", "isic2018")


@pytest.mark.parametrize("fraction", ["0", "-0.1", "1.01", "nan", "inf"])
def test_bad_foreground_fraction_is_refused(download, fraction):
    text = refusal(*at(PNGS, download), f"--max-foreground-fraction={fraction}")
    says(text, "--max-foreground-fraction", "above 0 and at most 1")


def test_fraction_that_no_case_is_below_is_refused(download):
    text = refusal(*at(PNGS, download), "--max-foreground-fraction", "0.001")
    says(text, "0.1000%", "give a higher --max-foreground-fraction")


@pytest.mark.parametrize("number", ["0", "-2"])
def test_fewer_than_one_process_is_refused(download, number):
    says(refusal(*at(PNGS, download), f"-np={number}", "-np", number), f"-np {number}", "at least 1")


@pytest.mark.parametrize("number", ["0", "1000", "-1"])
def test_number_outside_1_to_999_is_refused(download, number):
    text = refusal("folder", download, *PNGS[1:-2], f"--dataset-id={number}")
    says(text, f"--dataset-id {number}", "from 1 to 999")


def test_number_that_is_no_number_is_refused_by_the_parser(download, capsys):
    with pytest.raises(SystemExit) as exit:
        convert("folder", download, *PNGS[1:-1], "seven")
    assert exit.value.code == 2 and "'seven'" in capsys.readouterr().err


def test_regions_and_paper_split_where_there_are_none_are_refused(download):
    says(refusal(*at(PNGS, download), "--regions"), "leave out --regions")
    says(refusal(*at(PNGS, download), "--paper-split"), "no published split", "leave out --paper-split")


@pytest.mark.parametrize("name, similar", [("kvasir", "kvasir_seg"), ("ISIC2018", "isic2018"), ("xyz", "folder")])
def test_wrong_name_of_a_dataset_gets_suggestions(download, name, similar):
    says(refused(name, download), repr(name), "Did you mean", similar)


def test_no_name_and_no_source_are_refused():
    for arguments in ([], ["isic2018"]):
        with pytest.raises(SystemExit) as exit:
            main(["convert", *arguments])
        says(str(exit.value.code), "--list", "convert NAME SOURCE")


# ---- source and nnU-Net's folders ------------------------------------------------------------------------------------


def test_source_that_does_not_exist_is_named(root):
    says(refusal("isic2018", root / "nowhere"), root / "nowhere", "does not exist", "the folder, or the archive")


@pytest.mark.parametrize("name", ["file.png", "data.rar", "data.7z", "data.gz"])
def test_plain_file_and_foreign_archive_as_source_are_refused(root, name):
    (root / name).write_bytes(b"Rar!")
    says(refusal("isic2018", root / name), root / name, "neither a folder nor an archive", ".zip", "unpack it")


def test_archive_that_cannot_be_opened_here_is_named(root):
    (root / "download").mkdir()
    (root / "download/training.rar").write_bytes(b"Rar!")
    text = refused("isic2018", root / "download")
    says(text, root / "download", "is not the published isic2018", "Unpack training.rar first")


def test_download_of_another_dataset_is_recognised(root):
    for kind in ("images", "masks"):
        save(root / f"download/Kvasir-SEG/{kind}/1.jpg", mask())
    text = refused("isic2018", root / "download")
    says(text, "is not the published isic2018", "ISIC2018_Task1-2_Training_Input/ISIC_#.jpg", "looks like kvasir_seg")
    assert "isic2016" not in text


def test_empty_folder_is_not_recognised_as_anything(root):
    (root / "download").mkdir()
    text = refusal("isic2018", root / "download")
    says(text, "is not the published isic2018, which has")
    assert "looks like" not in text and "Unpack" not in text


@pytest.mark.parametrize("variable", cell_datasets.NNUNET_FOLDERS)
def test_number_that_another_dataset_has_is_refused(download, variable):
    other = Path(os.environ[variable], "Dataset007_Other")
    other.mkdir()
    says(refusal(*at(PNGS, download)), "The number 7 belongs to", other, "another --dataset-id")


def test_dataset_that_comes_from_elsewhere_is_kept(download):
    (written() / "imagesTr").mkdir(parents=True)
    text = refusal(*at(PNGS, download))
    says(text, written(), "not from this converter", "another --dataset-id", "--overwrite")


@pytest.mark.parametrize(
    "option",
    [
        ("--threshold", "100"),
        ("--max-foreground-fraction", "0.9"),
        ("--trust-image-geometry",),
        ("--near-duplicates",),
        ("--groups", "groups.csv"),
    ],
)
def test_dataset_of_other_options_is_kept(download, monkeypatch, option):
    monkeypatch.chdir(download)
    Path("groups.csv").write_text("case,group\n0,a\n1,b\n2,b\n")
    convert(*at(PNGS, download))
    text = refusal(*at(PNGS, download), *option)
    says(text, written(), "with other options", '"images": ["images/*.png"]', "another --dataset-id", "--overwrite")


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_dataset_of_other_files_is_kept(download, change):
    convert(*at(PNGS, download))
    match change:
        case "changed":
            save(download / "masks/1.png", mask() | 255)
        case "added":
            save(download / "images/1a.png", picture())
            save(download / "masks/1a.png", mask())
        case "removed":
            (download / "images/1.png").unlink()
            (download / "masks/1.png").unlink()
    first = "1a" if change == "added" else "1"
    text = refusal(*at(PNGS, download))
    says(text, written(), f"from other files (1 differ, first {first})", "--overwrite")


def test_same_conversion_again_writes_nothing_and_is_no_error(download, capsys):
    convert(*at(PNGS, download))
    before = contents()
    convert(*at(PNGS, download))
    assert contents() == before
    assert "nothing to do" in capsys.readouterr().out


def test_overwrite_replaces_the_dataset_and_its_folds(download):
    convert(*at(PNGS, download))
    (written() / "extra").touch()
    (download / "images/1.png").unlink()
    (download / "masks/1.png").unlink()
    convert(*at(PNGS, download), "--overwrite")
    assert sorted(path.name for path in (written() / "labelsTr").iterdir()) == ["0.png", "2.png"]
    assert not (written() / "extra").exists()
    assert [path.name for path in Path(os.environ["nnUNet_raw"]).iterdir()] == ["Dataset007_Cells"]
    placed = Path(os.environ["nnUNet_preprocessed"], written().name, "splits_final.json")
    assert placed.read_bytes() == (written() / "splits_final.json").read_bytes()


def test_failed_overwrite_keeps_the_dataset(download):
    convert(*at(PNGS, download))
    truncate(download / "images/1.png")
    says(refusal(*at(PNGS, download), "--overwrite"), download / "images/1.png", "cannot be read")


def test_other_folds_that_nnunet_has_are_kept(download):
    path = Path(os.environ["nnUNet_preprocessed"], "Dataset007_Cells/splits_final.json")
    path.parent.mkdir()
    path.write_text('[{"train": ["0"], "val": ["1", "2"]}]')
    says(refusal(*at(PNGS, download)), path, "other folds", "remove it, or give --overwrite")


def test_folds_that_cannot_be_read_are_kept(download):
    path = Path(os.environ["nnUNet_preprocessed"], "Dataset007_Cells/splits_final.json")
    path.parent.mkdir()
    path.write_text("[{")
    says(refusal(*at(PNGS, download)), path, "other folds")


def test_raw_folder_that_is_not_set_is_asked_for(download, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    says(refusal(*at(PNGS, download)), "nnUNet_raw is not set", "export nnUNet_raw=")


def test_dry_run_needs_no_folders_and_writes_nothing(download, monkeypatch, capsys):
    for variable in cell_datasets.NNUNET_FOLDERS:
        monkeypatch.delenv(variable)
    before = contents(download.parent)
    monkeypatch.chdir(download)
    convert(*at(PNGS, download), "--dry-run")
    assert contents(download.parent) == before
    assert "Dry run: nothing was written" in capsys.readouterr().out


def test_raw_folder_that_is_a_file_is_named(download, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(download / "images/0.png"))
    says(refusal(*at(PNGS, download)), download / "images/0.png", "cannot be made", "set nnUNet_raw")


def test_leftover_of_a_killed_conversion_is_named(download):
    leftover = Path(os.environ["nnUNet_raw"], ".Dataset007_Cells.partial")
    leftover.mkdir()
    text = refusal(*at(PNGS, download))
    says(text, leftover, "another conversion is writing it, or one was killed", "remove it")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write everywhere; nobody may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable_download(download, monkeypatch) -> Iterator[Path]:
    """The download and nnU-Net's folders where everybody may read; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(download, folder / "download")
    cell_datasets.use_nnunet_folders(folder, monkeypatch)
    yield folder / "download"
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_folder_without_permission_to_write_is_named(readable_download, packed):
    source = readable_download
    if packed:
        source = Path(shutil.make_archive(str(source), "zip", source))
    raw = Path(os.environ["nnUNet_raw"])
    raw.chmod(0o555)
    with ordinary_user():
        text = refusal(*at(PNGS, source))
    says(text, raw, "cannot be written (Permission denied)", "unpack the archives" if packed else "set nnUNet_raw")


def test_file_without_permission_to_read_is_named(readable_download):
    path = readable_download / "images/1.png"
    path.chmod(0)
    Path(os.environ["nnUNet_raw"]).chmod(0o777)
    with ordinary_user():
        says(refusal(*at(PNGS, readable_download)), path, "cannot be read", "Permission denied")


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_table_of_groups_that_is_missing_is_named(download):
    says(refusal(*at(PNGS, download), "--groups", download / "g.csv"), download / "g.csv", "No such file", "CSV file")


@pytest.mark.parametrize("text", ["", "case,group\n0\n", "case\n0\n1\n2\n", "case,group\n"])
def test_table_of_groups_that_is_broken_is_named(download, text):
    path = download / "g.csv"
    path.write_text(text)
    says(refusal(*at(PNGS, download), "--groups", path), path, "a header, and a case and its group in each row")


def test_table_of_groups_that_is_no_text_is_named(download):
    path = download / "images/0.png"
    says(refusal(*at(PNGS, download), "--groups", path), path, "no table of cases and groups")


def test_case_with_two_groups_is_named(download):
    path = download / "g.csv"
    path.write_text("case,group\n0,a\n1,a\n2,b\n1,b\n")
    says(refusal(*at(PNGS, download), "--groups", path), path, "two groups for '1'", "'a' and 'b'", "keep one")


def test_glands_without_the_table_of_patients_are_refused(root):
    for part in ("train_1", "train_1_anno"):
        save(root / f"download/{part}.bmp", mask())
    text = refusal("glas", root / "download")
    says(text, root / "download/train_1.bmp", "has no patient", "Grade.csv must lie with the images")


@pytest.mark.parametrize("text", ["", "name, grade\ntrain_1, 1\n", "name, patient ID\ntrain_1\n"])
def test_broken_table_of_patients_is_named(root, text):
    for part in ("train_1", "train_1_anno"):
        save(root / f"download/{part}.bmp", mask())
    (root / "download/Grade.csv").write_text(text)
    says(
        refused("glas", root / "download"), root / "download/Grade.csv", "'name' and 'patient ID'", "download it again"
    )


def test_test_set_alone_is_refused(root):
    for part in ("testA_1", "testA_1_anno"):
        save(root / f"download/{part}.bmp", mask())
    (root / "download/Grade.csv").write_text("name, patient ID\ntestA_1, 1\n")
    says(refusal("glas", root / "download"), "test set", "no training case", "complete the download")


def test_published_split_without_any_of_its_cases_is_refused(root):
    for part in ("", "_gt"):
        path = root / f"download/testing/patient101/patient101_frame01{part}.nii.gz"
        save_volume(path, mask_volume())
    text = refusal("acdc", root / "download", "--paper-split")
    says(text, root / "download", "no case of the published acdc split", "leave out --paper-split")


def test_case_without_group_is_named(download):
    path = download / "g.csv"
    path.write_text("case,group\n0,a\n2,b\n")
    says(refusal(*at(PNGS, download), "--groups", path), "no row for '1'", "add one")


# ---- full disks and signals ------------------------------------------------------------------------------------------


def failing_after(calls: int, original, error: BaseException):
    """The function, until it has been called so often."""
    count = 0

    def function(*arguments, **options):
        nonlocal count
        count += 1
        if count > calls:
            raise error
        return original(*arguments, **options)

    return function


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_disk_that_is_full_on_the_way_leaves_nothing(download, monkeypatch, calls):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Image.Image, "save", failing_after(calls, Image.Image.save, full))
    says(refusal(*at(PNGS, download)), os.environ["nnUNet_raw"], "the disk is full", "make room or set nnUNet_raw")


@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("ITK\nERROR: full")])
def test_disk_that_is_full_for_volumes_leaves_nothing(volumes, monkeypatch, calls, error):
    monkeypatch.setattr(sitk, "WriteImage", failing_after(calls, sitk.WriteImage, error))
    says(refusal(*at(VOLUMES, volumes)), os.environ["nnUNet_raw"], "full", "make room or set nnUNet_raw")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_volume_that_a_really_full_disk_has_cut_off_is_noticed(volumes, monkeypatch, kind):
    """SimpleITK prints a warning and goes on."""
    original = sitk.WriteImage

    def write_to_full_disk(image, path):
        if kind in Path(path).parts:
            Path(path).symlink_to("/dev/full")
        original(image, path)

    monkeypatch.setattr(sitk, "WriteImage", write_to_full_disk)
    says(refusal(*at(VOLUMES, volumes)), os.environ["nnUNet_raw"], "could not be written", "make room")


def test_disk_that_is_full_for_the_report_leaves_nothing(download, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(writer.output, "write_report", failing_after(0, None, full))
    says(refusal(*at(PNGS, download)), os.environ["nnUNet_raw"], "No space left on device", "make room")


@pytest.mark.parametrize("calls", [0, 3])
def test_interrupted_conversion_leaves_nothing(download, monkeypatch, calls):
    monkeypatch.setattr(Image.Image, "save", failing_after(calls, Image.Image.save, KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit:
        convert(*at(PNGS, download))
    assert exit.value.code == 130
    assert not contents()


def test_conversion_interrupted_while_unpacking_leaves_nothing(download, monkeypatch):
    archive = shutil.make_archive(str(download), "zip", download)
    monkeypatch.setattr(shutil, "copyfileobj", failing_after(2, shutil.copyfileobj, KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit:
        convert(*at(PNGS, Path(archive)))
    assert exit.value.code == 130
    assert not contents()


@pytest.mark.parametrize("processes", [1, 2])
def test_conversion_that_a_batch_system_ends_leaves_nothing(download, processes):
    """SIGTERM while the last of the pictures, which takes seconds, is being written."""
    save(download / "images/z.png", picture(0, (2000, 2000, 3)), compress_level=0)
    save(download / "masks/z.png", np.zeros((2000, 2000), np.uint8))
    command = "import sys; from nnunet_plugins.cli import main; main(sys.argv[1:])"
    arguments = ["convert", *map(str, at(PNGS, download)), "-np", str(processes)]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(Path(os.environ["nnUNet_raw"]).glob(".*.partial/images/z_*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not contents()


# ---- several problems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
def test_all_problems_are_listed_at_once(download, dry_run):
    (download / "masks/0.png").unlink()
    truncated = truncate(download / "images/1.png")
    grey = save(download / "masks/2.png", picture()[..., 0])
    text = refused(*at(PNGS, download), *(["--dry-run"] if dry_run else []))
    *problems, last = text.splitlines()
    assert len(problems) == 3
    assert all(problem.startswith("- ") for problem in problems)
    says(text, download / "images/0.png", truncated, grey)
    says(last, download, "these 3 problems", "nothing was converted")


def test_problems_end_the_process_with_1_and_no_traceback(download):
    (download / "masks/0.png").unlink()
    truncate(download / "images/1.png")
    command = "import sys; from nnunet_plugins.cli import main; main(sys.argv[1:])"
    arguments = ["convert", *map(str, at(PNGS, download)), "-np", "1", "--dry-run"]
    ended = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    says(ended.stderr, "these 2 problems", "images/0.png", "images/1.png")
    assert not contents()
