"""nnU-Net's postprocessing of a segmentation."""

from collections.abc import Iterable, Sequence

import numpy as np
from skimage.measure import label


def keep_largest(segmentation: np.ndarray, steps: Iterable[Sequence[int]]) -> np.ndarray:
    """In each step, make all but the largest connected component of some labels together background.

    Components of the same largest size all stay.
    """
    for labels in steps:
        components, number = label(np.isin(segmentation, labels), return_num=True)
        if number > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            removed = (components > 0) & (sizes != sizes.max())[components]
            segmentation = np.where(removed, 0, segmentation).astype(segmentation.dtype)
    return segmentation
