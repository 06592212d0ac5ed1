"""Miniatures of scans: volumes of the abdomen, heart, prostate and liver, slices of heads and kidneys."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from support.files import save, save_volume
from support.miniatures.drawing import OBLIQUE, SIZE, STRAIGHT, blob, box_labels, scan
from support.miniatures.records import Geometry, Miniature

# ---- volumes ---------------------------------------------------------------------------------------------------------


def write_synapse(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write all 13 organs, of which eight are kept; TransUNet tests on 0001, 0008 and 0038."""
    new_labels = np.array([0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8, 0, 0])
    folder = miniature.folder / "RawData"
    for number in (1, 5, 6, 7, 8, 9, 38, 40):
        organs = box_labels(rng, 13)
        image = scan(rng, organs, -1000, 800)
        geometry = Geometry((0.75, 0.8, 3.0 + number / 10), (-172.3, 179.5, -340.2 + number), OBLIQUE)
        image_path = save_volume(folder / "Training" / "img" / f"img{number:04}.nii.gz", image, *geometry)
        stored = organs.astype(np.float32) if number == 5 else organs  # one label map stored as floats
        label_path = save_volume(folder / "Training" / "label" / f"label{number:04}.nii.gz", stored, *geometry)
        miniature.add(
            f"case{number:04}",
            image,
            new_labels[organs],
            image_path,
            label_path,
            geometry=geometry,
            paper="test" if number in (1, 8, 38) else "train",
        )
    # a test scan, without labels
    save_volume(folder / "Testing" / "img" / "img0061.nii.gz", image, *geometry)


