"""Miniatures of photographs: skin lesions, polyps and retinas."""

import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import io

from support.files import save
from support.miniatures.drawing import blob, photo
from support.miniatures.records import FACTS, Miniature

# ---- skin ------------------------------------------------------------------------------------------------------------


def add_lesions(
    miniature: Miniature, rng, numbers: list[int], images: str, masks: str, suffix: str, superpixels=False, **truth
) -> None:
    """Write JPEG images and PNG masks of lesions with these numbers, as ISIC publishes them."""
    for number in numbers:
        mask = blob(rng)
        image_path = save(miniature.folder / images / f"ISIC_{number:07}.jpg", photo(rng, mask), quality=92)
        mask_path = save(miniature.folder / masks / f"ISIC_{number:07}_{suffix}.png", mask * np.uint8(255))
        if superpixels:
            save(miniature.folder / images / f"ISIC_{number:07}_superpixels.png", photo(rng, mask))
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


# ---- polyps ----------------------------------------------------------------------------------------------------------


def write_kvasir_seg(miniature: Miniature, rng: np.random.Generator) -> None:
    folder = miniature.folder / "Kvasir-SEG"
    add_polyps(miniature, rng, folder, [(7 + number, 12) for number in range(7)])
    (folder / "kavsir_bboxes.json").write_text(json.dumps({}))


def write_kvasir_sessile(miniature: Miniature, rng: np.random.Generator) -> None:
    add_polyps(miniature, rng, miniature.folder / "sessile-main-Kvasir-SEG", [(8, 14)] * 6)


def write_kvasir_small(miniature: Miniature, rng: np.random.Generator) -> None:
    """Write ten small polyps, of 9 to 25 of 3072 pixels, three large ones, and one that is just too large."""
    add_polyps(
        miniature, rng, miniature.folder / "Kvasir-SEG", [(2, 2), (3, 3), (9, 12)] * 3 + [(3, 3), (2, 3)] * 2 + [(4, 5)]
    )


def add_polyps(miniature: Miniature, rng, folder: Path, radii: list[tuple[int, int]]) -> None:
    """Write images and masks as JPEG; masks have edges of all greys, and every other mask has three channels."""
    for number, radius in enumerate(radii):
        name = f"cju0qkwl35piu0993l0dewei{number}"
        mask = blob(rng, (48, 64), radius)
        image_path = save(folder / "images" / f"{name}.jpg", photo(rng, mask), quality=92)
        published = gaussian_filter(255.0 * mask, 0.7).astype(np.uint8)
        if number % 2:
            published = np.repeat(published[..., None], 3, -1)
        mask_path = save(folder / "masks" / f"{name}.jpg", published, quality=40)
        decoded = io.imread(mask_path)
        label = (decoded if decoded.ndim == 2 else decoded[..., 0]) > 127
        too_large = miniature.facts == FACTS["kvasir_small"] and label.mean() >= 0.01
        miniature.add(name, io.imread(image_path), label, image_path, mask_path, left_out=bool(too_large))


# ---- eyes ------------------------------------------------------------------------------------------------------------


def write_chase_db1(miniature: Miniature, rng: np.random.Generator) -> None:
    for child in (1, 2, 9, 10, 11, 14):
        for eye in "LR":
            stem = miniature.folder / f"Image_{child:02}{eye}"
            vessels, second_observer = blob(rng, radii=(2, 9)), blob(rng, radii=(9, 2))
            image_path = save(stem.with_suffix(".jpg"), photo(rng, vessels), quality=92)
            mask_path = save(stem.with_name(stem.name + "_1stHO.png"), vessels)
            save(stem.with_name(stem.name + "_2ndHO.png"), second_observer)
            truth = {"group": f"child{child:02}", "paper": "train" if child <= 10 else "test"}
            miniature.add(stem.name, io.imread(image_path), vessels, image_path, mask_path, **truth)
