"""Proves that metrics are right by hand and obey their laws, and that none is ever NaN."""

import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.mask_pairs import Pair, mask_of, pairs, values_of

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER, Scores, score, surface, surface_distances

MISSED = {"Dice": 0.0, "IoU": 0.0, "precision": 0.0, "recall": 0.0, "NSD": 0.0, "volume_error": 1.0}


def is_like(scores, expected):
    """Whether scores are equal but for the order in which ASSD's distances were added."""
    same = scores._replace(ASSD=None) == expected._replace(ASSD=None)
    return same and math.isclose(scores.ASSD, expected.ASSD, rel_tol=1e-12)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_metrics_of_two_lines_are_right_by_hand():
    reference, prediction = mask_of("........", ".####...", "........"), mask_of("........", "...#####", "........")
    # 2 mm a column. From the prediction: 0 0 2 4 6, 95 % between 4 and 6; from the reference: 0 0 2 4.
    scores = score(reference, prediction, (1.0, 2.0), tolerance=2.0)
    assert scores.outcome == "segmented"
    assert values_of(scores) == pytest.approx(
        {
            "Dice": 4 / 9,
            "IoU": 2 / 7,
            "precision": 2 / 5,
            "recall": 2 / 4,
            "HD95": 5.6,
            "ASSD": 18 / 9,
            "NSD": 6 / 9,
            "volume_error": 1 / 4,
        }
    )
    assert score(reference, prediction, (1.0, 2.0), tolerance=1.999).NSD == 4 / 9
    assert score(prediction, reference, (1.0, 2.0), tolerance=2.0).volume_error == 1 / 5
    to_reference, to_prediction = surface_distances(reference, prediction, (1.0, 2.0))
    assert to_reference.tolist() == [0, 0, 2, 4, 6] and to_prediction.tolist() == [4, 2, 0, 0]


def test_distances_go_to_the_surface_and_not_to_the_nearest_voxel_of_the_mask():
    square = np.pad(np.ones((5, 5), bool), 2)
    hole = square.copy()
    hole[4, 4] = False
    # The hole has a surface of 4 voxels, 1 away from the square's, which has 16 and nothing inside.
    scores = score(square, hole, (1.0, 1.0), tolerance=0.5)
    assert (scores.HD95, scores.ASSD, scores.NSD) == (1.0, 4 / 36, 32 / 36)


def test_surface_has_neighbours_outside_by_faces_or_lies_on_the_border():
    assert np.array_equal(surface(np.ones((4, 5), bool)), mask_of("#####", "#...#", "#...#", "#####"))
    mask = mask_of(".......", ".##.##.", ".#####.", ".#####.", ".#####.", ".......")
    assert np.array_equal(surface(mask), mask_of(".......", ".##.##.", ".#.#.#.", ".#...#.", ".#####.", "......."))


def test_perfect_prediction_has_the_best_values():
    mask = mask_of("....", ".##.", ".##.")
    best = {"Dice": 1, "IoU": 1, "precision": 1, "recall": 1, "HD95": 0, "ASSD": 0, "NSD": 1, "volume_error": 0}
    assert values_of(score(mask, mask, (1.0, 1.0), tolerance=0.0)) == best


def test_every_metric_says_in_which_direction_it_is_better():
    assert ["outcome", *HIGHER_IS_BETTER] == list(Scores._fields)
    mask = mask_of("######", "..####")
    quality = [score(mask, prediction, (1.0, 1.0), 0.0) for prediction in (mask, mask[:, ::-1], mask & False)]
    for metric, higher_is_better in HIGHER_IS_BETTER.items():
        for better, worse in pairwise(getattr(scores, metric) for scores in quality):
            assert better >= worse if higher_is_better else better <= worse, metric
        assert getattr(quality[0], metric) != getattr(quality[-1], metric), metric


# ---- empty masks -----------------------------------------------------------------------------------------------------


def test_label_in_neither_mask_has_no_values():
    empty = np.zeros((3, 4), bool)
    scores = score(empty, empty, (1.0, 1.0), 1.0)
    assert scores.outcome == "both empty" and set(values_of(scores).values()) == {None}


