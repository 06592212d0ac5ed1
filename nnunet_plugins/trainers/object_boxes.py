"""Boxes of the objects in a patch: of the connected components of its segmentation."""

import cc3d
import numpy as np
import torch
from scipy.ndimage import find_objects
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from nnunet_plugins.architectures.layers.boxes import boxes_of_images
from nnunet_plugins.architectures.layers.detector import Objects
from nnunet_plugins.losses.common import LabelFormat

SPECK = 3
"""Pixels of the smallest component that has a box of its own, and the smallest side of a box inside the image."""


def objects_in(target: Tensor, label_format: LabelFormat) -> Objects:
    """What there is to detect in a batch, on the CPU.

    Every component (of 8 neighbours) of every class or region is an object, but for those of the same box, which are
    one. Components of fewer than three pixels share a box with others whose 3x3 neighbourhoods overlap theirs.

    Args:
        target: nnU-Net's, at full resolution: ``(B, 1, H, W)`` labels, or ``(B, K [+ 1 if ignore], H, W)`` regions.
        label_format: of the dataset.
    """
    annotated = None
    if label_format.ignore_label is not None:
        annotated = ~target[:, -1:].bool() if label_format.regions else target != label_format.ignore_label
        target = (target[:, :-1] if label_format.regions else target) * annotated
    return Objects(boxes_of_images([object_boxes(maps.numpy()) for maps in target.cpu()]), annotated)


def object_boxes(maps: np.ndarray) -> Tensor:
    """Boxes ``(N, 4)`` float32, two corners in pixels, of the objects in label maps ``(M, H, W)`` of an image."""
    boxes, specks = (torch.cat(found) for found in zip(*map(component_boxes, maps), strict=True))
    boxes = torch.cat((boxes, merged(specks + torch.tensor([-1.0, -1.0, 1.0, 1.0]))))
    missing = (SPECK - (boxes[:, 2:] - boxes[:, :2])).clamp_min(0) / 2
    boxes = torch.cat((boxes[:, :2] - missing, boxes[:, 2:] + missing), 1)
    return clip_boxes_to_image(boxes, maps.shape[1:]).unique(dim=0)


def component_boxes(labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Boxes ``(N, 4)`` of the components in a label map ``(H, W)``, and ``(M, 4)`` of those that are specks."""
    rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    if not len(rows):
        return torch.zeros(0, 4), torch.zeros(0, 4)
    top, left = rows[0], columns[0]
    window = labels[top : rows[-1] + 1, left : columns[-1] + 1]
    if window.dtype == bool:
        window = window.view(np.uint8)  # cc3d 4.1 errs with bool images of odd width
    components = cc3d.connected_components(window, connectivity=8)
    slices = find_objects(components)
    boxes = torch.tensor([(x.start, y.start, x.stop, y.stop) for y, x in slices], dtype=torch.float32)
    small = ((boxes[:, 2:] - boxes[:, :2]) < SPECK).all(1).tolist()
    speck = torch.tensor(
        [small[n] and np.count_nonzero(components[slices[n]] == n + 1) < SPECK for n in range(len(slices))]
    )
    boxes += torch.tensor([left, top, left, top])
    return boxes[~speck], boxes[speck]


def merged(boxes: Tensor) -> Tensor:
    """The boxes ``(M, 4)`` round all of ``(N, 4)`` that overlap, directly or through others."""
    number, groups = connected_components((box_iou(boxes, boxes) > 0).numpy(), directed=False)
    members = [boxes[torch.from_numpy(groups == group)] for group in range(number)]
    corners = [torch.cat((m[:, :2].amin(0), m[:, 2:].amax(0))) for m in members]
    return torch.stack(corners) if corners else boxes
