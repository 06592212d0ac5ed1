"""Importance of regions, section 3.4.1 of MedFusion-TransNet's paper.

Every training case is divided into regions, the cells of a grid. Their importance says how likely each is to be drawn.
"""

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

    Deviation: more than 8 where a region would be longer than half a patch. A patch around any point of a region then
    shows the whole region, however much larger than the patch the case is.
    """
    cells = np.maximum(CELLS_PER_AXIS, -(-2 * np.array(shape) // np.array(patch_size)))
    return tuple(int(n) for n in np.clip(np.array(shape) // MIN_CELL, 1, cells))


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


def count_labels_of_cases(
    dataset: nnUNetBaseDataset, cases: dict[str, Case], labels: Sequence[int], rank: int = 0, num_ranks: int = 1
) -> dict[str, np.ndarray]:
    """Count the labels of the cases that fall to a process, which is every ``num_ranks``-th."""
    mine = list(cases)[rank::num_ranks]
    return {
        identifier: count_labels(np.asarray(dataset.load_case(identifier)[1][0]), cases[identifier].grid, labels)
        for identifier in tqdm(mine, desc="counting the classes of regions", disable=rank > 0)
    }


# ---- importance ------------------------------------------------------------------------------------------------------


class RegionImportance:
    """Importance of each region of each training case, and the probabilities with which regions are drawn.

    ``importance = alpha * class frequency + beta * boundary uncertainty + gamma * entropy``, each scaled to 0 .. 1 over
    all regions of the training cases. Class frequency is static, see :func:`class_frequency`. Boundary uncertainty and
    entropy are moving averages of what training has seen; a region not seen yet counts as the mean of those seen.

    Probabilities are proportional to importance within each case, for nnU-Net draws the cases. The paper weighs the
    loss of a region by its probability; drawing the region with that probability has the same expectation.

    Deviation: a tenth of the patches is drawn from all annotated regions alike. Scaled to 0 .. 1, the least important
    region would never be drawn, and nothing would ever be learnt of it.

    Args:
        cases: the training cases.
        frequency: class frequency of each region, ``(regions,)``; 0 for regions without annotation.
    """

    weights = (1 / 3, 1 / 3, 1 / 3)  # alpha, beta, gamma
    decay = 0.5  # share of the old value in the moving averages
    uniform_share = 0.1

    def __init__(self, cases: dict[str, Case], frequency: np.ndarray):
        self.cases = cases
        self.frequency = frequency
        self.boundary, self.entropy = np.full((2, len(frequency)), np.nan)

    @property
    def annotated(self) -> np.ndarray:
        """Whether each region has an annotated voxel: any class gives it a frequency above 0."""
        return self.frequency > 0

    def importance(self) -> np.ndarray:
        """Importance of each region, from 0 to 1; 0 for regions without annotation."""
        factors = (self.frequency, self.boundary, self.entropy)
        scaled = [weight * self.scaled(factor) for weight, factor in zip(self.weights, factors, strict=True)]
        return np.where(self.annotated, np.sum(scaled, 0), 0.0)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Scale values to 0 .. 1 over the annotated regions; unknown ones, NaN, get the mean of the others.

        All are 0 if none is known, or all are alike.
        """
        known = values[self.annotated & np.isfinite(values)]
        if not len(known) or known.max() == known.min():
            return np.zeros_like(values)
        filled = np.where(np.isfinite(values), values, known.mean())
        return (filled - known.min()) / (known.max() - known.min())

    def probabilities(self) -> np.ndarray:
        """Probability of each region to be drawn from its case; they sum to 1 for each case."""
        importance, annotated = self.importance(), self.annotated.astype(float)
        result = np.empty(len(importance))
        for case in self.cases.values():
            eligible = annotated[case.regions]
            uniform = normalised(eligible if eligible.any() else np.ones_like(eligible))
            of_case = importance[case.regions]
            drawn = normalised(of_case) if of_case.any() else uniform
            result[case.regions] = (1 - self.uniform_share) * drawn + self.uniform_share * uniform
        return result

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
            UserError: the file is of other cases, or of the same ones preprocessed in another way.
        """
        with np.load(path) as saved:
            grids = [case.grid for case in cases.values()]
            if list(saved["cases"]) != list(cases) or not np.array_equal(saved["grids"], grids):
                raise UserError(
                    f"{path} is of other training cases, or of another preprocessing: expected the {len(cases)} cases "
                    "of this fold; delete it to begin with new importances of the regions."
                )
            importance = cls(cases, saved["frequency"])
            importance.boundary, importance.entropy = saved["boundary"], saved["entropy"]
            return importance, int(saved["epoch"])


def class_frequency(counts: np.ndarray) -> np.ndarray:
    """Sum ``1 / p(c)`` over the classes c in each region, where p(c) is the class's share of all annotated voxels.

    Args:
        counts: annotated voxels of each class in each region, ``(regions, classes)``.
    """
    of_class = counts.sum(0)
    rarity = np.divide(of_class.sum(), of_class, out=np.zeros(len(of_class)), where=of_class > 0)
    return (counts > 0) @ rarity


def normalised(x: np.ndarray) -> np.ndarray:
    return x / x.sum()