@pytest.mark.parametrize(
    ("shape", "spacing", "diagonal"),
    [
        ((3, 4), (1.0, 1.0), 5.0),
        ((4, 3, 6), (0.5, 1.0, 1.0), 7.0),
        ((1, 3, 4), (999.0, 1.0, 1.0), 5.0),
        ((3, 1, 4), (2.0, 999.0, 2.0), 10.0),
        ((5,), (2.0,), 10.0),
    ],
)
def test_empty_mask_is_as_wrong_as_can_be_and_as_far_as_the_image_is_long(shape, spacing, diagonal):
    mask = np.zeros(shape, bool)
    mask.flat[0] = True
    expected = MISSED | {"HD95": diagonal, "ASSD": diagonal}
    missed, hallucinated = score(mask, mask & False, spacing, 9e9), score(mask & False, mask, spacing, 9e9)
    assert (missed.outcome, hallucinated.outcome) == ("missed", "hallucinated")
    assert values_of(missed) == values_of(hallucinated) == pytest.approx(expected)


@given(pairs((1, 2, 3)))
def test_no_prediction_is_farther_away_than_none(pair):
    nothing = np.zeros_like(pair.prediction)
    missed = score(pair.reference, nothing, pair.spacing, pair.tolerance)
    assert pair.score().HD95 < missed.HD95 and pair.score().ASSD < missed.ASSD


@settings(max_examples=100)
@given(st.data())
def test_no_value_is_ever_nan_or_infinite(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    masks = [data.draw(arrays(bool, shape)) for _ in range(3)]
    for mask in masks:
        mask.setflags(write=False)
    reference, prediction, ignored = masks
    spacing = data.draw(st.tuples(*[st.floats(1e-4, 1e4)] * len(shape)))
    scores = score(reference, prediction, spacing, data.draw(st.floats(0, 1e6)), ignored)
    reference, prediction = reference & ~ignored, prediction & ~ignored
    present = (bool(reference.any()), bool(prediction.any()))
    outcomes = {(True, True): "segmented", (True, False): "missed", (False, True): "hallucinated"}
    assert scores.outcome == outcomes.get(present, "both empty")
    for metric, value in values_of(scores).items():
        if any(present):
            assert type(value) is float and math.isfinite(value) and value >= 0, metric
            assert metric in ("HD95", "ASSD", "volume_error") or value <= 1, metric
        else:
            assert value is None


@pytest.mark.parametrize("length", [math.nan, math.inf, 0.0, -1.0])
def test_spacing_that_is_no_length_is_refused(length):
    mask = mask_of("#..", "...")
    for prediction in (mask[:, ::-1], mask & False):
        with pytest.raises(ValueError, match="spacing"):
            score(mask, prediction, (1.0, length), 1.0)


def test_ignored_voxels_belong_to_neither_mask():
    reference, prediction, ignored = mask_of("####.."), mask_of("..####"), mask_of("#.#..#")
    expected = score(mask_of(".#.#.."), mask_of("...##."), (1.0, 1.0), 1.0)
    assert score(reference, prediction, (1.0, 1.0), 1.0, ignored) == expected
    assert score(reference, prediction, (1.0, 1.0), 1.0, ignored | True).outcome == "both empty"


# ---- laws ------------------------------------------------------------------------------------------------------------


@given(pairs((1, 2, 3)))
def test_swapping_the_masks_swaps_precision_and_recall_alone(pair):
    scores, swapped = pair.score(), Pair(pair.prediction, pair.reference, pair.spacing, pair.tolerance).score()
    expected = scores._replace(precision=scores.recall, recall=scores.precision, volume_error=swapped.volume_error)
    assert is_like(swapped, expected)


@given(pairs((1, 2, 3)), st.data())
def test_empty_space_around_the_masks_changes_nothing(pair, data):
    """Masks on the image's border are no exception: their voxels there are surface, before and after."""
    margins = data.draw(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * len(pair.spacing)))
    larger = [np.pad(mask, margins) for mask in (pair.reference, pair.prediction)]
    assert is_like(Pair(*larger, pair.spacing, pair.tolerance).score(), pair.score())


