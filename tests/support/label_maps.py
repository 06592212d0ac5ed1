"""Label maps drawn as text, their formats, and the boxes of the objects in them."""

import torch

from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.trainers.data.object_boxes import objects_in

LABELS, REGIONS = LabelFormat(), LabelFormat(regions=True)
IGNORE = 3
LABELS_IGNORE, REGIONS_IGNORE = LabelFormat(ignore_label=IGNORE), LabelFormat(regions=True, ignore_label=IGNORE)


def drawing(text):
    """A label map ``(1, 1, H, W)`` of digits; dots are background."""
    rows = [[0 if c == "." else int(c) for c in row] for row in text.split()]
    return torch.tensor(rows, dtype=torch.int16)[None, None]


def boxes_in(target, label_format=LABELS):
    return [tuple(box) for box in objects_in(target, label_format).boxes.tolist()]


def as_regions(labels, *regions):
    """``(B, K, H, W)`` bool: nnU-Net's ConvertSegmentationToRegionsTransform of label maps ``(B, 1, H, W)``."""
    return torch.cat([torch.isin(labels, torch.tensor(region, dtype=labels.dtype)) for region in regions], 1)
