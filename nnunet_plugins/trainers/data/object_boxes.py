"""Boxes of the objects in a patch, which are the connected components of its segmentation."""

import cc3d
import numpy as np
import torch
from scipy.ndimage import binary_dilation, find_objects
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from nnunet_plugins.architectures.layers.boxes import boxes_of_images, enlarged
from nnunet_plugins.architectures.layers.detector import Objects
from nnunet_plugins.architectures.layers.operators import define
from nnunet_plugins.losses.common import LabelFormat

SPECK = 3
"""Pixels of the smallest component with a box of its own, and the smallest side of a box without its margin."""

SUPPOSED_OBJECTS = 32
"""Objects in an image without data, as in an estimate of memory: more than a training step looks at."""


def objects_in(target: Tensor, label_format: LabelFormat, margin: float = 0.0, share: float = 0.0) -> Objects:
    """Find the objects to detect in a batch, on the CPU.

    Every component (of 8 neighbours) of every class or region is an object; components with the same box are one.
    Components of fewer than three pixels share a box with others whose 3x3 neighbourhoods touch theirs.

    Args:
        target: nnU-Net's target at full resolution: labels ``(B, 1, H, W)``, or regions
            ``(B, K [+ 1 if ignore], H, W)``.
        label_format: of the dataset.
        margin: pixels by which a box exceeds its object on every side, but at most to the patch's border.
        share: least margin as a share of the object's width (left and right) and height (above and below).
    """
    annotated, target = None, target.cpu()
    if label_format.ignore_label is not None:
        annotated = ~target[:, -1:].bool() if label_format.regions else target != label_format.ignore_label
        target = (target[:, :-1] if label_format.regions else target) * annotated
    return Objects(OBJECT_BOXES(target, margin, share), annotated)


def boxes_of_batch(maps: Tensor, margin: float, share: float) -> Tensor:
    """Find the objects in label maps ``(B, M, H, W)``: ``(N, 5)``."""
    return boxes_of_images([object_boxes(of_image.numpy(), margin, share) for of_image in maps])


def empty_boxes(maps: Tensor, margin: float, share: float) -> Tensor:
    """Make an empty tensor for the objects in label maps ``(B, M, H, W)`` without data."""
    return maps.new_empty(len(maps) * SUPPOSED_OBJECTS, 5, dtype=torch.float32)


OBJECT_BOXES = define("object_boxes(Tensor maps, float margin, float share) -> Tensor", boxes_of_batch, empty_boxes)


def object_boxes(maps: np.ndarray, margin: float, share: float) -> Tensor:
    """Find the objects in an image's label maps ``(M, H, W)``: boxes ``(N, 4)`` float32, two corners in pixels."""
    specks = np.zeros(maps.shape[1:], bool)
    boxes = [box for labels in maps for box in component_boxes(labels, specks)]
    if specks.any():
        around = binary_dilation(np.pad(specks, 1), np.ones((3, 3)))
        boxes += [[corner - 1 for corner in box] for box in component_boxes(around)]
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    missing = (SPECK - (corners[:, 2:] - corners[:, :2])).clamp_min(0) / 2
    corners = torch.cat((corners[:, :2] - missing, corners[:, 2:] + missing), 1)
    return clip_boxes_to_image(enlarged(corners, margin, share), specks.shape).unique(dim=0)


def component_boxes(labels: np.ndarray, specks: np.ndarray | None = None) -> list[list[int]]:
    """Find the corners of the components in a label map ``(H, W)``.

    Args:
        labels: the label map.
        specks: map in which to mark components of fewer than three pixels instead; ``None`` gives them boxes too.
    """
    rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    window = labels[top : rows[-1] + 1, left : columns[-1] + 1]
    if window.dtype == bool:
        window = window.view(np.uint8)  # cc3d 4.1 errs with bool images of odd width
    components = cc3d.connected_components(window, connectivity=8)
    boxes = []
    for number, (y, x) in enumerate(find_objects(components), start=1):
        if specks is not None and max(y.stop - y.start, x.stop - x.start) < SPECK:
            pixels = components[y, x] == number
            if pixels.sum() < SPECK:
                specks[top + y.start : top + y.stop, left + x.start : left + x.stop] |= pixels
                continue
        boxes.append([left + x.start, top + y.start, left + x.stop, top + y.stop])
    return boxes
