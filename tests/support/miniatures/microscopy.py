"""Miniatures of microscopy: cells and stained tissue."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.path import Path as Outline

from support.files import save
from support.miniatures.drawing import SIZE, blob, photo
from support.miniatures.records import Miniature


def write_dsb2018(miniature: Miniature, rng: np.random.Generator) -> None:
    for _ in range(6):
        name = rng.bytes(32).hex()
        folder = miniature.folder / "stage1_train" / name
        nuclei = [blob(rng, radii=(3, 4)) for _ in range(rng.integers(1, 9))]
        union = np.any(nuclei, axis=0)
        image = photo(rng, union)
        alpha = rng.integers(0, 256, (*union.shape, 1), np.uint8)
        image_path = save(folder / "images" / f"{name}.png", np.concatenate([image, alpha], -1))
        masks = [save(folder / "masks" / f"{rng.bytes(32).hex()}.png", n * np.uint8(255)) for n in nuclei]
        miniature.add(name, image, union, image_path, *sorted(masks))
    name = rng.bytes(32).hex()  # the published test sets have no masks
    save(miniature.folder / "stage1_test" / name / "images" / f"{name}.png", image)
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
    """Write an image and its annotation: nuclei, one cut by the image's border, a line, and a region without points."""
    outlines = []
    for center in ((2.3, 3.1), (14.2, 20.6), (18.4, 8.7)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        outlines.append(np.stack([np.sin(angles), np.cos(angles)], -1) * rng.uniform(3, 5, (12, 1)) + center)
    pixels = np.stack(np.indices(SIZE), -1).reshape(-1, 2)
    mask = np.any([Outline(outline).contains_points(pixels) for outline in outlines], axis=0).reshape(SIZE)
    image = photo(rng, mask)
    compression = {"compression": "tiff_lzw"} if name.startswith("TCGA-38") else {}
    image_path = save(images / f"{name}.tif", image, **compression)
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
        paths = save(folder / f"{name}.bmp", image), save(folder / f"{name}_anno.bmp", glands)
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
