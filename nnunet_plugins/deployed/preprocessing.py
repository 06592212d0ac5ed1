"""From a case's image to what the network sees, and the way back of its segmentation: nnU-Net's preprocessing."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from nnunet_plugins.deployed.images import Image
from nnunet_plugins.deployed.model import Model
from nnunet_plugins.deployed.normalization import SCHEMES
from nnunet_plugins.deployed.resampling import FUNCTIONS, new_shape
from nnunet_plugins.errors import UserError


class Prepared(NamedTuple):
    """An image as the network sees it, and what the way back needs."""

    data: np.ndarray
    """``(C, *S)``, at the model's spacing."""
    spacing: list[float]
    """Spacing of :attr:`data`."""
    original_spacing: list[float]
    original_shape: tuple[int, ...]
    box: tuple[slice, ...]
    """The part of the image that is not zero, to which it was cropped."""

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.box)


def prepare(image: Image, model: Model) -> Prepared:
    """Transpose, crop to what is not zero, normalise and resample.

    Raises:
        UserError: at the model's spacing nothing is left of the image.
    """
    data = image.data.transpose(0, *(axis + 1 for axis in model.transpose_forward))
    original_spacing = [image.spacing[axis] for axis in model.transpose_forward]
    # A network of images leaves the distance of a volume's slices as it is.
    spacing = [*original_spacing[: 3 - len(model.spacing)], *model.spacing]
    mask = ndimage.binary_fill_holes(np.any(data != 0, 0))
    box = bounding_box(mask)
    mask, cropped = mask[box], data[(slice(None), *box)]
    shape = new_shape(cropped.shape[1:], original_spacing, spacing)
    if 0 in shape:
        raise UserError(
            f"It has the spacing {image.spacing} and, at the model's {spacing}, not one voxel along an axis: correct "
            "the spacing in its file, or give a thicker image"
        )
    step = model.resampling["data"]
    channels = []
    for channel, norm in zip(cropped, model.normalization, strict=True):
        within = mask if norm["use_mask"] else None
        normalized = SCHEMES[norm["scheme"]](channel.copy(), within, norm.get("intensities", {}))
        channels.append(FUNCTIONS[step["function"]](normalized, shape, original_spacing, spacing, **step["kwargs"]))
    return Prepared(np.stack(channels), spacing, original_spacing, data.shape[1:], box)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around a mask; around everything if the mask is empty."""
    if not mask.any():
        return tuple(slice(0, length) for length in mask.shape)
    others = ((1, 2), (0, 2), (0, 1))
    inside = [np.flatnonzero(mask.any(axes)) for axes in others]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in inside)


def segment(logits: np.ndarray, prepared: Prepared, model: Model) -> np.ndarray:
    """Turn logits ``(K, *S)`` of the prepared image into labels of the original one.

    One class after the other is resampled, so that the memory that it takes does not grow with their number.
    """
    labels = np.zeros(prepared.original_shape, f"u{model.bytes_of_labels}")
    found, step = labels[prepared.box], model.resampling["probabilities"]
    highest: np.ndarray | None = None
    for index, coarse in enumerate(logits):
        logit = FUNCTIONS[step["function"]](
            coarse, prepared.cropped_shape, prepared.spacing, prepared.original_spacing, **step["kwargs"]
        )
        if model.regions_class_order is not None:
            found[logit > 0] = model.regions_class_order[index]  # a probability of more than a half
        elif highest is None:
            highest = np.array(logit)
        else:
            found[logit > highest] = index
            np.maximum(highest, logit, out=highest)
    return labels.transpose(model.transpose_backward)
