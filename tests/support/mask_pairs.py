"""Pairs of masks for tests of metrics, drawn by hypothesis or by hand."""

from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER, score

LENGTHS = [0.25, 0.5, 0.75, 1.0, 1.25, 2.5, 3.0, 5.0]
"""Spacings and tolerances whose multiples and squares float32 holds exactly: ties with the tolerance are the same."""


def mask_of(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def values_of(scores):
    return {metric: getattr(scores, metric) for metric in HIGHER_IS_BETTER}


@dataclass
class Pair:
    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]
    tolerance: float

    def score(self):
        return score(self.reference, self.prediction, self.spacing, self.tolerance)


@st.composite
def blobs(draw, shape):
    """Boxes, each turning what it covers into its opposite: holes, lines, single voxels, contact with the border."""
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(1, 4))):
        bounds = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))) for n in shape]
        mask[tuple(slice(first, last + 1) for first, last in bounds)] ^= True
    assume(mask.any())
    mask.setflags(write=False)
    return mask


@st.composite
def pairs(draw, dimensions=(2, 3)):
    ndim = draw(st.sampled_from(dimensions))
    shape = draw(st.tuples(*[st.integers(2, 14 if ndim < 3 else 8)] * ndim))
    spacing = draw(st.tuples(*[st.sampled_from(LENGTHS)] * ndim))
    return Pair(draw(blobs(shape)), draw(blobs(shape)), spacing, draw(st.sampled_from([0.0, *LENGTHS])))
