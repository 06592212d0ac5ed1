"""A dataset in memory, for tests of data loaders, and a loader of its patches."""

from pathlib import Path
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_plugins.trainers.data.region_importance import find_cases
from nnunet_plugins.trainers.data.region_sampling import RegionDataLoader


class Cases(nnUNetBaseDataset):
    """Dataset of given label maps, with images whose channels are the voxels' coordinates, from 1 on."""

    def __init__(self, label_maps, class_locations=None):
        super().__init__("", list(label_maps))
        self.label_maps = label_maps
        self.class_locations = class_locations or {}

    def load_case(self, identifier):
        labels = self.label_maps[identifier]
        image = np.stack(np.indices(labels.shape)).astype(np.float32) + 1
        return image, labels[None], None, {"class_locations": self.class_locations}

    @staticmethod
    def save_case(data, seg, properties, output_filename_truncated):
        raise NotImplementedError

    @staticmethod
    def get_identifiers(folder):
        raise NotImplementedError


class Nothing(BasicTransform):
    """Augmentation that changes nothing."""

    def apply(self, data_dict, **params):
        return data_dict


def make_loader(
    dataset: Cases,
    patch_size: tuple[int, ...],
    folder: Path,
    *,
    probabilities: np.ndarray | None = None,
    batch_size: int = 2,
    ignore: bool = False,
    **kwargs: Any,
) -> RegionDataLoader:
    """Make a loader that draws all regions alike unless probabilities are given, and augments nothing."""
    cases = find_cases(dataset, patch_size)
    num_regions = list(cases.values())[-1].regions.stop
    if probabilities is None:
        probabilities = np.full(num_regions, 0.5)
    np.save(folder / "probabilities.npy", probabilities)
    labels = {"background": 0, "a": 1, "b": 2} | ({"ignore": 3} if ignore else {})
    options = {"transforms": Nothing(), "patch_grid": (1,) * len(patch_size), "final_patch_size": patch_size} | kwargs
    return RegionDataLoader(
        dataset,
        batch_size,
        patch_size,
        label_manager=LabelManager(labels, None),
        cases=cases,
        probabilities=folder / "probabilities.npy",
        **options,
    )
