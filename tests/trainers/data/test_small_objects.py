"""Proves: objects of few pixels have boxes of three pixels a side, and share one with others beside them."""

import numpy as np
import pytest
import torch
from support.label_maps import boxes_in

from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.trainers.data.object_boxes import objects_in


def pixels(*positions, shape=(10, 12), value=1):
    """A label map with these ``(row, column)``."""
    labels = torch.zeros(1, 1, *shape, dtype=torch.int16)
    for row, column in positions:
        labels[0, 0, row, column] = value
    return labels


def test_a_single_pixel_has_a_box_of_3_by_3_round_it():
    assert boxes_in(pixels((4, 7))) == [(0, 6, 3, 9, 6)]


def test_two_pixels_have_a_box_with_a_rim_of_one():
    assert boxes_in(pixels((4, 7), (4, 8))) == [(0, 6, 3, 10, 6)]
    assert boxes_in(pixels((4, 7), (5, 8))) == [(0, 6, 3, 10, 7)]


def test_specks_whose_neighbourhoods_touch_share_a_box_directly_or_through_others():
    assert boxes_in(pixels((4, 4), (4, 7))) == [(0, 3, 3, 9, 6)]
    assert boxes_in(pixels((2, 2), (5, 5), (7, 7))) == [(0, 1, 1, 9, 9)]


def test_specks_further_apart_have_boxes_of_their_own():
    assert boxes_in(pixels((4, 3), (4, 7))) == [(0, 2, 3, 5, 6), (0, 6, 3, 9, 6)]


def test_thousands_of_specks_are_found_quickly():
    noise = torch.from_numpy(np.random.default_rng(0).random((1, 1, 512, 512)) < 0.03).short()
    assert len(objects_in(noise, LabelFormat()).boxes) > 3000  # all pairs of them would take half a minute


def test_specks_share_a_box_whatever_their_class():
    labels = pixels((4, 4)) + pixels((4, 5), value=2)
    assert boxes_in(labels) == [(0, 3, 3, 7, 6)]


def test_crossing_specks_of_two_classes_share_a_box():
    labels = pixels((4, 4), (5, 5)) + pixels((4, 5), (5, 4), value=2)
    assert boxes_in(labels) == [(0, 3, 3, 7, 7)]  # of both: identical boxes are one


def test_a_speck_beside_an_object_does_not_change_the_objects_box():
    labels = pixels((2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (4, 6))
    assert boxes_in(labels) == [(0, 2, 2, 5, 5), (0, 5, 3, 8, 6)]


@pytest.mark.parametrize(
    ("position", "box"),
    [((0, 0), (0, 0, 2, 2)), ((0, 11), (10, 0, 12, 2)), ((9, 0), (0, 8, 2, 10)), ((9, 11), (10, 8, 12, 10))],
)
def test_the_box_of_a_speck_in_a_corner_ends_with_the_image(position, box):
    assert boxes_in(pixels(position)) == [(0, *box)]


def test_thin_lines_get_the_minimal_side_about_their_middle():
    assert boxes_in(pixels(*((4, column) for column in range(3, 9)))) == [(0, 3, 3, 9, 6)]
    assert boxes_in(pixels(*((row, 5) for row in range(2, 5)))) == [(0, 4, 2, 7, 5)]
    two_wide = [(row, column) for row in range(2, 8) for column in (5, 6)]
    assert boxes_in(pixels(*two_wide)) == [(0, 4.5, 2, 7.5, 8)]
    assert boxes_in(pixels((2, 2), (2, 3), (3, 2))) == [(0, 1.5, 1.5, 4.5, 4.5)]  # three pixels are no speck


def test_the_box_of_a_thin_line_at_the_border_ends_with_the_image():
    assert boxes_in(pixels(*((row, 11) for row in range(2, 8)))) == [(0, 10, 2, 12, 8)]
    assert boxes_in(pixels(*((0, column) for column in range(12)))) == [(0, 0, 0, 12, 2)]
