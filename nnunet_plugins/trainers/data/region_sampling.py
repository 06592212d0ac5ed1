"""Dynamic region-based sampling, section 3.4.1 of MedFusion-TransNet's paper, as an nnU-Net data loader.

A patch is drawn in two steps: a region of a case, with the probability that its importance gives, and a point of that
region as the patch's centre. nnU-Net draws the cases.

The trainer computes the probabilities and keeps them in one file; the loader's workers read that file, mapped into
their memory, for every batch. With every patch the loader tells which regions it shows after rotation, scaling and
mirroring, so that the trainer knows to which regions its predictions belong.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert3DTo2DTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.data.region_importance import Case, Size, normalised


class RegionDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader, with patches around points of regions that are drawn by their importance.

    A batch has one more entry: ``batch["regions"]``, ``(batch size, cells)``, the indices of the regions in which the
    centres of the cells of ``patch_grid`` lie, -1 for those outside the image.

    nnU-Net's loader makes one patch after the other: it takes keys, asks :meth:`get_bbox` for each where to cut, and
    hands the cut to ``transforms``. This class remembers the key and the box of a patch until its transforms are done.

    Args:
        *args: nnU-Net's positional arguments.
        cases: regions of all cases of the dataset.
        probabilities: file with the probabilities of all regions.
        patch_grid: number of cells along each axis of a patch.
        transforms: nnU-Net's augmentation.
        **kwargs: nnU-Net's other arguments.
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
        """Place the box around a drawn point, moved to stay within nnU-Net's limits rather than padded."""
        self._case = self.cases[self._keys.pop(0)]
        center = self.draw_center(self._case, class_locations if self.has_ignore else None)
        shape, patch_size = np.array(data_shape), np.array(self.patch_size)
        padding = np.maximum(self.need_to_pad, patch_size - shape)
        lowest, highest = -padding // 2, shape + padding // 2 + padding % 2 - patch_size
        lower = np.clip(center - patch_size // 2, lowest, highest)
        self._corner = lower
        return lower.tolist(), (lower + patch_size).tolist()

    def draw_center(self, case: Case, class_locations: dict | None = None) -> np.ndarray:
        """Draw a region by its importance and a voxel of it, an annotated one if locations of such are given."""
        probabilities = self._probabilities[case.regions]
        drawn = np.random.choice(len(probabilities), p=normalised(probabilities))  # noqa: NPY002 (nnU-Net's seeds)
        if class_locations is not None:
            voxels = np.reshape(class_locations[self.annotated_classes_key], (-1, 4))[:, 1:]
            there = np.flatnonzero(case.region_of(voxels.T) == case.first + drawn)
            if len(there):
                return voxels[np.random.choice(there)]  # noqa: NPY002 (nnU-Net's seeds)
        cell, shape, grid = (np.array(x) for x in (np.unravel_index(drawn, case.grid), case.shape, case.grid))
        first, end = -(-cell * shape // grid), -(-(cell + 1) * shape // grid)
        return np.random.randint(first, end)  # noqa: NPY002 (nnU-Net's seeds)

    def augment_and_trace(self, **sample: Tensor) -> dict[str, Any]:
        """Transform a sample, and note from which regions the centres of the patch's cells come."""
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
        """Find the regions in which voxels of the loaded patch lie, ``(axes, *cells)`` to ``(prod(cells),)``.

        Args:
            origins: coordinates of the cells' centres; the first voxel of the loaded patch is 1, so that 0 is padding.
            size: size of the loaded patch.
        """
        local = origins.flatten(1).round().long().numpy() - 1
        padded = ((local < 0) | (local >= np.array(size)[:, None])).any(0)
        voxels = [*local + self._corner[-len(local) :, None]]
        if self.patch_size_was_2d:
            voxels.insert(0, self._corner[0])
        return torch.from_numpy(np.where(padded, -1, self._case.region_of(voxels)))


def cell_centers(size: Sequence[int], grid: Sequence[int]) -> tuple[Tensor, ...]:
    """Find the voxels in the middle of a grid's cells: an index, one tensor of the grid's shape for each axis."""
    centers = [(2 * torch.arange(cells) + 1) * length // (2 * cells) for length, cells in zip(size, grid, strict=True)]
    return torch.meshgrid(*centers, indexing="ij")


class TracedSpatialTransform(SpatialTransform):
    """nnU-Net's spatial transform, which adds the origins of the patch's cells as regression target ``(axes, *cells)``.

    Coordinates of all voxels could be transformed too, but cost a quarter of the time of nnU-Net's augmentation.
    """

    patch_grid: Size
    centers: tuple[Tensor, ...]
    """Centres of the cells of a patch, as an index; of a slice, where slices are channels."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Transform and add the target, ``(axes * slices, *cells)`` where nnU-Net makes slices of volumes channels."""
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
    """Replace the spatial transform by a traced one; ``None`` if another transform moves voxels before it."""
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
