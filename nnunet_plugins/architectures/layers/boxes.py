"""Boxes in images: perturbing them, cutting maps out of them, and pasting maps back.

Boxes of a batch are rows ``(image, x1, y1, x2, y2)``, as torchvision has it: the index of an image, and two corners in
pixels, where the first pixel reaches from 0 to 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, roi_align


def boxes_of_images(boxes: list[Tensor]) -> Tensor:
    """``(N_i, 4)`` of every image as one ``(N, 5)``."""
    images = [torch.full_like(b[:, :1], index) for index, b in enumerate(boxes)]
    return torch.cat((torch.cat(images), torch.cat(boxes)), 1)


def perturbed(boxes: Tensor, size: tuple[int, int], shift: float, scale: float) -> Tensor:
    """Boxes ``(N, 5)`` with centres and sides drawn from normal distributions; eq. 2-5 of DCSNet.

    Args:
        boxes: of which the sides are the unit of what follows.
        size: (H, W) of the images, to which the result is clamped.
        shift: standard deviation of the centre.
        scale: standard deviation of width and height.
    """
    corners = boxes[:, 1:]
    center, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    center = center + shift * sides * torch.randn_like(sides)
    half = (sides + scale * sides * torch.randn_like(sides)) / 2
    corners = clip_boxes_to_image(torch.cat((center - half, center + half), 1), size)
    return torch.cat((boxes[:, :1], corners), 1)


def crop_boxes(x: Tensor, boxes: Tensor, size: int, stride: int = 1) -> Tensor:
    """Sample ``(B, C, H, W)``, whose cells are ``stride`` pixels wide, in boxes ``(N, 5)``: ``(N, C, size, size)``.

    Bilinear, and the mean where a sample is larger than a cell. Under autocast ``x`` may be in half precision; the
    coordinates stay float32.
    """
    return roi_align(x, boxes, size, spatial_scale=1 / stride, aligned=True)


def paste_boxes(maps: Tensor, boxes: Tensor, onto: Tensor) -> Tensor:
    """Put maps ``(N, C, h, w)`` back into their boxes ``(N, 5)`` of ``onto`` ``(B, C, H, W)``: the maximum of all.

    A pixel belongs to a box if its centre does. One round for every box of the image with the most of them; every round
    samples all images at once.
    """
    height, width = onto.shape[2:]
    images = boxes[:, 0].long()
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    same_image = images[:, None] == images
    place = same_image.tril(-1).sum(1)  # of a box among those of its image
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
