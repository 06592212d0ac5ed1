"""A contact sheet of some converted cases with their labels outlined and named: people find wrong labels by looking."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

from nnunet_plugins.dataset_conversion.cases import Outcome
from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.dataset_conversion.resizing import resize_labels

PREVIEW = "preview.png"
NUMBER, COLUMNS = 12, 4
TILE, MARGIN, LINE = 300, 6, 18
"""Sizes in pixels: a tile's longer side, the space around it, and a line of text."""
CROSS = np.zeros((5, 5), bool)
"""Pixels within two of the middle one, in its row and its column."""
CROSS[2] = CROSS[:, 2] = True
COLOURS = ("#ff4040", "#40d040", "#40a0ff", "#ffd040", "#e060ff", "#40e0e0", "#ff9040", "#b0b0b0")


def choose_cases(outcomes: Sequence[Outcome], labels: Mapping[str, int]) -> list[str]:
    """Choose cases at equal distances, but at least one with each label, most of them with foreground."""
    labelled = [outcome for outcome in outcomes if outcome.labelled and not outcome.left_out]
    filled = [outcome for outcome in labelled if outcome.has_foreground] or labelled
    firsts = [
        next((o.row.case for o in labelled if value in o.label_counts), None) for value in labels.values() if value
    ]
    wanted = list(dict.fromkeys(case for case in firsts if case))[:NUMBER]
    steps = np.linspace(0, len(filled) - 1, min(NUMBER, len(filled))).round().astype(int)
    others = [filled[index].row.case for index in steps if filled[index].row.case not in wanted]
    return sorted([*wanted, *others[: NUMBER - len(wanted)]])


def draw_tile(folder: Path, ending: str, labels: Mapping[str, int], part: str, case: str) -> Image.Image:
    """Draw a converted case, of a volume the slice with most foreground, with its name and those of its labels."""
    picture = read_picture(folder / f"images{part}" / f"{case}_0000{ending}", reading="volume")
    mask = read_mask((folder / f"labels{part}" / f"{case}{ending}",), picture.shape, reading="volume").array
    image = picture.array
    if picture.geometry is not None:
        planes = mask.reshape(-1, *mask.shape[-2:])
        index = int((planes > 0).sum((1, 2)).argmax())
        mask, image = planes[index], image.reshape(-1, *mask.shape[-2:])[index]
    scale = TILE / max(mask.shape)
    size = tuple(max(1, round(length * scale)) for length in mask.shape)
    tile = np.array(Image.fromarray(to_grey_or_colour(image)).convert("RGB").resize(size[::-1]))
    shown = resize_labels(mask, (size[0], size[1]))
    names = {value: name for name, value in labels.items() if value and (mask == value).any()}
    for value in names:
        tile[outline(shown == value)] = colour_of(value)
    return framed(tile, case, names)


def to_grey_or_colour(image: NDArray) -> NDArray[np.uint8]:
    """Eight bits of an image, whose darkest and brightest hundredth are cut unless it has eight bits."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (1, 99))
    return ((image - low) / max(high - low, 1e-12) * 255).clip(0, 255).astype(np.uint8)


def outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels inside, of which one within two pixels lies outside; the image's border is no edge."""
    return inside & ~ndimage.binary_erosion(inside, CROSS, border_value=1)


def colour_of(value: int) -> tuple[int, ...]:
    return ImageColor.getrgb(COLOURS[(value - 1) % len(COLOURS)])


def framed(tile: NDArray[np.uint8], case: str, names: Mapping[int, str]) -> Image.Image:
    frame = Image.new("RGB", (TILE + 2 * MARGIN, TILE + 2 * MARGIN + 2 * LINE), "black")
    frame.paste(Image.fromarray(tile), (MARGIN, MARGIN))
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(13)
    draw.text((MARGIN, TILE + MARGIN), case, fill="white", font=font)
    left = float(MARGIN)
    for value, name in names.items() or {0: "no foreground"}.items():
        draw.text((left, TILE + MARGIN + LINE), name, fill=colour_of(value) if value else "white", font=font)
        left += draw.textlength(name, font=font) + 2 * MARGIN
    return frame


def write_sheet(tiles: Sequence[Image.Image], path: Path) -> None:
    """Write the tiles in rows."""
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "black")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * height))
    sheet.save(path)
