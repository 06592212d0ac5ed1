"""Strong photometric augmentation of normalised patches on their device: ConDSeg's Aug in eq. 1.

Brightness, contrast, saturation, hue, grayscale and Gaussian blur, for any number of channels; positions stay. The
paper gives no numbers; ranges and probabilities are those of the authors' code. Normalised images have no black and
white: each channel's darkest and brightest values in the patch take their place, whatever the normalisation. The
channels of volumes are modalities, which have no colour in common: brightness, contrast and blur are theirs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BRIGHTNESS = CONTRAST = SATURATION = (0.7, 1.3)
HUE = (-0.1, 0.1)  # of a full turn
GRAYSCALE_PROBABILITY = 0.5
BLUR_SIGMA = (0.1, 3.0)  # pixels
BLUR_RADIUS = 3  # seven rows

LUMA = (0.299, 0.587, 0.114)


@torch.no_grad()
def strongly_augmented(images: Tensor) -> Tensor:
    """Augment ``(B, C, *S)``, every image with random numbers of its own from its device's generator."""
    axes = tuple(range(2, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    x = (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)  # black is 0, white is 1
    x = adjust_brightness(x, uniform(images, *BRIGHTNESS)).clamp(0, 1)
    x = adjust_contrast(x, uniform(images, *CONTRAST)).clamp(0, 1)
    if images.ndim == 4:
        x = adjust_colours(x)
    return low + (high - low) * blur_columns(x, uniform(images, *BLUR_SIGMA))


def uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw a number for each image, ``(B, 1, 1, 1)`` or as many axes as the images have."""
    shape = (images.shape[0], *[1] * (images.ndim - 1))
    return torch.empty(shape, device=images.device).uniform_(low, high)


def adjust_colours(x: Tensor) -> Tensor:
    """Change saturation and, of RGB, hue, and turn half of the images gray: ``(B, C, H, W)`` to the same."""
    x = adjust_saturation(x, uniform(x, *SATURATION)).clamp(0, 1)
    if x.shape[1] == 3:
        x = adjust_hue(x, uniform(x, *HUE))
    becomes_gray = uniform(x, 0, 1) < GRAYSCALE_PROBABILITY
    return adjust_saturation(x, torch.where(becomes_gray, 0.0, 1.0))


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale distances from black, 0, by a factor for each image."""
    return factor * x


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale distances from the mean: that of the luma of RGB, and each channel's own of other channels."""
    around = gray(x) if x.ndim == 4 and x.shape[1] == 3 else x
    return around.mean(tuple(range(2, x.ndim)), keepdim=True).lerp(x, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale distances of the channels from gray."""
    return gray(x).lerp(x, factor)


def gray(x: Tensor) -> Tensor:
    """Return the luma of RGB, and the mean of other channels, ``(B, 1, H, W)``."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x.new_tensor(LUMA).view(1, 3, 1, 1) * x).sum(1, keepdim=True)


def adjust_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of ``(B, 3, H, W)`` RGB in the HSV colour space."""
    value, brightest = x.max(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    sextants = torch.cat((green - blue, blue - red, red - green), 1) / chroma.clamp_min(torch.finfo(x.dtype).tiny)
    hue = (sextants + x.new_tensor((0, 2, 4)).view(1, 3, 1, 1)).gather(1, brightest) + 6 * turn
    distance = (hue + x.new_tensor((5, 3, 1)).view(1, 3, 1, 1)) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


def blur_columns(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``(B, C, *S)`` along the last axis but one, H, with a standard deviation in pixels for each image.

    Borders are continued. The authors' kernel has one column and seven rows.
    """
    batch, channels, *_, height, width = x.shape
    distance = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=x.device)
    kernels = (-0.5 * (distance / sigma.flatten(1)) ** 2).exp()  # (B, 2R + 1)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, :, None]
    maps = x.reshape(batch * channels, -1, height, width).transpose(0, 1)  # slices of a volume side by side
    maps = F.pad(maps, (0, 0, BLUR_RADIUS, BLUR_RADIUS), mode="replicate")
    return F.conv2d(maps, kernels, groups=batch * channels).transpose(0, 1).reshape(x.shape)