@given(pairs((2, 3)), st.integers(1, 3))
def test_turning_the_image_changes_nothing(pair, turns):
    turned = [np.rot90(mask, turns, axes=(0, -1)) for mask in (pair.reference, pair.prediction)]
    spacing = pair.spacing if turns == 2 else pair.spacing[::-1]
    assert is_like(Pair(*turned, spacing, pair.tolerance).score(), pair.score())


@given(pairs((1, 2, 3)))
def test_unit_of_the_spacing_scales_distances_alone(pair):
    scores = pair.score()
    scaled = score(pair.reference, pair.prediction, np.multiply(pair.spacing, 4), pair.tolerance * 4)
    assert scaled == scores._replace(HD95=4 * scores.HD95, ASSD=4 * scores.ASSD)


@given(pairs((1, 2, 3)), st.data())
def test_axes_of_length_1_change_nothing(pair, data):
    """nnU-Net reads 2D images as (1, H, W) with a spacing of 999."""
    axis = data.draw(st.integers(0, len(pair.spacing)))
    masks = [np.expand_dims(mask, axis) for mask in (pair.reference, pair.prediction)]
    spacing = [*pair.spacing[:axis], 999, *pair.spacing[axis:]]
    assert score(*masks, spacing, pair.tolerance) == pair.score()
    nothing = np.zeros_like(pair.reference)
    assert score(masks[0], np.expand_dims(nothing, axis), spacing, 1.0) == score(
        pair.reference, nothing, pair.spacing, 1.0
    )


def test_memory_does_not_grow_with_the_image_around_the_masks():
    reference, prediction = np.zeros((2, 128, 128, 128), bool)
    reference[60:64, 5:9, 90:99], prediction[61:65, 5:9, 90:99] = True, True
    tracemalloc.start()
    score(reference, prediction, (1.0, 1.0, 1.0), 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * reference.nbytes  # distances of the whole image would take 8 bytes a voxel, and more on the way


def test_disc_in_a_volume_has_surface_on_both_sides_but_in_a_slice_only_around():
    large, small = np.zeros((2, 7, 7), bool)
    large[:], small[1:-1, 1:-1] = True, True
    assert score(large[None], small[None], (999, 1, 1), 0.5).NSD == 0
    volumes = [np.pad(mask[None], ((1, 1), (0, 0), (0, 0))) for mask in (large, small)]
    assert score(*volumes, (999, 1, 1), 0.5).NSD == (25 + 25) / (49 + 25)


def test_image_of_a_single_voxel_has_metrics():
    voxel = np.ones((1, 1), bool)
    assert score(voxel, voxel, (1.0, 1.0), 0.0) == Scores("segmented", 1, 1, 1, 1, 0, 0, 1, 0)
    assert score(voxel, voxel & False, (3.0, 4.0), 0.0).Dice == 0


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "spacing"),
    [((4, 3), (1, 1)), ((3, 5), (1, 1)), ((1, 4), (1, 1)), ((1, 3, 4), (1, 1)), ((3, 4), (1,)), ((3, 4), (1, 1, 1))],
)
def test_masks_of_different_geometry_are_refused(prediction, spacing):
    with pytest.raises(ValueError, match=r"do not fit: predict in the reference's own geometry") as refusal:
        score(np.ones((3, 4), bool), np.ones(prediction, bool), spacing, 1.0)
    assert "(3, 4)" in str(refusal.value) and str(prediction) in str(refusal.value)
    assert f"{len(spacing)} spacings" in str(refusal.value)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (4, 3), (1, 3, 4)])
def test_ignored_voxels_of_another_geometry_are_refused(shape):
    with pytest.raises(ValueError, match=r"do not fit"):
        score(np.ones((3, 4), bool), np.ones((3, 4), bool), (1, 1), 1.0, np.zeros(shape, bool))
