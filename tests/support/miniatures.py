"""Miniatures of the published downloads: their folders, file names and formats, with few and small images.

``write(name, folder)`` writes one and returns what a conversion of it must give. Images that are stored without loss
are known; of a JPEG it is what scikit-image decodes.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import h5py
import numpy as np
import SimpleITK as sitk
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import io
from skimage.draw import ellipse

RGB, PNG, NIFTI = ("R", "G", "B"), ".png", ".nii.gz"
SIZE, VOLUME_SIZE = (24, 32), (6, 16, 18)
OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class Geometry(NamedTuple):
    """In SimpleITK's order: x, y, z."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


class Sample(NamedTuple):
    """What a conversion must give for a case."""

    image: np.ndarray
    label: np.ndarray
    files: tuple[Path, ...]
    """The image's and the label's, relative to the folder."""
    group: str = ""
    part: str = "Tr"
    paper: str | None = None
    """Its part in the published split: train, val or test."""
    geometry: Geometry | None = None
    left_out: bool = False


class Facts(NamedTuple):
    """What holds for a dataset, however many cases it has."""

    dataset: str
    labels: Mapping[str, int]
    channels: tuple[str, ...] = RGB
    ending: str = PNG


@dataclass
class Miniature:
    """A folder with what a conversion must give for each case, by nnU-Net's identifier."""

    folder: Path
    facts: Facts
    samples: dict[str, Sample] = field(default_factory=dict)

    def identifiers(self, part: str = "Tr") -> list[str]:
        return sorted(name for name, s in self.samples.items() if s.part == part and not s.left_out)

    def of_paper(self, part: str) -> list[str]:
        return sorted(name for name, sample in self.samples.items() if sample.paper == part)

    def add(self, name: str, image: np.ndarray, label: np.ndarray, *files: Path, **truth) -> None:
        self.samples[name] = Sample(image, label, tuple(path.relative_to(self.folder) for path in files), **truth)


ABDOMEN = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
FACTS = {
    "isic2018": Facts("Dataset511_ISIC2018", {"background": 0, "lesion": 1}),
    "isic2016": Facts("Dataset512_ISIC2016", {"background": 0, "lesion": 1}),
    "isic2017": Facts("Dataset513_ISIC2017", {"background": 0, "lesion": 1}),
    "dsb2018": Facts("Dataset514_DSB2018", {"background": 0, "nucleus": 1}),
    "monuseg": Facts("Dataset515_MoNuSeg", {"background": 0, "nucleus": 1}),
    "kvasir_seg": Facts("Dataset516_KvasirSEG", {"background": 0, "polyp": 1}),
    "kvasir_sessile": Facts("Dataset517_KvasirSessile", {"background": 0, "polyp": 1}),
    "kvasir_small": Facts("Dataset518_KvasirSmall", {"background": 0, "polyp": 1}),
    "glas": Facts("Dataset519_GlaS", {"background": 0, "gland": 1}),
    "synapse": Facts(
        "Dataset520_Synapse",
        {"background": 0} | {organ: label for label, organ in enumerate(ABDOMEN, 1)},
        ("CT",),
        NIFTI,
    ),
    "acdc": Facts(
        "Dataset521_ACDC",
        {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3},
        ("cine MRI",),
        NIFTI,
    ),
    "promise12": Facts("Dataset522_PROMISE12", {"background": 0, "prostate": 1}, ("T2",), NIFTI),
    "chase_db1": Facts("Dataset523_CHASEDB1", {"background": 0, "vessel": 1}),
    "lits17": Facts("Dataset524_LiTS17", {"background": 0, "liver": 1, "tumour": 2}, ("CT",), NIFTI),
    "brain_tumor": Facts("Dataset525_BrainTumor", {"background": 0, "tumor": 1}, ("T1ce",)),
    "kidney_stone": Facts("Dataset526_KidneyStone", {"background": 0, "stone": 1}, ("CT window",)),
}


def write(name: str, folder: Path) -> Miniature:
    """Write the download of a dataset into a new folder."""
    folder.mkdir(parents=True)
    miniature = Miniature(folder, FACTS[name])
    WRITERS[name](miniature, np.random.default_rng(crc32(name.encode())))
    return miniature


# ---- images and volumes ----------------------------------------------------------------------------------------------


def blob(rng: np.random.Generator, size: tuple[int, int] = SIZE, radii: tuple[int, int] = (6, 8)) -> np.ndarray:
    """``(H, W)``, True in an ellipse somewhere inside."""
    mask = np.zeros(size, bool)
    center = [rng.integers(radius, length - radius) for length, radius in zip(size, radii, strict=True)]
    mask[ellipse(*center, *radii, size)] = True
    return mask