def write_acdc(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write patients of all parts of the 70/10/20 split, and of the test set, whose masks are published too."""
    folder = miniature.folder / "ACDC" / "database"
    parts = {1: "train", 4: "train", 100: "train", 19: "val", 80: "val", 2: "test", 95: "test", 101: None, 150: None}
    for number, paper in parts.items():
        patient = f"patient{number:03}"
        patient_folder = folder / ("training" if number <= 100 else "testing") / patient
        geometry = Geometry((1.5625, 1.5, 10.0), (-12.5, 30.0, 7.25), OBLIQUE if number % 2 else STRAIGHT)
        frames = []
        for frame in (1, 12):
            labels = box_labels(rng, 3)
            image = scan(rng, labels, 0, 300)
            paths = [
                save_volume(patient_folder / f"{patient}_frame{frame:02}{suffix}.nii.gz", array, *geometry)
                for array, suffix in ((image, ""), (labels, "_gt"))
            ]
            truth = {"group": patient, "part": "Tr" if number <= 100 else "Ts", "paper": paper, "geometry": geometry}
            miniature.add(f"{patient}_frame{frame:02}", image, labels, *paths, **truth)
            frames.append(sitk.GetImageFromArray(image))
        sitk.WriteImage(sitk.JoinSeries(frames), str(patient_folder / f"{patient}_4d.nii.gz"))
        (patient_folder / "Info.cfg").write_text(
            "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        )
    (folder / "MANDATORY_CITATION.md").write_text("O. Bernard, A. Lalande, C. Zotti, F. Cervenansky, et al.\n")


def write_promise12(miniature: Miniature, rng: np.random.Generator) -> None:
    for number in (0, 1, 2, 17, 34, 49):
        labels = box_labels(rng, 1)
        image = scan(rng, labels, 0, 1500)
        geometry = Geometry((0.625, 0.6, 3.6), (-73.5, -98.6, 2.25), OBLIQUE if number % 2 else STRAIGHT)
        folder = miniature.folder / f"TrainingData_Part{1 + number // 20}"
        image_path = save_volume(folder / f"Case{number:02}.mhd", image, *geometry)
        label_path = save_volume(folder / f"Case{number:02}_segmentation.mhd", labels.astype(np.int8), *geometry)
        miniature.add(f"Case{number:02}", image, labels, image_path, label_path, geometry=geometry)


def write_lits17(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write one compressed pair, as some mirrors have it, and test volumes without masks."""
    for number in (0, 5, 27, 28, 99, 100, 101, 130):
        labels = box_labels(rng, 2)
        image = scan(rng, labels, -1000, 1000)
        geometry = Geometry((0.7, 0.7, 1.0 + number / 100), (-180.0, 210.5, -12.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
        folder = miniature.folder / f"Training Batch {1 if number < 28 else 2}"
        ending = ".nii.gz" if number == 28 else ".nii"
        paths = [
            save_volume(folder / f"{kind}-{number}{ending}", array, *geometry)
            for array, kind in ((image, "volume"), (labels, "segmentation"))
        ]
        paper = "train" if number <= 100 else "test"
        miniature.add(f"volume_{number:03}", image, labels, *paths, geometry=geometry, paper=paper)
    # a test scan, without labels
    save_volume(miniature.folder / "Test-Data" / "test-volume-0.nii", image, *geometry)


# ---- slices ----------------------------------------------------------------------------------------------------------


TUMOR_PIXELS = 20
"""One per cent of a slice of brain_tumor, the least foreground for which a slice is left out."""


def write_brain_tumor(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write one to three slices of each patient; three slices have tumours of 1 % and more."""
    numbers = [1, 2, 3, 10, 11, 12, 766, 767, 768, 1532, 1533, 2298, 3063, 3064]
    patients = ["100360"] * 3 + ["101016"] * 3 + ["MR017260F"] * 2 + ["97080"] * 3 + ["MR030374D", "106165", "106165"]
    pixels = [3, 19, 1, 20, 5, 12, 40, 7, 19, 2, 300, 6, 4, 8]
    for number, patient, count in zip(numbers, patients, pixels, strict=True):
        height, width = (40, 50) if number % 2 else (50, 40)
        mask = np.zeros((height, width), np.uint8)
        mask.flat[rng.choice(mask.size, count, replace=False)] = 1
        image = (rng.integers(0, 2000, mask.shape) + np.int16(500) * mask).astype(np.int16)
        first, last = next(
            bounds for bounds in ((1, 766), (767, 1532), (1533, 2298), (2299, 3064)) if number <= bounds[1]
        )
        path = miniature.folder / f"brainTumorDataPublic_{first}-{last}" / f"{number}.mat"
        border = rng.uniform(1, 40, (1, 18))
        save_matlab(
            path,
            {
                "cjdata/PID": np.array([[ord(character)] for character in patient], np.uint16),
                "cjdata/image": image.T,
                "cjdata/label": np.ones((1, 1)),
                "cjdata/tumorBorder": border,
                "cjdata/tumorMask": mask.T,
            },
        )
        truth = {"group": patient, "left_out": count >= TUMOR_PIXELS}
        miniature.add(f"slice_{number:04}", image.astype(np.uint16), mask, path, **truth)
    save_matlab(miniature.folder / "cvind.mat", {"cvind": np.ones((1, len(numbers)))})
    (miniature.folder / "README.txt").write_text("This brain tumor dataset contains 3064 T1-weighted images.\n")


def save_matlab(path: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write a file as MATLAB 7.3 does: HDF5 after a header of 512 bytes, with the axes in reverse order."""
    path.parent.mkdir(exist_ok=True)
    classes = {"cjdata/PID": b"char", "cjdata/image": b"int16", "cjdata/tumorMask": b"logical"}
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            file.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_(classes.get(name, b"double"))
        if "cjdata" in file:
            file["cjdata"].attrs["MATLAB_class"] = np.bytes_(b"struct")
    header = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Tue Feb 04 11:53:52 2014 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def write_kidney_stone(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write runs of neighbouring slices that are nearly the same image; the last run as TIFF."""
    number = 0
    for run, length in enumerate([3, 2, 1, 4, 1, 2]):
        anatomy = gaussian_filter(rng.normal(0, 1, SIZE), 2)
        anatomy = 128 + 90 * anatomy / np.abs(anatomy).max()
        for _ in range(length):
            number += 1
            mask = blob(rng, radii=(2, 2))
            image = (anatomy + rng.normal(0, 3, SIZE) + 20 * mask).clip(0, 255).astype(np.uint8)
            ending = ".tif" if run == 5 else ".png"
            paths = [
                save(miniature.folder / kind / f"slice_{number:03}{ending}", array)
                for array, kind in ((image, "images"), (mask * np.uint8(255), "masks"))
            ]
            miniature.add(f"slice_{number:03}", image, mask, *paths, group=f"alike{run}")
