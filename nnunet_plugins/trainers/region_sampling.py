"""Dynamic region-based sampling, section 3.4.1 of MedFusion-TransNet's paper, as an nnU-Net data loader.

Every training case is divided into regions, the cells of a grid. A patch is drawn by drawing a region with a
probability that its importance gives, and a point of that region as the patch's centre. Which cases are drawn stays
nnU-Net's.

The trainer computes the probabilities and keeps them in one file; the loader's workers read that file, mapped into
their memory, for every batch. With every patch the loader tells which regions it shows, whatever rotation, scaling and
mirroring have made of it, so that the trainer knows of which regions it has seen the predictions.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert3DTo2DTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor
from tqdm import tqdm

from nnunet_plugins.errors import UserError
from nnunet_plugins.losses.drgo import CELLS_PER_AXIS, MIN_CELL

Size = tuple[int, ...]


# ---- regions ---------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """The regions of a case: ``prod(grid)`` successive entries of all lists of regions, from ``first`` on."""

    shape: Size
    grid: Size
    first: int

    @property
    def regions(self) -> slice:
        return slice(self.first, self.first + int(np.prod(self.grid)))

    def region_of(self, voxels: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Index of the region that holds each voxel, ``(3, ...)`` to ``(...)``; -1 outside the case."""
        inside, index = np.True_, 0
        for coordinate, length, cells in zip(voxels, self.shape, self.grid, strict=True):
            inside = inside & (coordinate >= 0) & (coordinate < length)
            index = index * cells + coordinate * cells // length
        return np.where(inside, self.first + index, -1)


