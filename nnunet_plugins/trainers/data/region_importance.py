"""Importance of regions, section 3.4.1 of MedFusion-TransNet's paper.

Every training case is divided into regions, the cells of a grid. Their importance says how likely each is to be drawn.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from tqdm import tqdm

from nnunet_plugins.architectures.layers.convolutions import Size
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write
from nnunet_plugins.losses.drgo_regions import CELLS_PER_AXIS, MIN_CELL

# ---- regions ---------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Regions of a training case, the cells of a grid, and their place in lists of all cases' regions."""

    shape: Size
    grid: Size
    first: int
    """Index of the case's first region."""

    @property
    def regions(self) -> slice:
        """Indices of the case's ``prod(grid)`` regions."""
        return slice(self.first, self.first + int(np.prod(self.grid)))

    def region_of(self, voxels: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Find the region that holds each voxel, ``(3, ...)`` to indices ``(...)``; -1 outside the case."""
        inside, index = np.True_, 0
        for coordinate, length, cells in zip(voxels, self.shape, self.grid, strict=True):
            inside = inside & (coordinate >= 0) & (coordinate < length)
            index = index * cells + coordinate * cells // length
        return np.where(inside, self.first + index, -1)


def case_grid(shape: Sequence[int], patch_size: Sequence[int]) -> Size:
    """Number of regions along each axis of a case: 8, or fewer, so that none is shorter than 16 voxels.

    Deviation: more, and shorter ones, where a region would be longer than half a patch and the patch does not show the
    whole axis; for patches of one slice, a region is a part of one slice. A patch around any point of a region then
    shows the whole region, and so the class for which the region was drawn.

    Example:
        >>> case_grid((40, 512, 400), (20, 256, 256)), case_grid((40, 512, 400), (1, 256, 256))
        ((4, 8, 8), (40, 8, 8))
    """
    lengths, patch = np.array(shape), np.array(patch_size)
    at_least = np.where(patch < lengths, np.minimum(-(-2 * lengths // patch), lengths), 1)
    preferred = np.clip(lengths // MIN_CELL, 1, CELLS_PER_AXIS)
    return tuple(int(n) for n in np.maximum(preferred, at_least))


def find_cases(dataset: nnUNetBaseDataset, patch_size: Sequence[int]) -> dict[str, Case]:
    """Divide all cases of a dataset into regions."""
    patch_size = (1, *patch_size)[-3:]  # images are volumes of one slice
    cases: dict[str, Case] = {}
    first = 0
    for identifier in dataset.identifiers:
        shape = tuple(int(length) for length in dataset.load_case(identifier)[0].shape[1:])
        case = Case(shape, case_grid(shape, patch_size), first)
        cases[identifier] = case
        first = case.regions.stop
    return cases


def count_labels(segmentation: np.ndarray, grid: Size, labels: Sequence[int]) -> np.ndarray:
    """Count the voxels of each label in each region, ``(regions, labels)``.

    Args:
        segmentation: ``(Z, Y, X)``; negative voxels, which preprocessing has found empty, count as background, 0.
        grid: number of regions along each axis.
        labels: labels to count; voxels of others are left out.
    """
    code_of = np.full(max(int(segmentation.max()), *labels) + 1, len(labels))
    code_of[list(labels)] = np.arange(len(labels))
    num_codes = len(labels) + 1
    z, y, x = (np.arange(length) * cells // length for length, cells in zip(segmentation.shape, grid, strict=True))
    plane = (y[:, None] * grid[2] + x) * num_codes
    counts = []
    for layer in range(grid[0]):
        codes = code_of[np.maximum(segmentation[z == layer], 0)] + plane
        counts.append(np.bincount(codes.ravel(), minlength=grid[1] * grid[2] * num_codes).reshape(-1, num_codes))
    return np.concatenate(counts)[:, :-1].astype(np.int32)


# ---- class frequency -------------------------------------------------------------------------------------------------


def class_frequency(counts: np.ndarray) -> np.ndarray:
    """Sum ``1 / p(c)`` over the foreground classes c in each region of a case; NaN where nothing is annotated.

    p(c) is the share of the case's annotated regions that show c: summed over the regions, every class of the case has
    the same weight, however rare it is. A case without foreground has the background as its only class.

    Deviation: the paper counts the dataset's pixels. By them the rarest class of many would have all the weight.

    Args:
        counts: annotated voxels of each class in each region, ``(regions, classes)``; the background is the first.

    Example:
        >>> class_frequency(np.array([[9, 0], [8, 1], [9, 0], [5, 4], [0, 0]]))
        array([ 0.,  2.,  0.,  2., nan])
    """
    present = counts > 0
    classes = present[:, 1:] if present[:, 1:].any() else present
    annotated, showing = present.any(1), classes.sum(0)
    inverse = np.divide(annotated.sum(), showing, out=np.zeros(len(showing)), where=showing > 0)
    return np.where(annotated, classes @ inverse, np.nan)


def class_frequency_of_cases(
    dataset: nnUNetBaseDataset, cases: dict[str, Case], labels: Sequence[int], rank: int = 0, num_ranks: int = 1
) -> dict[str, np.ndarray]:
    """Compute the class frequency in the cases that fall to a process, which is every ``num_ranks``-th.

    Args:
        dataset: of the cases.
        cases: all training cases.
        labels: labels that count as annotated, the background first.
        rank: of the process.
        num_ranks: number of processes.
    """
    mine = list(cases)[rank::num_ranks]
    return {
        identifier: class_frequency(
            count_labels(np.asarray(dataset.load_case(identifier)[1][0]), cases[identifier].grid, labels)
        )
        for identifier in tqdm(mine, desc="counting the classes of regions", disable=rank > 0)
    }


# ---- importance ------------------------------------------------------------------------------------------------------

FORMAT = 2
"""Version of the files in which importance is kept; those of nnunet_plugins 0.2.0 have none."""


class RegionImportance:
    """Importance of each region of each training case: the probability with which it is drawn from its case.

    ``importance = alpha * cf / sum(cf) + beta * bu / sum(bu) + gamma * pc / sum(pc)``, with sums over the regions of a
    case: class frequency cf is static, see :func:`class_frequency`; boundary uncertainty bu and entropy pc are moving
    averages of what training has seen. A region not seen yet counts as the mean of those seen in its case. A factor of
    which nothing is known in a case, or that is the same in all of its regions, gives its weight to class frequency.

    So the classes have at least alpha of the patches of each case, in equal shares, whatever the network predicts.

    Importance sums to 1 for each case, for nnU-Net draws the cases. The paper weighs the loss of a region by it;
    drawing the region with that probability has the same expectation.

    Deviation: a tenth of what is not guaranteed to the classes is drawn from all annotated regions alike. A region
    without a class, of which the network is certain, would never be drawn, and nothing ever be learnt of it.

    Args:
        cases: the training cases.
        frequency: class frequency of each region, ``(regions,)``; NaN for regions without annotation.
    """

    weights = (1 / 3, 1 / 3, 1 / 3)  # alpha, beta, gamma; the paper has no numbers
    decay = 0.5  # share of the old value in the moving averages
    uniform_share = 0.1

    def __init__(self, cases: dict[str, Case], frequency: np.ndarray):
        self.cases = cases
        self.frequency = frequency
        self.boundary, self.entropy = np.full((2, len(frequency)), np.nan)

    def probabilities(self) -> np.ndarray:
        """Probability of each region to be drawn from its case; they sum to 1 for each case."""
        return np.concatenate([self.mixture(case.regions) for case in self.cases.values()])

    def mixture(self, regions: slice) -> np.ndarray:
        """Probabilities of the regions of one case; 0 for those without annotation, unless there are no others."""
        frequency = self.frequency[regions]
        annotated = np.isfinite(frequency)
        if not annotated.any():
            return np.full(len(frequency), 1 / len(frequency))
        by_class = normalised(np.where(annotated, frequency, 0))
        evenly = normalised(annotated.astype(float))
        alpha, *weights = self.weights
        factors = (self.boundary[regions], self.entropy[regions])
        shares = [shares_of(factor, annotated, by_class) for factor in factors]
        others = sum(weight * share for weight, share in zip(weights, shares, strict=True))
        at_random = sum(weights) * evenly
        return alpha * by_class + (1 - self.uniform_share) * others + self.uniform_share * at_random

    def update(self, regions: np.ndarray, boundary: np.ndarray, entropy: np.ndarray) -> None:
        """Average an epoch's observations in: regions, which may repeat, and their uncertainties, each ``(n,)``."""
        times = np.bincount(regions, minlength=len(self.frequency))
        seen = times > 0
        for average, values in ((self.boundary, boundary), (self.entropy, entropy)):
            new = np.bincount(regions, values, minlength=len(self.frequency))[seen] / times[seen]
            old = np.where(np.isnan(average[seen]), new, average[seen])
            average[seen] = self.decay * old + (1 - self.decay) * new

    def save(self, path: Path, epoch: int) -> None:
        """Write everything on which the probabilities depend, and the number of epochs so far."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                format=FORMAT,
                epoch=epoch,
                cases=np.array(list(self.cases)),
                grids=np.array([case.grid for case in self.cases.values()]),
                frequency=self.frequency,
                boundary=self.boundary,
                entropy=self.entropy,
            )

    @classmethod
    def load(cls, path: Path, cases: dict[str, Case]) -> tuple["RegionImportance", int]:
        """Read a file that :meth:`save` wrote, and its number of epochs.

        Raises:
            DamagedImportance: the file cannot be read.
            UserError: it is of another version, of other cases, or of the same ones preprocessed in another way.
        """
        saved = read_arrays(path)
        if "format" not in saved or saved["format"] != FORMAT:
            version = "0.2.0" if "format" not in saved else "a later version"
            raise UserError(
                f"{path} was written by nnunet_plugins {version}, whose importance of regions means something "
                "else: go on with that version, or move the file away to begin with new importances of the regions."
            )
        grids = [case.grid for case in cases.values()]
        if list(saved["cases"]) != list(cases) or not np.array_equal(saved["grids"], grids):
            raise UserError(
                f"{path} is of other training cases, or of another preprocessing: expected the {len(cases)} cases "
                "of this fold; move it away to begin with new importances of the regions."
            )
        importance = cls(cases, saved["frequency"])
        importance.boundary, importance.entropy = saved["boundary"], saved["entropy"]
        return importance, int(saved["epoch"])


class DamagedImportance(Exception):
    """A file of region importance that cannot be read."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file, none of which may be a pickle.

    Raises:
        DamagedImportance: one of them cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedImportance(f"{path} is damaged ({error})") from error


def shares_of(factor: np.ndarray, annotated: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Share of each region of a case in a factor's sum; regions where it is not finite get the mean of the others.

    Args:
        factor: one value for each region, ``(regions,)``, NaN where unknown.
        annotated: whether each region counts.
        otherwise: shares to return if no value is known, or all are the same.
    """
    known = factor[annotated & np.isfinite(factor)].clip(min=0)  # rounding makes entropies of 0 negative
    if not len(known) or known.max() == known.min():
        return otherwise
    filled = np.where(np.isfinite(factor), factor.clip(min=0), known.mean())
    return normalised(np.where(annotated, filled, 0))


def normalised(x: np.ndarray) -> np.ndarray:
    return x / x.sum()