def photo(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """``(H, W, 3)``: skin, mucosa or tissue with something darker where the mask is."""
    image = np.where(mask[..., None], [110, 60, 70], [200, 140, 120]) + rng.normal(0, 10, (*mask.shape, 3))
    return image.clip(0, 255).astype(np.uint8)


def save(array: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_volume(array: np.ndarray, path: Path, geometry: Geometry) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(geometry.spacing)
    volume.SetOrigin(geometry.origin)
    volume.SetDirection(geometry.direction)
    sitk.WriteImage(volume, str(path))
    return path


def box_labels(rng: np.random.Generator, num_labels: int) -> np.ndarray:
    """``(D, H, W)`` with a box, two voxels wide and high, for each label."""
    labels = np.zeros(VOLUME_SIZE, np.uint8)
    cells = rng.permutation(VOLUME_SIZE[1] // 2 * (VOLUME_SIZE[2] // 2))[:num_labels]
    for label, cell in enumerate(cells, 1):
        row, column = np.unravel_index(cell, (VOLUME_SIZE[1] // 2, VOLUME_SIZE[2] // 2))
        first = rng.integers(0, 3)
        labels[first : first + 3, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = label
    return labels


def scan(rng: np.random.Generator, labels: np.ndarray, low: int, high: int) -> np.ndarray:
    """``(D, H, W)`` of 16 bits, brighter where there is a label."""
    image = rng.integers(low, high, labels.shape) + 20 * labels.astype(np.int16)
    return image.astype(np.int16)


# ---- skin ------------------------------------------------------------------------------------------------------------


def add_lesions(
    miniature: Miniature, rng, numbers: list[int], images: str, masks: str, suffix: str, superpixels=False, **truth
) -> None:
    for number in numbers:
        mask = blob(rng)
        image_path = save(photo(rng, mask), miniature.folder / images / f"ISIC_{number:07}.jpg", quality=92)
        mask_path = save(mask * np.uint8(255), miniature.folder / masks / f"ISIC_{number:07}_{suffix}.png")
        if superpixels:
            save(photo(rng, mask), miniature.folder / images / f"ISIC_{number:07}_superpixels.png")
        miniature.add(f"ISIC_{number:07}", io.imread(image_path), mask, image_path, mask_path, **truth)
    for extra in ("ATTRIBUTION.txt", "LICENSE.txt"):
        (miniature.folder / images / extra).write_text("CC")


def write_isic2018(miniature: Miniature, rng: np.random.Generator) -> None:
    add_lesions(
        miniature,
        rng,
        [0, 1, 3, 4, 16072, 23508, 24306],
        "ISIC2018_Task1-2_Training_Input",
        "ISIC2018_Task1_Training_GroundTruth",
        "segmentation",
    )


def write_isic2016(miniature: Miniature, rng: np.random.Generator) -> None:
    stem = "ISBI2016_ISIC_Part1"
    for part, numbers, truth in (
        ("Training", [0, 1, 2, 4, 6, 7], {"paper": "train"}),
        ("Test", [3, 12, 11403], {"part": "Ts", "paper": "test"}),
    ):
        images, masks = f"{stem}_{part}_Data", f"{stem}_{part}_GroundTruth"
        add_lesions(miniature, rng, numbers, images, masks, "Segmentation", **truth)


def write_isic2017(miniature: Miniature, rng: np.random.Generator) -> None:
    for part, numbers, truth in (
        ("Training", [0, 1, 2, 3, 4, 6], {"paper": "train"}),
        ("Validation", [1769, 1852, 1871], {"paper": "val"}),
        ("Test_v2", [12086, 12092], {"part": "Ts", "paper": "test"}),
    ):
        images, masks = f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth"
        add_lesions(miniature, rng, numbers, images, masks, "segmentation", superpixels=True, **truth)
        (miniature.folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv").write_text("image_id,melanoma\n")


# ---- cells and tissue ------------------------------------------------------------------------------------------------


def write_dsb2018(miniature: Miniature, rng: np.random.Generator) -> None:
    for _ in range(6):
        name = rng.bytes(32).hex()
        folder = miniature.folder / "stage1_train" / name
        nuclei = [blob(rng, radii=(3, 4)) for _ in range(rng.integers(1, 9))]
        union = np.any(nuclei, axis=0)
        image = photo(rng, union)
        alpha = rng.integers(0, 256, (*union.shape, 1), np.uint8)
        image_path = save(np.concatenate([image, alpha], -1), folder / "images" / f"{name}.png")
        masks = [save(n * np.uint8(255), folder / "masks" / f"{rng.bytes(32).hex()}.png") for n in nuclei]
        miniature.add(name, image, union, image_path, *sorted(masks))
    name = rng.bytes(32).hex()  # the published test sets have no masks
    save(image, miniature.folder / "stage1_test" / name / "images" / f"{name}.png")
    (miniature.folder / "stage1_train_labels.csv").write_text("ImageId,EncodedPixels\n")


def write_monuseg(miniature: Miniature, rng: np.random.Generator) -> None:
    training, test = "MoNuSeg 2018 Training Data", "MoNuSegTestData"
    names = [f"TCGA-{case}-01Z-00-DX1" for case in ("18-5592", "38-6178", "49-4488", "B0-5711", "E2-A1B5", "KB-A93J")]
    names.insert(1, "TCGA-18-5592-01Z-00-DX2")
    for name in names:
        tissue, annotations = (miniature.folder / training / kind for kind in ("Tissue Images", "Annotations"))
        add_tissue(miniature, rng, name, tissue, annotations, paper="train")
    for name in ("TCGA-2Z-A9J9-01A-01-TS1", "TCGA-44-2665-01B-06-BS6"):
        folder = miniature.folder / test
        add_tissue(miniature, rng, name, folder, folder, part="Ts", paper="test")


def add_tissue(miniature: Miniature, rng, name: str, images: Path, annotations: Path, **truth) -> None:
    """An image with outlines of nuclei, one of them cut by the image's border; a line and a region without points."""
    outlines = []
    for center in ((2.3, 3.1), (14.2, 20.6), (18.4, 8.7)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        outlines.append(np.stack([np.sin(angles), np.cos(angles)], -1) * rng.uniform(3, 5, (12, 1)) + center)
    pixels = np.stack(np.indices(SIZE), -1).reshape(-1, 2)
    mask = np.any([Outline(outline).contains_points(pixels) for outline in outlines], axis=0).reshape(SIZE)
    image = photo(rng, mask)
    compression = {"compression": "tiff_lzw"} if name.startswith("TCGA-38") else {}
    image_path = save(image, images / f"{name}.tif", **compression)
    line = np.array([[10.0, 12.0], [10.0, 15.0]])
    regions = "".join(aperio_region(i, outline) for i, outline in enumerate([*outlines, line, line[:0]], 1))
    annotations.mkdir(exist_ok=True)
    path = annotations / f"{name}.xml"
    path.write_text(
        '<Annotations MicronsPerPixel="0.252000"><Annotation Id="1" Name="" Type="4"><Attributes/>'
        '<Regions><RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/>'
        f"</RegionAttributeHeaders>{regions}</Regions><Plots/></Annotation></Annotations>"
    )
    miniature.add(name, image, mask, image_path, path, group="-".join(name.split("-")[:3]), **truth)


def aperio_region(number: int, outline: np.ndarray) -> str:
    vertices = "".join(f'<Vertex X="{column:.6f}" Y="{row:.6f}" Z="0"/>' for row, column in outline)
    return f'<Region Id="{number}" Type="0" Analyze="1"><Attributes/><Vertices>{vertices}</Vertices></Region>'


def write_glas(miniature: Miniature, rng: np.random.Generator) -> None:
    folder = miniature.folder / "Warwick QU Dataset (Released 2016_07_08)"
    patients = {f"train_{number}": patient for number, patient in enumerate([1, 1, 2, 2, 2, 4, 6, 11], 1)}
    patients |= {"train_10": 5, "testA_1": 5, "testA_10": 7, "testB_1": 2}
    for name, patient in patients.items():
        glands = np.zeros(SIZE, np.uint8)
        for number in range(1, rng.integers(2, 5)):
            glands[blob(rng, radii=(5, 4))] = number
        image = photo(rng, glands > 0)
        paths = save(image, folder / f"{name}.bmp"), save(glands, folder / f"{name}_anno.bmp")
        train = name.startswith("train")
        miniature.add(
            name,
            image,
            glands > 0,
            *paths,
            group=f"patient{patient}",
            part="Tr" if train else "Ts",
            paper="train" if train else "test",
        )
    with (folder / "Grade.csv").open("w", newline="") as file:
        file.write("name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\r\n")
        csv.writer(file).writerows(
            (name, f" {patient}", " benign", " adenomatous") for name, patient in patients.items()
        )


# ---- polyps ----------------------------------------------------------------------------------------------------------


def write_kvasir_seg(miniature: Miniature, rng: np.random.Generator) -> None:
    folder = miniature.folder / "Kvasir-SEG"
    add_polyps(miniature, rng, folder, [(7 + number, 12) for number in range(7)])
    (folder / "kavsir_bboxes.json").write_text(json.dumps({}))


def write_kvasir_sessile(miniature: Miniature, rng: np.random.Generator) -> None:
    add_polyps(miniature, rng, miniature.folder / "sessile-main-Kvasir-SEG", [(8, 14)] * 6)


def write_kvasir_small(miniature: Miniature, rng: np.random.Generator) -> None:
    """Ten small polyps, of 9 to 25 of 3072 pixels, three large ones, and one just too large."""
    add_polyps(
        miniature, rng, miniature.folder / "Kvasir-SEG", [(2, 2), (3, 3), (9, 12)] * 3 + [(3, 3), (2, 3)] * 2 + [(4, 5)]
    )


def add_polyps(miniature: Miniature, rng, folder: Path, radii: list[tuple[int, int]]) -> None:
    """Masks as JPEG, with edges of all greys, every other one with three channels."""
    for number, radius in enumerate(radii):
        name = f"cju0qkwl35piu0993l0dewei{number}"
        mask = blob(rng, (48, 64), radius)
        image_path = save(photo(rng, mask), folder / "images" / f"{name}.jpg", quality=92)
        published = gaussian_filter(255.0 * mask, 0.7).astype(np.uint8)
        if number % 2:
            published = np.repeat(published[..., None], 3, -1)
        mask_path = save(published, folder / "masks" / f"{name}.jpg", quality=40)
        decoded = io.imread(mask_path)
        label = (decoded if decoded.ndim == 2 else decoded[..., 0]) > 127
        too_large = miniature.facts == FACTS["kvasir_small"] and label.mean() >= 0.01
        miniature.add(name, io.imread(image_path), label, image_path, mask_path, left_out=bool(too_large))


# ---- volumes ---------------------------------------------------------------------------------------------------------


def write_synapse(miniature: Miniature, rng: np.random.Generator) -> None:
    """All 13 organs, of which eight are kept; TransUNet tests with 0001, 0008 and 0038."""
    new_labels = np.array([0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8, 0, 0])
    folder = miniature.folder / "RawData"
    for number in (1, 5, 6, 7, 8, 9, 38, 40):
        organs = box_labels(rng, 13)
        image = scan(rng, organs, -1000, 800)
        geometry = Geometry((0.75, 0.8, 3.0 + number / 10), (-172.3, 179.5, -340.2 + number), OBLIQUE)
        image_path = save_volume(image, folder / "Training" / "img" / f"img{number:04}.nii.gz", geometry)
        stored = organs.astype(np.float32) if number == 5 else organs
        label_path = save_volume(stored, folder / "Training" / "label" / f"label{number:04}.nii.gz", geometry)
        miniature.add(
            f"case{number:04}",
            image,
            new_labels[organs],
            image_path,
            label_path,
            geometry=geometry,
            paper="test" if number in (1, 8, 38) else "train",
        )
    save_volume(image, folder / "Testing" / "img" / "img0061.nii.gz", geometry)


def write_acdc(miniature: Miniature, rng: np.random.Generator) -> None:
    """Patients of all parts of the 70/10/20 split, and of the test set, whose masks are published too."""
    folder = miniature.folder / "ACDC" / "database"
    parts = {1: "train", 4: "train", 100: "train", 19: "val", 80: "val", 2: "test", 95: "test", 101: None, 150: None}
    for number, paper in parts.items():
        patient = f"patient{number:03}"
        home = folder / ("training" if number <= 100 else "testing") / patient
        geometry = Geometry((1.5625, 1.5, 10.0), (-12.5, 30.0, 7.25), OBLIQUE if number % 2 else STRAIGHT)
        frames = []
        for frame in (1, 12):
            labels = box_labels(rng, 3)
            image = scan(rng, labels, 0, 300)
            paths = [
                save_volume(array, home / f"{patient}_frame{frame:02}{suffix}.nii.gz", geometry)
                for array, suffix in ((image, ""), (labels, "_gt"))
            ]
            truth = {"group": patient, "part": "Tr" if number <= 100 else "Ts", "paper": paper, "geometry": geometry}
            miniature.add(f"{patient}_frame{frame:02}", image, labels, *paths, **truth)
            frames.append(sitk.GetImageFromArray(image))
        sitk.WriteImage(sitk.JoinSeries(frames), str(home / f"{patient}_4d.nii.gz"))
        (home / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    (folder / "MANDATORY_CITATION.md").write_text("O. Bernard, A. Lalande, C. Zotti, F. Cervenansky, et al.\n")


def write_promise12(miniature: Miniature, rng: np.random.Generator) -> None:
    for number in (0, 1, 2, 17, 34, 49):
        labels = box_labels(rng, 1)
        image = scan(rng, labels, 0, 1500)
        geometry = Geometry((0.625, 0.6, 3.6), (-73.5, -98.6, 2.25), OBLIQUE if number % 2 else STRAIGHT)
        folder = miniature.folder / f"TrainingData_Part{1 + number // 20}"
        image_path = save_volume(image, folder / f"Case{number:02}.mhd", geometry)
        label_path = save_volume(labels.astype(np.int8), folder / f"Case{number:02}_segmentation.mhd", geometry)
        miniature.add(f"Case{number:02}", image, labels, image_path, label_path, geometry=geometry)


def write_lits17(miniature: Miniature, rng: np.random.Generator) -> None:
    """One pair is compressed, as some mirrors have it; the test volumes have no masks."""
    for number in (0, 5, 27, 28, 99, 100, 101, 130):
        labels = box_labels(rng, 2)
        image = scan(rng, labels, -1000, 1000)
        geometry = Geometry((0.7, 0.7, 1.0 + number / 100), (-180.0, 210.5, -12.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
        folder = miniature.folder / f"Training Batch {1 if number < 28 else 2}"
        ending = ".nii.gz" if number == 28 else ".nii"
        paths = [
            save_volume(array, folder / f"{kind}-{number}{ending}", geometry)
            for array, kind in ((image, "volume"), (labels, "segmentation"))
        ]
        paper = "train" if number <= 100 else "test"
        miniature.add(f"volume_{number:03}", image, labels, *paths, geometry=geometry, paper=paper)
    save_volume(image, miniature.folder / "Test-Data" / "test-volume-0.nii", geometry)


# ---- eyes, heads, kidneys --------------------------------------------------------------------------------------------


def write_chase_db1(miniature: Miniature, rng: np.random.Generator) -> None:
    for child in (1, 2, 9, 10, 11, 14):
        for eye in "LR":
            stem = miniature.folder / f"Image_{child:02}{eye}"
            vessels, otherwise = blob(rng, radii=(2, 9)), blob(rng, radii=(9, 2))
            image_path = save(photo(rng, vessels), stem.with_suffix(".jpg"), quality=92)
            mask_path = save(vessels, stem.with_name(stem.name + "_1stHO.png"))
            save(otherwise, stem.with_name(stem.name + "_2ndHO.png"))
            truth = {"group": f"child{child:02}", "paper": "train" if child <= 10 else "test"}
            miniature.add(stem.name, io.imread(image_path), vessels, image_path, mask_path, **truth)


TUMOR_PIXELS = 20
"""One per cent of a slice of brain_tumor: the fewest that make a slice too much."""


def write_brain_tumor(miniature: Miniature, rng: np.random.Generator) -> None:
    """Two to three slices of each patient; three slices have tumours of 1 % and more."""
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
    """A file as MATLAB 7.3 writes it: HDF5 after a header of 512 bytes, the axes in reverse order."""
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
    """Runs of neighbouring slices, each nearly the same image; the last one as TIFF."""
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
                save(array, miniature.folder / kind / f"slice_{number:03}{ending}")
                for array, kind in ((image, "images"), (mask * np.uint8(255), "masks"))
            ]
            miniature.add(f"slice_{number:03}", image, mask, *paths, group=f"alike{run}")


WRITERS: dict[str, Callable[[Miniature, np.random.Generator], None]] = {
    "isic2018": write_isic2018,
    "isic2016": write_isic2016,
    "isic2017": write_isic2017,
    "dsb2018": write_dsb2018,
    "monuseg": write_monuseg,
    "kvasir_seg": write_kvasir_seg,
    "kvasir_sessile": write_kvasir_sessile,
    "kvasir_small": write_kvasir_small,
    "glas": write_glas,
    "synapse": write_synapse,
    "acdc": write_acdc,
    "promise12": write_promise12,
    "chase_db1": write_chase_db1,
    "lits17": write_lits17,
    "brain_tumor": write_brain_tumor,
    "kidney_stone": write_kidney_stone,
}
