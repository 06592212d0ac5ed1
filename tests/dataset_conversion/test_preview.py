"""Proves: the preview shows some cases with every label, outlined where it ends, in the slice with most of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.files import save, save_volume
from support.refusals import PNGS, VOLUMES, convert, mask, picture, raw_dataset, with_source

from nnunet_plugins.dataset_conversion.cases import Outcome, Row
from nnunet_plugins.dataset_conversion.preview import (
    COLUMNS,
    LINE,
    MARGIN,
    NUMBER,
    TILE,
    choose_cases,
    colour_of,
    outline,
)

pytestmark = pytest.mark.usefixtures("nnunet_folders")
WIDTH, HEIGHT = TILE + 2 * MARGIN, TILE + 2 * MARGIN + 2 * LINE


def preview() -> np.ndarray:
    return np.asarray(Image.open(raw_dataset() / "preview.png"))


def tile(index: int) -> np.ndarray:
    row, column = divmod(index, COLUMNS)
    return preview()[row * HEIGHT : (row + 1) * HEIGHT, column * WIDTH : (column + 1) * WIDTH]


def has(colour: tuple[int, ...], pixels: np.ndarray) -> np.ndarray:
    return (pixels == colour).all(-1)


@pytest.mark.parametrize(("number", "size"), [(3, (3, 1)), (15, (4, 3))])
def test_sheet_has_all_cases_or_twelve(tmp_path, number, size):
    for index in range(number):
        save(tmp_path / f"download/images/{index:02}.png", picture(index)[..., 0])
        save(tmp_path / f"download/masks/{index:02}.png", mask())
    convert(*with_source(PNGS, tmp_path / "download"))
    assert preview().shape == (size[1] * HEIGHT, size[0] * WIDTH, 3)


def test_outline_lies_where_the_label_ends(download):
    for index in range(3):
        save(download / f"images/{index}.png", np.zeros((20, 24), np.uint8))
    convert(*with_source(PNGS, download))
    red = has(colour_of(1), tile(1)[: TILE + MARGIN])
    rows, columns = np.nonzero(red)
    scale = TILE / 24
    assert abs(rows.min() - MARGIN - 5 * scale) < 1 and abs(rows.max() + 1 - MARGIN - 15 * scale) < 1
    assert abs(columns.min() - MARGIN - 5 * scale) < 1 and abs(columns.max() + 1 - MARGIN - 15 * scale) < 1
    assert not red[round(MARGIN + 10 * scale), round(MARGIN + 10 * scale)]
    assert 2 * 4 * 9 * scale < red.sum() < 2 * 4 * 11 * scale


def test_every_label_is_shown_with_its_name(tmp_path):
    for index in range(30):
        save(tmp_path / f"download/images/{index:02}.png", picture(index))
        array = mask()
        array[:3, :9] = 7 if index == 17 else 0
        save(tmp_path / f"download/masks/{index:02}.png", array)
    convert(*with_source(PNGS, tmp_path / "download"), "--label-map", "0=background", "255=cell", "7=tool")
    assert has(colour_of(2), preview()).sum() > 100
    texts = [has(colour_of(2), tile(index)[TILE + MARGIN + LINE :]).any() for index in range(12)]
    assert sum(texts) == 1


def test_volume_shows_the_slice_with_most_foreground(volumes):
    for index in range(3):
        array = np.zeros((4, 10, 12), np.uint8)
        array[2, 2:9, 2:9] = 1
        array[1, 5, 5] = 1
        intensities = np.zeros((4, 10, 12), np.float32)
        intensities[2, :, 6:] = 1000
        save_volume(volumes / f"images/{index}.nii.gz", intensities)
        save_volume(volumes / f"masks/{index}.nii.gz", array)
    convert(*with_source(VOLUMES, volumes))
    shown = tile(0)[MARGIN : MARGIN + round(TILE * 10 / 12), MARGIN : MARGIN + TILE]
    assert (shown[:5, -50:] > 200).all() and (shown[:5, :50] < 50).all()
    assert has(colour_of(1), shown).sum() > 500


def test_cases_are_chosen_with_each_label_and_without_those_left_out():
    outcomes = [Outcome(Row(f"{index:03}"), label_counts={0: 9, 1: 1}) for index in range(100)]
    outcomes[40].label_counts = {0: 9, 3: 1}
    outcomes[60].left_out = True
    outcomes[61].labelled = False
    chosen = choose_cases(outcomes, {"background": 0, "a": 1, "b": 2, "c": 3})
    assert len(chosen) == len(set(chosen)) == NUMBER and chosen == sorted(chosen)
    assert "040" in chosen and not {"060", "061"} & set(chosen)
    assert choose_cases(outcomes[:2], {"background": 0, "a": 1}) == ["000", "001"]


def test_outline_is_two_pixels_wide_and_ends_at_the_border():
    inside = np.zeros((12, 12), bool)
    inside[3:10, 5:] = True
    expected = inside.copy()
    expected[5:8, 7:] = False
    np.testing.assert_array_equal(outline(inside), expected)


def test_preview_is_the_same_on_every_run(download):
    convert(*with_source(PNGS, download))
    before = Path(raw_dataset() / "preview.png").read_bytes()
    convert(*with_source(PNGS, download), "--overwrite")
    assert (raw_dataset() / "preview.png").read_bytes() == before
