"""Proves that distances are MONAI's and overlap is nnU-Net's, to the last digit that both compute."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from support.mask_pairs import Pair, pairs

from nnunet_plugins.benchmark.metrics import score, surface_distances

# ---- against MONAI ---------------------------------------------------------------------------------------------------


def by_monai(pair):
    prediction, reference = (torch.tensor(mask)[None, None].float() for mask in (pair.prediction, pair.reference))
    settings = {"include_background": True, "spacing": pair.spacing}
    return {
        "HD95": compute_hausdorff_distance(prediction, reference, percentile=95, directed=False, **settings).item(),
        "ASSD": compute_average_surface_distance(prediction, reference, symmetric=True, **settings).item(),
        "NSD": compute_surface_dice(prediction, reference, [pair.tolerance], **settings).item(),
    }


@settings(max_examples=80)
@given(pairs())
def test_distances_are_those_of_monai(pair):
    scores, expected = pair.score(), by_monai(pair)
    # MONAI rounds to float32, by 2^-24 of the value: each distance; the n sums of the mean; the rank among n distances,
    # whose error times the largest gap, at most the diagonal, moves the percentile. Twice that for the last operations.
    count = sum(map(len, surface_distances(pair.reference, pair.prediction, pair.spacing)))
    rounding = 2 * (count + 1) * 2**-24
    diagonal = math.hypot(*np.multiply(pair.reference.shape, pair.spacing))
    limits = {"HD95": rounding * diagonal, "ASSD": rounding * scores.ASSD, "NSD": 2**-24}  # NSD: one division
    for metric, limit in limits.items():
        assert abs(getattr(scores, metric) - expected[metric]) <= limit, metric


@pytest.mark.parametrize(("spacing", "voxels", "tolerance"), [(0.1, 3, 0.3), (np.float32(0.2).item(), 5, 1.0)])
def test_distance_that_is_the_tolerance_but_for_rounding_is_within_it(spacing, voxels, tolerance):
    """NIfTI headers hold spacings in float32: 0.2 mm is read as 0.200000003 mm."""
    reference, prediction = np.zeros((2, 3, 9), bool)
    reference[1, 1], prediction[1, 1 + voxels] = True, True
    pair = Pair(reference, prediction, (spacing, spacing), tolerance)
    assert by_monai(pair)["NSD"] == 1
    assert pair.score().NSD == 1


# ---- against nnU-Net -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_overlap_is_that_of_nnunet_to_the_last_digit(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap")
    shape = data.draw(st.tuples(st.just(1), st.integers(1, 12), st.integers(1, 12)))
    files = {name: str(folder / f"{name}.png") for name in ("reference", "prediction")}
    labels = {name: data.draw(arrays(np.uint8, shape, elements=st.integers(0, 3))) for name in files}
    for name, file in files.items():
        NaturalImage2DIO().write_seg(labels[name], file, {"spacing": (999, 1, 1)})
    for ignore_label in (None, 3):
        rows = compute_metrics(*files.values(), NaturalImage2DIO(), [1, 2, (1, 2)], ignore_label)["metrics"]
        ignored = None if ignore_label is None else labels["reference"] == ignore_label
        for label, row in rows.items():
            reference, prediction = (np.isin(segmentation, label) for segmentation in labels.values())
            scores = score(reference, prediction, (999, 1, 1), 1.0, ignored)
            if row["n_ref"] + row["n_pred"] == 0:
                assert scores.outcome == "both empty" and math.isnan(row["Dice"])
                continue
            assert (scores.Dice, scores.IoU) == (row["Dice"], row["IoU"])
            assert scores.precision == (row["TP"] / row["n_pred"] if row["n_pred"] else 0)
            assert scores.recall == (row["TP"] / row["n_ref"] if row["n_ref"] else 0)
