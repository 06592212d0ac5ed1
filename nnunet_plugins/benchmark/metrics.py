r"""Metrics of a segmentation: overlap as nnU-Net counts it, distances as MONAI defines them.

A surface is the voxels of a mask that have a neighbour (sharing a face) outside it, or lie on the image's border;
distances are Euclidean, in the spacing's unit, from each surface voxel of one mask to the nearest one of the other.

=====================  ================================================================================================
Dice, IoU              2TP / (2TP + FP + FN), TP / (TP + FP + FN)
precision, recall      TP / (TP + FP), TP / (TP + FN)
HD95                   the larger of the two directions' 95th percentiles (linear interpolation)
ASSD                   mean over all distances of both directions
NSD                    share of the distances of both directions that are at most the tolerance
volume error           \|P - R\| / R
=====================  ================================================================================================

Empty masks: if both are empty, the case says nothing about the label and has no values. If one is, overlap and NSD are
0, HD95 and ASSD the image's diagonal, volume error 1. Voxels with the ignore label belong to neither mask.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Outcome = Literal["segmented", "missed", "hallucinated", "both empty"]
HIGHER_IS_BETTER = {
    "Dice": True,
    "IoU": True,
    "precision": True,
    "recall": True,
    "HD95": False,
    "ASSD": False,
    "NSD": True,
    "volume_error": False,
}


class Scores(NamedTuple):
    """All metrics of one mask; None where both masks are empty."""

    outcome: Outcome
    Dice: float | None = None
    IoU: float | None = None
    precision: float | None = None
    recall: float | None = None
    HD95: float | None = None
    ASSD: float | None = None
    NSD: float | None = None
    volume_error: float | None = None


def score(
    reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float, ignored: Mask | None = None
) -> Scores:
    """All metrics of a predicted mask.

    Args:
        reference: true mask ``(*S)`` in any number of dimensions; axes of length 1 are dropped.
        prediction: predicted mask ``(*S)``.
        spacing: length of a voxel along each axis.
        tolerance: distance up to which NSD takes surfaces for equal, in the spacing's unit.
        ignored: voxels that belong to neither mask, ``(*S)``.

    Raises:
        ValueError: the shapes or the number of spacings differ, or a spacing is no length.
    """
    shapes = {mask.shape for mask in (reference, prediction, ignored) if mask is not None}
    if len(shapes) > 1 or len(spacing) != reference.ndim:
        raise ValueError(
            f"reference {reference.shape}, prediction {prediction.shape} and {len(spacing)} spacings do not fit: "
            "predict in the reference's own geometry"
        )
    if not all(0 < length < float("inf") for length in spacing):
        raise ValueError(f"spacing {tuple(spacing)}: expected lengths above 0, correct the image's header")
    if ignored is not None:
        reference, prediction = reference & ~ignored, prediction & ~ignored
    true_positives = int(np.count_nonzero(reference & prediction))
    size, predicted_size = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    if not size and not predicted_size:
        return Scores("both empty")
    if not size or not predicted_size:
        diagonal = float(np.linalg.norm(np.multiply(reference.shape, spacing)[np.array(reference.shape) > 1]))
        outcome: Outcome = "missed" if size else "hallucinated"
        return Scores(outcome, 0.0, 0.0, 0.0, 0.0, diagonal, diagonal, 0.0, 1.0)
    union = size + predicted_size - true_positives
    to_reference, to_prediction = surface_distances(reference, prediction, spacing)
    both = np.concatenate([to_reference, to_prediction])
    return Scores(
        outcome="segmented",
        Dice=2 * true_positives / (size + predicted_size),
        IoU=true_positives / union,
        precision=true_positives / predicted_size,
        recall=true_positives / size,
        HD95=float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        ASSD=float(both.mean()),
        NSD=float((both <= tolerance * (1 + 1e-6)).mean()),  # NIfTI rounds spacings to float32
        volume_error=abs(predicted_size - size) / size,
    )


def surface_distances(
    reference: Mask, prediction: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of the prediction's surface to the reference's, and of the reference's to the prediction's.

    Neither mask may be empty. Only their common box is looked at: outside of it there is no surface.
    """
    box = ndimage.find_objects((reference | prediction).astype(np.uint8))[0]
    axes = [axis for axis, length in enumerate(reference.shape) if length > 1] or [0]
    kept = tuple(slice(None) if axis in axes else 0 for axis in range(reference.ndim))
    surfaces = [surface(mask[box][kept]) for mask in (reference, prediction)]
    sampling = [spacing[axis] for axis in axes]
    to_reference, to_prediction = (ndimage.distance_transform_edt(~mask, sampling=sampling) for mask in surfaces)
    return to_reference[surfaces[1]], to_prediction[surfaces[0]]


def surface(mask: Mask) -> Mask:
    """Voxels of a mask with a face towards the outside of it or of the image."""
    return mask & ~ndimage.binary_erosion(mask)