def case_grid(shape: Sequence[int], patch_size: Sequence[int]) -> Size:
    """Regions along each axis of a case: 8, but none shorter than 16 voxels.

    Deviation: more than 8 where regions were else longer than half a patch, so that in a case far larger than the patch
    too, a patch around any point of a region shows all of it.
    """
    cells = np.maximum(CELLS_PER_AXIS, -(-2 * np.array(shape) // np.array(patch_size)))
    return tuple(int(n) for n in np.clip(np.array(shape) // MIN_CELL, 1, cells))


def find_cases(dataset: nnUNetBaseDataset, patch_size: Sequence[int]) -> dict[str, Case]:
    """The regions of all cases of a dataset."""
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
    """Number of voxels of each label in each region, ``(regions, labels)``; other labels are not counted.

    Args:
        segmentation: ``(Z, Y, X)``; negative voxels, which preprocessing has found empty, count as background, 0.
        grid: of the regions.
        labels: to be counted.
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
    """:func:`count_labels` of the training segmentations that fall to a process: of every ``num_ranks``-th case."""
    mine = list(cases)[rank::num_ranks]
    return {
        identifier: count_labels(np.asarray(dataset.load_case(identifier)[1][0]), cases[identifier].grid, labels)
        for identifier in tqdm(mine, desc="counting the classes of regions", disable=rank > 0)
    }


# ---- importance ------------------------------------------------------------------------------------------------------


class RegionImportance:
    """How important each region of each training case is, and the probabilities with which they are drawn.

    ``importance = alpha * class frequency + beta * boundary uncertainty + gamma * entropy``, each scaled to 0 .. 1 over
    all regions of the training cases. The first is static, see :func:`class_frequency`. The other two are moving
    averages of what training has seen; a region that it has not seen yet counts as the average of those that it has.

    Probabilities are proportional to importance within each case, for nnU-Net draws the cases. That the paper weighs
    the loss of a region by its probability is what drawing it with that probability does, in expectation.

    Deviation: a tenth of the patches is drawn from all annotated regions alike. Scaled to 0 .. 1, the least important
    region would never be drawn, and nothing would ever be learnt of it.

    Args:
        cases: of the training.
        frequency: class frequency of each region, ``(regions,)``; 0 for those without annotation.
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
        """Regions with an annotated voxel: every class has a share, so their class frequency is not 0."""
        return self.frequency > 0

    def importance(self) -> np.ndarray:
        """Of each region, from 0 to 1; 0 for those without annotation."""
        factors = (self.frequency, self.boundary, self.entropy)
        scaled = [weight * self.scaled(factor) for weight, factor in zip(self.weights, factors, strict=True)]
        return np.where(self.annotated, np.sum(scaled, 0), 0.0)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """``values`` from 0 to 1 over the annotated regions; those that are not known, NaN, get the mean of the others.

        All 0 if nothing is known, or all is alike.
        """
        known = values[self.annotated & np.isfinite(values)]
        if not len(known) or known.max() == known.min():
            return np.zeros_like(values)
        filled = np.where(np.isfinite(values), values, known.mean())
        return (filled - known.min()) / (known.max() - known.min())

    def probabilities(self) -> np.ndarray:
        """Of each region to be drawn when its case is; they sum to 1 for each case."""
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
        """Take in what an epoch has seen: regions, which may repeat, and their uncertainties, each ``(n,)``."""
        times = np.bincount(regions, minlength=len(self.frequency))
        seen = times > 0
        for average, values in ((self.boundary, boundary), (self.entropy, entropy)):
            new = np.bincount(regions, values, minlength=len(self.frequency))[seen] / times[seen]
            old = np.where(np.isnan(average[seen]), new, average[seen])
            average[seen] = self.decay * old + (1 - self.decay) * new

    def save(self, path: Path, epoch: int) -> None:
        """Write all that the probabilities depend on, as after ``epoch`` epochs."""
        temporary = path.with_name(f"{path.name}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                epoch=epoch,
                cases=np.array(list(self.cases)),
                grids=np.array([case.grid for case in self.cases.values()]),
                frequency=self.frequency,
                boundary=self.boundary,
                entropy=self.entropy,
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path, cases: dict[str, Case]) -> tuple["RegionImportance", int]:
        """What :meth:`save` wrote, and its epoch.

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
    """``sum of 1 / p(c)`` over the classes c in each region, p(c) being their share of all annotated voxels.

    Args:
        counts: annotated voxels of each class in each region, ``(regions, classes)``.
    """
    of_class = counts.sum(0)
    rarity = np.divide(of_class.sum(), of_class, out=np.zeros(len(of_class)), where=of_class > 0)
    return (counts > 0) @ rarity


def normalised(x: np.ndarray) -> np.ndarray:
    return x / x.sum()


# ---- data loader -----------------------------------------------------------------------------------------------------


class RegionDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader, with patches around points of regions that are drawn by their importance.

    A batch has one more entry: ``batch["regions"]``, ``(batch size, cells)``, the indices of the regions in which the
    centres of the cells of ``patch_grid`` lie, -1 for those outside the image.

    nnU-Net's loader makes one patch after the other: it takes keys, asks :meth:`get_bbox` for each where to cut, and
    hands what it has cut to ``transforms``. This is where the key, the box and the transforms meet.

    Args:
        *args: nnU-Net's, positionally.
        cases: of the dataset.
        probabilities: file with those of all regions.
        patch_grid: of the cells of a patch.
        transforms: nnU-Net's.
        **kwargs: nnU-Net's.
    """

    def __init__(
        self,
        *args: Any,
        cases: dict[str, Case],
        probabilities: Path,
        patch_grid: Size,
        transforms: BasicTransform,
        **kwargs: Any,
    ):
        super().__init__(*args, transforms=self.augment_and_trace, **kwargs)
        self.cases = cases
        self.probabilities = probabilities
        self.patch_grid = patch_grid
        self.augmentation = transforms
        self.traced = traced(transforms, patch_grid)
        self._keys: list[str] = []
        self._regions: list[Tensor] = []

    def generate_train_batch(self) -> dict[str, Any]:
        self._regions = []
        batch = super().generate_train_batch()
        return batch | {"regions": torch.stack(self._regions)}

    def get_indices(self) -> list[str]:
        keys = super().get_indices()
        self._keys = list(keys)
        self._probabilities = np.asarray(np.load(self.probabilities, mmap_mode="r"))
        return keys

    def get_bbox(self, data_shape, force_fg, class_locations, *args, **kwargs):  # type: ignore[no-untyped-def]
        """The box around a drawn point, within nnU-Net's limits: it is moved rather than padded."""
        self._case = self.cases[self._keys.pop(0)]
        center = self.draw_center(self._case, class_locations if self.has_ignore else None)
        shape, patch_size = np.array(data_shape), np.array(self.patch_size)
        padding = np.maximum(self.need_to_pad, patch_size - shape)
        lowest, highest = -padding // 2, shape + padding // 2 + padding % 2 - patch_size
        lower = np.clip(center - patch_size // 2, lowest, highest)
        self._corner = lower
        return lower.tolist(), (lower + patch_size).tolist()

    def draw_center(self, case: Case, class_locations: dict | None = None) -> np.ndarray:
        """A voxel of a region that is drawn by its importance; an annotated one if locations of such are given."""
        probabilities = self._probabilities[case.regions]
        drawn = np.random.choice(len(probabilities), p=normalised(probabilities))  # noqa: NPY002 (nnU-Net's seeds)
        if class_locations is not None:
            voxels = np.reshape(class_locations[self.annotated_classes_key], (-1, 4))[:, 1:]
            there = np.flatnonzero(case.region_of(voxels.T) == case.first + drawn)
            if len(there):
                return voxels[np.random.choice(there)]  # noqa: NPY002
        cell, shape, grid = (np.array(x) for x in (np.unravel_index(drawn, case.grid), case.shape, case.grid))
        first, end = -(-cell * shape // grid), -(-(cell + 1) * shape // grid)
        return np.random.randint(first, end)  # noqa: NPY002

    def augment_and_trace(self, **sample: Tensor) -> dict[str, Any]:
        """Transform a sample, and note where the centres of the patch's cells come from."""
        size = tuple(sample["image"].shape[1:])
        if self.traced is None:
            coordinates = torch.meshgrid(*(torch.arange(1.0, n + 1) for n in size), indexing="ij")
            image = torch.stack((*coordinates, torch.ones(size)))
            transformed = self.augmentation(**sample, regression_target=image)
        else:
            transformed = self.traced(**sample)
        origins = transformed.pop("regression_target", None)
        if origins is None:
            raise UserError(
                "a transform of this trainer's augmentation drops the regression target, in which region sampling "
                "keeps where a patch comes from: give it _apply_to_regr_target, or set region_sampling = False."
            )
        if self.traced is None:
            *points, share = origins[:, *cell_centers(origins.shape[1:], self.patch_grid)]
            origins = torch.stack(points) / share.clamp_min(1e-5)  # at the border, padding of 0 has been mixed in
            origins[:, share < 0.5] = 0
        self._regions.append(self.regions_of(origins, size))
        return transformed

    def regions_of(self, origins: Tensor, size: Size) -> Tensor:
        """The regions in which voxels of the loaded patch lie: ``(axes, *cells)`` to ``(prod(cells),)``.

        Args:
            origins: of the cells' centres; the first voxel of the loaded patch is 1, so that 0 is padding.
            size: of the loaded patch.
        """
        local = origins.flatten(1).round().long().numpy() - 1
        padded = ((local < 0) | (local >= np.array(size)[:, None])).any(0)
        voxels = [*local + self._corner[-len(local) :, None]]
        if self.patch_size_was_2d:
            voxels.insert(0, self._corner[0])
        return torch.from_numpy(np.where(padded, -1, self._case.region_of(voxels)))


def cell_centers(size: Sequence[int], grid: Sequence[int]) -> tuple[Tensor, ...]:
    """The voxels in the middle of a grid's cells, for each axis a tensor of the grid's shape: an index."""
    centers = [(2 * torch.arange(cells) + 1) * length // (2 * cells) for length, cells in zip(size, grid, strict=True)]
    return torch.meshgrid(*centers, indexing="ij")


class TracedSpatialTransform(SpatialTransform):
    """nnU-Net's, which adds where the centres of the patch's cells come from as regression target, ``(axes, *cells)``.

    That of a whole patch would be transformed just as well, but costs a quarter of the time of nnU-Net's augmentation.
    """

    patch_grid: Size
    centers: tuple[Tensor, ...]
    """Of the cells of a patch, as an index; of a slice, where slices are channels."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """In nnU-Net's 2D augmentation of volumes, where slices are channels, ``(axes * slices, *cells)``."""
        num_channels, *size = data_dict["image"].shape
        data_dict = super().apply(data_dict, **params)
        if params["grid"] is None:
            middle = params["center_location_in_pixels"]
            first = [math.floor(m) - length // 2 + 1 for m, length in zip(middle, self.patch_size, strict=True)]
            origins = torch.stack([c + start for c, start in zip(self.centers, first, strict=True)]).float()
        else:  # sampling points from -1 to 1, the last axis first
            points = params["grid"][self.centers].flip(-1).movedim(-1, 0)
            origins = (points + 1) * torch.tensor(size).reshape(-1, *[1] * len(size)) / 2 + 0.5
        if len(size) < len(self.patch_grid):
            num_slices = num_channels // data_dict["nchannels_img"]
            (slices,) = cell_centers((num_slices,), self.patch_grid[:1])
            shape = (len(slices), *origins.shape[1:])
            axes = [slices[:, None, None] + 1.0, *origins[:, None]]
            origins = torch.cat([axis.expand(shape) for axis in axes])
            data_dict["nchannels_regr_trg"] = len(axes)
        return data_dict | {"regression_target": origins}


def traced(transforms: BasicTransform, patch_grid: Size) -> BasicTransform | None:
    """The same transforms with a traced spatial one; ``None`` if it is not the first that moves voxels."""
    steps = list(transforms.transforms) if isinstance(transforms, ComposeTransforms) else [transforms]
    spatial = [index for index, step in enumerate(steps) if isinstance(step, SpatialTransform)]
    if len(spatial) != 1:
        return None
    before, step, after = steps[: spatial[0]], steps[spatial[0]], steps[spatial[0] + 1 :]
    if type(step) is not SpatialTransform or step.align_corners:
        return None
    if not all(isinstance(other, Convert3DTo2DTransform) for other in before):
        return None
    twin = TracedSpatialTransform.__new__(TracedSpatialTransform)
    centers = cell_centers(step.patch_size, patch_grid[-len(step.patch_size) :])
    twin.__dict__.update(vars(step), patch_grid=patch_grid, centers=centers)
    return ComposeTransforms([*before, twin, *after])
