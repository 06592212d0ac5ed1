"""Boxes in images: perturb them, crop feature maps to them, and paste maps back into them.

The boxes of a batch are rows ``(image, x1, y1, x2, y2)``, as in torchvision: the index of an image, and two corners in
pixels, where the first pixel extends from 0 to 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, roi_align

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest logarithm by which a detector scales a box; torchvision's."""


def boxes_of_images(boxes: list[Tensor]) -> Tensor:
    """Concatenate the boxes ``(N_i, 4)`` of every image to ``(N, 5)``."""
    images = [torch.full_like(b[:, :1], index) for index, b in enumerate(boxes)]
    return torch.cat((torch.cat(images), torch.cat(boxes)), 1)


def enlarged(boxes: Tensor, margin: float, share: float) -> Tensor:
    """Enlarge boxes ``(N, 4)`` on every side by a margin in pixels, and at least by a share of their width or height.

    Example:
        >>> enlarged(torch.tensor([[20.0, 20, 30, 120]]), margin=5, share=0.1)
        tensor([[ 15.,  10.,  35., 130.]])
    """
    margins = (share * (boxes[:, 2:] - boxes[:, :2])).clamp_min(margin)
    return torch.cat((boxes[:, :2] - margins, boxes[:, 2:] + margins), 1)


def moved(boxes: Tensor, offsets: Tensor, weights: Sequence[float]) -> Tensor:
    """Move and scale boxes ``(..., 4)`` by a detector's offsets ``(..., 4)`` (Girshick et al., 2014).

    It is torchvision's ``BoxCoder``, which makes a GPU wait.

    Args:
        boxes: two corners.
        offsets: of the centre in widths and heights, and of the logarithms of these.
        weights: factors of x, y, width and height in the offsets.
    """
    x, y, w, h = (offset / weight for offset, weight in zip(offsets.unbind(-1), weights, strict=True))
    shift, scale = torch.stack((x, y), -1), torch.stack((w, h), -1).clamp(max=MAX_LOG_SCALE).exp()
    sides = boxes[..., 2:] - boxes[..., :2]
    center, half = boxes[..., :2] + sides / 2 + shift * sides, scale * sides / 2
    return torch.cat((center - half, center + half), -1)


def perturbed(boxes: Tensor, size: tuple[int, int], shift: float, scale: float) -> Tensor:
    """Perturb the centres and sides of boxes ``(N, 5)`` by normally distributed offsets, eq. 2-5 of DCSNet.

    Args:
        boxes: boxes around which the result is drawn.
        size: (H, W) of the images, to which the result is clamped.
        shift: standard deviation of the centre, in widths and heights of the box.
        scale: standard deviation of width and height, in widths and heights of the box.
    """
    corners = boxes[:, 1:]
    center, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    center = center + shift * sides * torch.randn_like(sides)
    half = (sides + scale * sides * torch.randn_like(sides)) / 2
    corners = clip_boxes_to_image(torch.cat((center - half, center + half), 1), size)
    return torch.cat((boxes[:, :1], corners), 1)


def crop_boxes(x: Tensor, boxes: Tensor, size: int | Sequence[int], stride: int = 1) -> Tensor:
    """Crop maps ``(B, C, H, W)``, whose cells are ``stride`` pixels wide, to boxes ``(N, 5)``: ``(N, C, *size)``.

    Samples are bilinear, or means where they are larger than a cell. Under autocast ``x`` may be in half precision; the
    coordinates stay float32.
    """
    return roi_align(x, boxes, size, spatial_scale=1 / stride, aligned=True)


def paste_boxes(maps: Tensor, boxes: Tensor, onto: Tensor) -> Tensor:
    """Paste maps ``(N, C, h, w)`` into their boxes ``(N, 5)`` of ``onto`` ``(B, C, H, W)``; the maximum counts.

    A pixel belongs to a box if its centre does. There are as many rounds as the fullest image has boxes, and each round
    samples one box of every image at once.
    """
    height, width = onto.shape[2:]
    images = boxes[:, 0].long()
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    same_image = images[:, None] == images
    place = same_image.tril(-1).sum(1)  # index of a box among those of its image
    for index in range(int(place.max()) + 1 if len(place) else 0):
        chosen = torch.where(place == index)[0]
        _, x1, y1, x2, y2 = boxes[chosen, :, None].unbind(1)
        u, v = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)  # 0 .. 1 across the box
        inside = ((u >= 0) & (u < 1))[:, None, None, :] & ((v >= 0) & (v < 1))[:, None, :, None]
        shape = (len(chosen), height, width)
        grid = 2 * torch.stack((u[:, None, :].expand(shape), v[:, :, None].expand(shape)), -1) - 1
        sampled = F.grid_sample(maps[chosen].float(), grid, padding_mode="border", align_corners=False)
        below = onto[images[chosen]]
        onto = onto.index_copy(0, images[chosen], torch.where(inside, sampled.to(onto.dtype), below).maximum(below))
    return onto
