"""Strong photometric augmentation of normalised patches on their device: ConDSeg's Aug in eq. 1.

Brightness, contrast, saturation, hue, grayscale and Gaussian blur, for any number of channels; positions stay. Ranges
and probabilities are those of SimCLR's colour distortion at half strength (Chen et al., ICML 2020). Normalised images
have no black and white: each channel's darkest and brightest values in the patch take their place.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

JITTER_PROBABILITY = 0.8
BRIGHTNESS = CONTRAST = SATURATION = (0.6, 1.4)
HUE = (-0.1, 0.1)  # of a full turn
GRAYSCALE_PROBABILITY = 0.2
BLUR_PROBABILITY = 0.5
BLUR_SIGMA = (0.1, 2.0)  # pixels
BLUR_RADIUS = 6

LUMA = (0.299, 0.587, 0.114)
RGB_TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@torch.no_grad()
def strongly_augmented(images: Tensor) -> Tensor:
    """Augment ``(B, C, H, W)``, every image with random numbers of its own from its device's generator."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    jittered = random_choice(images, JITTER_PROBABILITY)
    x = images
    x = adjust_brightness(x, torch.where(jittered, uniform(images, *BRIGHTNESS), 1.0), low)
    x = adjust_contrast(x, torch.where(jittered, uniform(images, *CONTRAST), 1.0))
    x = adjust_saturation(x, torch.where(jittered, uniform(images, *SATURATION), 1.0))
    if images.shape[1] == 3:
        x = adjust_hue(x, torch.where(jittered, uniform(images, *HUE), 0.0))
    x = x.clamp(low, high)
    x = adjust_saturation(x, torch.where(random_choice(images, GRAYSCALE_PROBABILITY), 0.0, 1.0))
    sigma = uniform(images, *BLUR_SIGMA)
    return gaussian_blur(x, torch.where(random_choice(images, BLUR_PROBABILITY), sigma, 0.0))


def uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw a number for each image, ``(B, 1, 1, 1)``."""
    return torch.empty((images.shape[0], 1, 1, 1), device=images.device).uniform_(low, high)


def random_choice(images: Tensor, probability: float) -> Tensor:
    return uniform(images, 0, 1) < probability


def adjust_brightness(x: Tensor, factor: Tensor, black: Tensor) -> Tensor:
    """Scale distances from black, which is ``(B, C, 1, 1)``, by a factor for each image."""
    return black + factor * (x - black)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale distances from each channel's mean."""
    return x.mean((2, 3), keepdim=True).lerp(x, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale distances of the channels from gray, which is the luma of RGB, and the mean of other channels."""
    luma = x.new_tensor(LUMA).view(1, 3, 1, 1) if x.shape[1] == 3 else 1 / x.shape[1]
    gray = (luma * x).sum(1, keepdim=True)
    return gray.lerp(x, factor)


def adjust_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the chroma of ``(B, 3, H, W)`` RGB in the YIQ colour space, which leaves the luma as it is."""
    to_yiq = torch.tensor(RGB_TO_YIQ)
    to_rgb, to_yiq = to_yiq.inverse().to(x), to_yiq.to(x)
    angle = 2 * math.pi * turn.flatten()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [[one, zero, zero], [zero, angle.cos(), angle.sin()], [zero, -angle.sin(), angle.cos()]]
    rotation = torch.stack([torch.stack(row, 1) for row in rows], 1)  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", to_rgb @ rotation @ to_yiq, x)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``(B, C, H, W)`` with a standard deviation in pixels for each image, 0 for none; borders are continued."""
    batch, channels, height, width = x.shape
    distance = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=x.device)
    kernels = (-0.5 * (distance / sigma.flatten(1).clamp_min(1e-3)) ** 2).exp()  # (B, 2R + 1)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    maps = F.pad(x.reshape(1, batch * channels, height, width), (BLUR_RADIUS,) * 4, mode="replicate")
    maps = F.conv2d(maps, kernels[:, :, None], groups=batch * channels)
    return F.conv2d(maps, kernels[..., None], groups=batch * channels).view_as(x)
