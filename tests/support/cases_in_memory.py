"""A dataset in memory, for tests of data loaders."""

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset


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
